import dataclasses
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from commands import ON_FOLDER, assert_one_clear_line
from samples import save_model
from strategies import generator

from mnist import architecture, cli, gate, recipes
from mnist.cli import process, tables
from mnist.gate import performance
from mnist.storage import artifacts
from mnist.storage.card import Origin


def test_gate_ships_a_good_model_and_lists_every_criterion(mnist, model, tmp_path):
    finished = mnist("gate")
    assert finished.code == 0
    assert finished.out.splitlines()[-2].startswith("SHIP")
    assert model.name in finished.out
    assert "test split, 1,000 images" in finished.out
    report = json.loads((tmp_path / "reports" / model.stem / "report.json").read_text(encoding="utf-8"))
    assert report["decision"] == "ship"
    for criterion in gate.CRITERIA:
        assert criterion.name in finished.out
        assert criterion.name in [verdict["criterion"] for verdict in report["verdicts"]]


@pytest.fixture
def undecided_policy(trained, subset, tmp_path) -> Path:
    """A policy whose bound on accuracy is what the model has, so that a thousand images cannot decide."""
    accuracy = performance.evaluate(trained.model, subset.test).accuracy
    assert accuracy < 1
    policy = gate.POLICY.read_text(encoding="utf-8").replace(
        "accuracy = { at_least = 0.95 }", f"accuracy = {{ at_least = {accuracy} }}"
    )
    (tmp_path / "policy.toml").write_text(policy, encoding="utf-8")
    return tmp_path / "policy.toml"


@pytest.mark.slow
def test_gate_warns_of_undecided_criteria_on_the_subset_only(mnist, model, undecided_policy):
    finished = mnist("gate", "--policy", undecided_policy)
    assert finished.code == 0
    assert re.fullmatch(rf"SHIP, with \d of {len(gate.CRITERIA)} criteria undecided", finished.out.splitlines()[-2])
    (line,) = (line for line in finished.out.splitlines() if line.startswith("accuracy: "))
    assert re.search(r"too few images to decide( \(about .* would\))?; this passes with a WARNING", line)
    blocking = undecided_policy.read_text(encoding="utf-8").replace('undecided = "warn"', 'undecided = "block"')
    undecided_policy.write_text(blocking, encoding="utf-8")
    finished = mnist("gate", "--policy", undecided_policy)
    assert finished.code == process.BLOCKED
    assert finished.out.splitlines()[-2].startswith("BLOCKED by: accuracy")


def test_gate_blocks_an_untrained_model_with_exit_code_1(mnist, tmp_path):
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "model.pth")
    finished = mnist("gate", "model.pth", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    assert "BLOCKED by: accuracy, digit-accuracy" in finished.out
    assert "WARNING: the model may have been trained on the images that it is measured on" in finished.err


@pytest.mark.slow
def test_gate_warns_that_training_images_are_unknown(mnist, trained, tmp_path):
    torch.save(trained.model.state_dict(), tmp_path / "no card.pth")
    finished = mnist("gate", "no card.pth", "--dataset", "subset")
    assert finished.code == 0
    (line,) = (line for line in finished.out.splitlines() if line.startswith("possibly-seen-images: "))
    assert "not measurable without a record of the training images; this passes with a WARNING" in line
    policy = gate.POLICY.read_text(encoding="utf-8").replace('unmeasurable = "warn"', 'unmeasurable = "block"')
    (tmp_path / "strict.toml").write_text(policy, encoding="utf-8")
    finished = mnist("gate", "no card.pth", "--dataset", "subset", "--policy", "strict.toml")
    assert finished.code == process.BLOCKED
    assert finished.out.splitlines()[-2] == "BLOCKED by: possibly-seen-images"


def test_gate_blocks_a_model_with_nan_as_not_measured(mnist, trained, tmp_path):
    state = trained.model.state_dict() | {"conv1.bias": torch.full((6,), math.nan)}
    torch.save(state, tmp_path / "nan.pth")
    finished = mnist("gate", "nan.pth", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    assert "accuracy: not measured, must be >= 95.00%" in finished.out
    assert "weights-not-finite: 6, must be <= 0: not met" in finished.out


def test_gate_blocks_a_model_worse_than_the_baseline(mnist, model, trained, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    state["fc2.bias"][3] += 4  # sees a 3 too often
    torch.save(state, tmp_path / "worse.pth")
    policy = tmp_path / "lenient.toml"
    policy.write_text(
        gate.POLICY.read_text(encoding="utf-8").replace(
            "possibly-seen-images = { at_most = 0 }", "possibly-seen-images = { at_most = 1e9 }"
        ),
        encoding="utf-8",
    )
    options = ("--dataset", "subset", "--policy", policy)
    worse = mnist("gate", "worse.pth", "--baseline", model, *options)
    assert worse.code == process.BLOCKED
    assert "regression" in worse.out.splitlines()[-2]
    better = mnist("gate", model, "--baseline", "worse.pth", *options)
    assert better.code == 0
    report = json.loads((tmp_path / "reports" / "worse" / "report.json").read_text(encoding="utf-8"))
    assert sum(report["comparison"]["lost_per_digit"]) > sum(report["comparison"]["gained_per_digit"])


@pytest.mark.slow
def test_gate_annotates_failures_in_github_actions(mnist, model, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("what was there\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "bad.pth")
    finished = mnist("gate", "bad.pth", "--dataset", "subset")
    errors = [line for line in finished.out.splitlines() if line.startswith("::error")]
    assert any(line.startswith("::error title=accuracy::accuracy: ") and "%25" in line for line in errors)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("what was there\n## 🔴 Blocked: bad.pth")
    written = (tmp_path / "reports" / "bad" / "summary.md").read_text(encoding="utf-8")
    assert text == f"what was there\n{written}"
    assert all(f"| {criterion.name} |" in text for criterion in gate.CRITERIA)
    mnist("gate", model)
    assert "🟢 Ship" in summary.read_text(encoding="utf-8")


def test_gate_annotates_warnings_in_github_actions(mnist, model, undecided_policy, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out = mnist("gate", "--policy", undecided_policy).out
    assert "::warning title=accuracy::" in out
    assert "::error" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "code"), [({}, process.BLOCKED), ({"epochs": 2.0}, 0)])
def test_gate_applies_the_bounds_of_an_unchanged_recipe(mnist, trained, subset, tmp_path, changes, code):
    recipe = dataclasses.replace(recipes.get("standard").scaled_to(len(subset.train)), **changes)
    save_model(trained.model, tmp_path / "models", data=subset, recipe=vars(recipe))
    policy = tmp_path / "policy.toml"
    stricter = "\n[recipes.standard.bounds]\nparameters = { at_most = 15_000 }\n"
    policy.write_text(gate.POLICY.read_text(encoding="utf-8") + stricter, encoding="utf-8")
    finished = mnist("gate", "--policy", policy)
    assert finished.code == code
    assert (finished.out.splitlines()[-2] == "BLOCKED by: parameters") is (code == process.BLOCKED)


def test_gate_annotates_nothing_outside_github_actions(mnist, tmp_path):
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "bad.pth")
    assert "::error" not in mnist("gate", "bad.pth", "--dataset", "subset").out


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_gate_prints_on_a_stream_of_any_encoding(model, monkeypatch, encoding):
    binary = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(binary, encoding=encoding, write_through=True))
    monkeypatch.setattr(tables, "out", tables.Console(width=100))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["gate"])
    shown = binary.getvalue().decode(encoding)
    assert re.search("10 deg (left|right)" if encoding == "ascii" else "10° (left|right)", shown)
    assert "SHIP" in shown


@pytest.mark.slow
def test_gate_warns_of_a_baseline_that_shows_nothing(mnist, model, trained, tmp_path):
    options = ("--dataset", "subset")
    same = mnist("gate", model, "--baseline", model, *options)
    assert (same.code, "WARNING: the baseline is the same model" in same.err) == (0, True)
    weights = {name: torch.full_like(tensor, 1e30) for name, tensor in trained.model.state_dict().items()}
    torch.save(weights, tmp_path / "broken.pth")
    broken = mnist("gate", model, "--baseline", "broken.pth", *options)
    assert broken.code == process.BLOCKED
    assert "WARNING: the model cannot be compared, because of the baseline: " in broken.err


@pytest.mark.slow
def test_gate_finds_the_training_folder_again(mnist, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    assert mnist("train", "--dataset", "./photos/", *ON_FOLDER).code == 0
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.dataset.name == "photos"
    finished = mnist("gate")
    assert finished.code == process.BLOCKED, "two epochs of 20 images are not enough"
    assert "measured on: photos, test split, 10 images" in finished.out
    assert re.search(r"possibly-seen-images +0 ", finished.out)
    shutil.rmtree(tmp_path / "photos")
    assert_one_clear_line(mnist("gate"), "no data set is called 'photos', and no folder")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "origin", "may_have_seen"),
    [
        ("photos", ("mnist", "photos"), True),
        ("emnist-digits", None, True),
        ("photos", ("fashion-mnist", "photos"), False),
    ],
)
def test_gate_blocks_on_images_seen_before_fine_tuning(mnist, trained, tmp_path, dataset, origin, may_have_seen):
    init = Origin("a.pth", "5e" * 32, origin) if origin else None
    path = save_model(trained.model, tmp_path / "models", dataset={"name": dataset}, init=init)
    finished = mnist("gate", path, "--dataset", "subset")
    warning = "WARNING: the model may have been trained on 1,000 of the 1,000 images that it is measured on"
    assert (warning in finished.err) is may_have_seen
    assert (finished.out.splitlines()[-2] == "BLOCKED by: possibly-seen-images") is may_have_seen
    assert finished.code == (process.BLOCKED if may_have_seen else 0)
