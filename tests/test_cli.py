import contextlib
import copy
import dataclasses
import errno
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import pickle
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import save_model
from strategies import PATIENCE, archives_of, generator, idx_bytes, printed, tiny_mnist, write_printed, write_raw

from mnist import architecture, cli, datasets, files, gate, recipes, resources, trainer, transforms
from mnist.cli import display, process
from mnist.datasets import mnist as reader
from mnist.deploy import export as exporting
from mnist.deploy import inference, page
from mnist.gate import measurement
from mnist.report import figures
from mnist.storage import artifacts, checkpoints
from mnist.storage.card import Origin

QUICK = ("--dataset", "subset", "--epochs", 1, "--device", "cpu", "--no-gate")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(measurement, "IMAGES_PER_PROBE", 200)
    monkeypatch.setattr(measurement, "TRAINING_SAMPLE", 1000)


@pytest.fixture
def model(trained, tmp_path):
    """A good model in models/, with a card by which it answers every digit that is found."""
    return save_model(trained.model, tmp_path / "models", measured={"threshold": 0})


def assert_one_clear_line(finished, *words):
    assert finished.code == process.BAD_INPUT, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    for word in words:
        assert word in finished.err


# ---- What works ------------------------------------------------------------------------------------------------------


def test_without_a_command_help_is_shown(mnist):
    finished = mnist()
    assert finished.code == 0
    assert all(f"\n  {command} " in finished.out for command in cli.cli.commands)


@pytest.mark.parametrize("command", ["data", "train", "augment", "gate", "export"])
def test_every_command_explains_itself(mnist, command):
    finished = mnist(command, "--help")
    assert finished.code == 0
    assert "MNIST_MIRROR" in finished.out


def test_every_field_of_a_recipe_is_an_option_of_train(mnist):
    text = mnist("train", "--help").out
    assert all(f"--{field.name.replace('_', '-')}" in text for field in recipes.Recipe.options())


def test_help_and_bad_options_need_no_torch():
    program = (
        "import sys; from mnist import cli\ntry: cli.main(['train', '--recipe', 'nope'])\nexcept SystemExit: pass\n"
    )
    program += "print('torch' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "False\n"


def test_the_package_can_be_run_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mnist", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("mnist", run_name="__main__")
    assert capsys.readouterr().out.startswith("mnist, version ")


def test_the_version_is_that_of_the_package(mnist):
    assert importlib.metadata.version("mnist") in mnist("--version").out


def test_data_counts_the_images_of_each_digit(mnist):
    finished = mnist("data", "--dataset", "subset")
    assert finished.code == 0
    assert finished.out.count(" 400 ") == finished.out.count(" 100 ") == 10


def test_train_saves_a_model_with_a_card_and_says_what_it_was_measured_on(mnist, tmp_path):
    finished = mnist("train", *QUICK, "--seed", 7)
    assert finished.code == 0
    path = artifacts.newest(tmp_path / "models")
    assert finished.out.splitlines()[-1] == str(path.relative_to(tmp_path))
    for word in ("accuracy on digit 9", "images/s", "peak memory", "CPU use", "held-out part, 1,000 images"):
        assert word in finished.out
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["recipe"] == {**vars(recipes.get("standard")), "seed": 7}
    assert card["dataset"]["name"] == "subset"
    assert card["training"]["images"] == 4000
    assert f"{card['measured']['accuracy']:.2%}" in finished.out


def test_training_progress_is_plain_lines_where_there_is_no_terminal(mnist):
    finished = mnist("train", *QUICK)
    lines = [line for line in finished.out.splitlines() if line.startswith("epoch")]
    assert 5 <= len(lines) <= 10
    assert all(word in lines[-1] for word in ("step 63/63", "epoch 1/1", "loss", "accuracy", "images/s", "0 s left"))
    assert "\x1b" not in finished.out


def test_training_progress_is_a_bar_on_a_terminal(mnist, monkeypatch):
    monkeypatch.setattr(display, "out", display.Console(force_terminal=True, legacy_windows=False, width=140))
    finished = mnist("train", *QUICK)
    assert "━" in finished.out
    assert "63/63" in finished.out


def test_on_less_data_a_recipe_runs_for_as_many_steps(tmp_path, monkeypatch):
    def stop(recipe, *arguments, **options):
        raise StopIteration(recipe.epochs)

    monkeypatch.setattr(trainer, "train", stop)
    with pytest.raises(StopIteration, match="15"):
        cli.main(["train", "--dataset", "subset", "--models-dir", str(tmp_path)])


def test_augment_draws_a_picture_and_the_seed_decides_it(mnist, tmp_path):
    pictures = []
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        finished = mnist(
            "augment", "--dataset", "subset", "--seed", seed, "--columns", 5, "--draws", 2, "--output", name
        )
        assert (finished.code, finished.out) == (0, f"{name}\n")
        pictures.append(Image.open(tmp_path / name).tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_augment_shows_each_digit_above_versions_that_differ_from_it_and_each_other(mnist, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "draw_augmentation", lambda *arguments: drawn.append(arguments))
    mnist("augment", "--dataset", "subset", "--columns", 12, "--draws", 3)
    originals, augmented, names, subtitle, _ = drawn[0]
    assert names == [*"012345678901"]
    assert augmented.shape == (3, 12, 28, 28)
    assert len(torch.cat([originals[None], augmented]).flatten(0, 1).flatten(1).unique(dim=0)) == 48
    assert "offline subset" in subtitle


def test_train_ends_with_the_gate(mnist, tmp_path):
    finished = mnist("train", "--dataset", "subset", "--epochs", 5, "--device", "cpu")
    assert finished.code == 0, finished.out
    path = artifacts.newest(tmp_path / "models")
    assert "SHIP" in finished.out
    assert finished.out.splitlines()[-1] == f"report: {Path('reports') / path.stem / 'report.html'}"


def test_train_keeps_a_model_that_must_not_ship_and_exits_with_1(mnist, tmp_path):
    finished = mnist("train", "--dataset", "subset", "--epochs", 0.1, "--device", "cpu")
    assert finished.code == process.BLOCKED
    assert "BLOCKED by: accuracy" in finished.out
    assert artifacts.newest(tmp_path / "models")


def test_train_says_what_to_do_about_a_blocked_baseline(mnist):
    options = ("--dataset", "subset", "--epochs", 0.1, "--device", "cpu")
    finished = mnist("train", "--recipe", "baseline", *options)
    assert finished.code == process.BLOCKED
    last = finished.out.splitlines()[-1]
    assert "make train RECIPE=standard" in last
    assert last not in mnist("train", *options).out


@pytest.mark.parametrize(("busy", "threads", "warns"), [(1.0, 2, True), (0.2, 2, False), (1.0, 1, False)])
def test_train_warns_once_of_other_load(mnist, monkeypatch, busy, threads, warns):
    monkeypatch.setattr("mnist.cli.train.SECONDS_BEFORE_LOAD_WARNING", 0)
    monkeypatch.setattr(resources, "OtherLoad", lambda: SimpleNamespace(seconds=1, processors=2, busy=lambda: busy))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finished = mnist("train", *QUICK)
    assert finished.code == 0
    assert finished.err.count("WARNING: other processes keep 1.0 of 2 processors busy") == warns


def test_the_gate_ships_a_good_model_and_prints_and_writes_every_criterion(mnist, model, tmp_path):
    finished = mnist("gate")
    assert finished.code == 0
    assert finished.out.splitlines()[-2].startswith("SHIP")
    assert model.name in finished.out
    assert "held-out part, 1,000 images" in finished.out
    report = json.loads((tmp_path / "reports" / model.stem / "report.json").read_text(encoding="utf-8"))
    assert report["decision"] == "ship"
    for criterion in gate.CRITERIA:
        assert criterion.name in finished.out
        assert criterion.name in [verdict["criterion"] for verdict in report["verdicts"]]


@pytest.fixture
def undecided_policy(trained, subset, tmp_path) -> Path:
    """A policy whose bound on accuracy is what the model has, so that a thousand images cannot decide."""
    accuracy = measurement.evaluate(trained.model, subset.test).accuracy
    assert accuracy < 1
    policy = gate.POLICY.read_text(encoding="utf-8").replace(
        "accuracy = { at_least = 0.95 }", f"accuracy = {{ at_least = {accuracy} }}"
    )
    (tmp_path / "policy.toml").write_text(policy, encoding="utf-8")
    return tmp_path / "policy.toml"


def test_on_the_subset_what_is_undecided_is_a_loud_warning_and_elsewhere_it_blocks(mnist, model, undecided_policy):
    finished = mnist("gate", "--policy", undecided_policy)
    assert finished.code == 0
    assert re.fullmatch(r"SHIP, with \d of 25 criteria undecided", finished.out.splitlines()[-2])
    (line,) = (line for line in finished.out.splitlines() if line.startswith("accuracy: "))
    assert "too few images to decide; the policy lets this pass with a WARNING" in line
    blocking = undecided_policy.read_text(encoding="utf-8").replace('undecided = "warn"', 'undecided = "block"')
    undecided_policy.write_text(blocking, encoding="utf-8")
    finished = mnist("gate", "--policy", undecided_policy)
    assert finished.code == process.BLOCKED
    assert finished.out.splitlines()[-2].startswith("BLOCKED by: accuracy")


def test_the_gate_blocks_an_untrained_model_with_exit_code_1(mnist, tmp_path):
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "model.pth")
    finished = mnist("gate", "model.pth", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    assert "BLOCKED by: possibly-seen-images, accuracy, digit-accuracy" in finished.out
    assert "WARNING: the model may have been trained on the images it is measured on" in finished.err


def test_the_gate_does_not_ship_on_images_that_the_model_may_have_been_trained_on(mnist, trained, tmp_path):
    torch.save(trained.model.state_dict(), tmp_path / "no card.pth")
    finished = mnist("gate", "no card.pth", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    assert finished.out.splitlines()[-2] == "BLOCKED by: possibly-seen-images"


def test_the_gate_blocks_a_model_with_a_nan_in_it_and_says_that_the_rest_was_not_measured(mnist, trained, tmp_path):
    state = trained.model.state_dict() | {"conv1.bias": torch.full((6,), math.nan)}
    torch.save(state, tmp_path / "nan.pth")
    finished = mnist("gate", "nan.pth", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    assert "accuracy: not measured, must be >= 95.00%" in finished.out
    assert "weights-not-finite: 6, must be <= 0: not met" in finished.out


def test_a_model_that_is_worse_than_the_last_release_is_blocked_and_a_better_one_is_not(
    mnist, model, trained, tmp_path
):
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


def test_in_github_actions_what_blocks_is_annotated_and_the_verdicts_are_in_the_summary(
    mnist, model, tmp_path, monkeypatch
):
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


def test_in_github_actions_a_warning_is_annotated_as_one(mnist, model, undecided_policy, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out = mnist("gate", "--policy", undecided_policy).out
    assert "::warning title=accuracy::" in out
    assert "::error" not in out


def test_a_model_is_judged_by_the_bounds_of_its_recipe(mnist, trained, tmp_path):
    save_model(trained.model, tmp_path / "models", recipe={"name": "standard"})
    policy = tmp_path / "policy.toml"
    stricter = "\n[recipes.standard.bounds]\nlatency = { at_most = 0 }\n"
    policy.write_text(gate.POLICY.read_text(encoding="utf-8") + stricter, encoding="utf-8")
    assert mnist("gate", "--policy", policy).out.splitlines()[-2] == "BLOCKED by: latency"


def test_elsewhere_nothing_is_annotated(mnist, tmp_path):
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "bad.pth")
    assert "::error" not in mnist("gate", "bad.pth", "--dataset", "subset").out


def test_a_mirror_of_mnist_is_trained_on_from_end_to_end(mnist, tmp_path, monkeypatch):
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(reader, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    finished = mnist("train", "--epochs", 1, "--no-gate")
    assert finished.code == 0
    assert "MNIST test set, 10 images" in finished.out
    assert mnist("gate").code == process.BLOCKED, "nothing can be learned from noise"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_gate_prints_on_a_stream_of_any_encoding(model, monkeypatch, encoding):
    binary = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(binary, encoding=encoding, write_through=True))
    monkeypatch.setattr(display, "out", display.Console(width=100))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["gate"])
    shown = binary.getvalue().decode(encoding)
    assert re.search("10 deg (left|right)" if encoding == "ascii" else "10° (left|right)", shown)
    assert "SHIP" in shown


@given(st.text(st.characters(codec=None)), st.sampled_from(["ascii", "latin-1", "cp437", "shift_jis", "utf-8"]))
def test_symbols_can_be_encoded_whatever_the_text(text, encoding):
    written = text.encode(encoding, "mnist.symbols").decode(encoding)
    with contextlib.suppress(UnicodeEncodeError):
        assert written.encode(encoding) == text.encode(encoding)


# ---- Fine-tuned, and trained on other data ---------------------------------------------------------------------------

FEW = ("--epochs", 2, "--device", "cpu", "--no-gate")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of three images of each digit, of which one is held out."""
    return write_printed(tmp_path_factory.mktemp("folders") / "photos", each=3)


def saved(trained, folder: Path, **dataset) -> Path:
    """The good model, with a card that says that it was trained on something else."""
    return save_model(trained.model, folder, init=dataset.pop("init", None), dataset=dataset)


def test_a_model_is_fine_tuned_on_a_folder_of_images_and_the_card_says_from_what_and_on_what(
    mnist, model, photos, tmp_path
):
    shutil.copytree(photos, tmp_path / "photos")
    finished = mnist("train", "--init", model, "--dataset", "photos/", *FEW, "--learning-rate", "1e-7")
    assert finished.code == 0, finished
    path = artifacts.newest(tmp_path / "models")
    for words in ("starting from", model.name, "held-out part, 10 images", "training part, 20 images", "on digit 9"):
        assert words in finished.out
    origin, tuned = artifacts.load(model), artifacts.load(path)
    assert path != model
    assert dataclasses.asdict(tuned.card.training.init) == {
        "weights": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "trained_on": ("subset",),
    }
    assert tuned.trained_on == {"subset", "photos"}
    assert tuned.classes == tuple("0123456789")
    assert 0.5 <= tuned.threshold <= 1
    assert tuned.card.measured.threshold == tuned.threshold
    before, after = origin.model.state_dict(), tuned.model.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert "knows other classes" not in finished.err


def test_what_starts_from_chance_says_so_on_its_card_and_is_calibrated(mnist, tmp_path):
    assert mnist("train", *QUICK).code == 0
    artifact = artifacts.load(artifacts.newest(tmp_path / "models"))
    assert artifact.card.training.init is None
    assert artifact.trained_on == {"subset"}
    split = datasets.load("subset", tmp_path).train
    assert artifact.threshold == measurement.calibrate(artifact.model, split, seed=0)


def test_the_network_is_that_of_the_model_to_start_from_whatever_the_recipe_has(mnist, photos, tmp_path):
    torch.save(architecture.build("compact-1k", generator(0)).state_dict(), tmp_path / "small.pth")
    options = ("--init", "small.pth", "--dataset", photos, *FEW)
    assert mnist("train", *options, "--recipe", "fast").code == 0
    assert mnist("train", *options, "--architecture", "compact-1k").code == 0
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.architecture == card.recipe.architecture == "compact-1k"
    assert card.training.init.trained_on == ("mnist",), "of weights without a card the worst is supposed"


def test_a_model_of_digits_can_learn_other_classes_and_is_then_judged_by_their_names(mnist, model, tmp_path):
    write_raw(tmp_path / "data", "FashionMNIST")
    finished = mnist("train", "--init", model, "--dataset", "fashion-mnist", *FEW)
    assert finished.code == 0, finished
    assert f"{model.name} knows other classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), and learns the new ones" in finished.err
    assert "accuracy on Sneaker" in finished.out
    path = artifacts.newest(tmp_path / "models")
    assert artifacts.load(path).classes == tuple(torchvision.datasets.FashionMNIST.classes)

    judged = mnist("gate")
    assert judged.code == process.BLOCKED
    assert "measured on: FashionMNIST test set, 10 images" in judged.out
    names = "|".join(map(re.escape, torchvision.datasets.FashionMNIST.classes))
    assert re.search(rf"^digit-accuracy: .* ({names}), must be", judged.out, re.MULTILINE)
    assert "digit 3" not in judged.out

    assert_one_clear_line(
        mnist("gate", "--dataset", "subset"),
        path.name,
        "knows the classes T-shirt/top, ",
        "those of subset are 0, 1, 2",
    )
    other_baseline = mnist("gate", "--baseline", model)
    assert other_baseline.code == process.BAD_INPUT
    assert other_baseline.err.splitlines()[-1].startswith(f"error: {model} knows the classes 0, 1, 2")
    assert_one_clear_line(mnist("export", path, "--dataset", "subset"), "subset is of 0, 1, 2")


def test_the_gate_finds_the_folder_that_a_model_was_trained_on_again_and_says_when_it_is_gone(mnist, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    assert mnist("train", "--dataset", "./photos/", *FEW).code == 0
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.dataset.name == "photos"
    finished = mnist("gate")
    assert finished.code == process.BLOCKED, "two epochs of 20 images are not enough"
    assert "measured on: photos, held-out part, 10 images" in finished.out
    assert re.search(r"possibly-seen-images +0 ", finished.out)
    shutil.rmtree(tmp_path / "photos")
    assert_one_clear_line(mnist("gate"), "no data set is called 'photos', and no folder")


@pytest.mark.parametrize(
    ("said", "may_have_seen"),
    [
        ({"name": "photos", "init": Origin("a.pth", "5e" * 32, ("mnist", "photos"))}, True),
        ({"name": "emnist-digits"}, True),
        ({"name": "photos", "init": Origin("a.pth", "5e" * 32, ("fashion-mnist", "photos"))}, False),
    ],
    ids=lambda said: str(said),
)
def test_the_gate_blocks_on_images_that_a_model_may_have_seen_before_it_was_fine_tuned(
    mnist, trained, tmp_path, said, may_have_seen
):
    path = saved(trained, tmp_path / "models", **said)
    finished = mnist("gate", path, "--dataset", "subset")
    assert (
        "WARNING: the model may have been trained on the images it is measured on: subset shares" in finished.err
    ) is may_have_seen
    assert (finished.out.splitlines()[-2] == "BLOCKED by: possibly-seen-images") is may_have_seen
    assert finished.code == (process.BLOCKED if may_have_seen else 0)


@pytest.mark.parametrize("name", ["fashion-mnist", "qmnist"])
def test_data_of_mnists_shape_is_counted_by_the_names_of_its_classes(mnist, tmp_path, name):
    write_raw(tmp_path / "data", datasets.TORCHVISION[name])
    finished = mnist("data", "--dataset", name)
    assert finished.code == 0, finished
    for split in ("training", "test"):
        assert f"{datasets.TORCHVISION[name]} {split}" in finished.out
    for shown in datasets.load(name, tmp_path / "data").train.classes:
        assert f"\n  {shown} " in finished.out


# ---- Predictions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder of drawings, a blank sheet and something else, in the current one."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for digit in (3, 5, 7):
        printed(digit).save(folder / f"{digit}.png")
    Image.new("L", (60, 60), 255).save(folder / "blank.png")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def expected(model: Path, *paths: str) -> str:
    """The lines that are to be printed."""
    artifact = inference.load(model)
    return "".join(f"{Path(path)}: {inference.predict(artifact, path)}\n" for path in paths)


def test_an_image_is_answered_and_the_model_named(mnist, model, scans):
    finished = mnist("predict", "scans/7.png")
    assert (finished.code, finished.out) == (0, expected(model, "scans/7.png"))
    assert finished.out.startswith(f"{Path('scans/7.png')}: 7 (")
    assert finished.err == f"model: {Path('models') / model.name}, trained on training part, 4,000 images\n"


def test_images_can_be_named_by_file_folder_and_pattern(mnist, model, scans):
    (scans / "deeper").mkdir()
    printed(4).save(scans / "deeper" / "4.jpg")
    finished = mnist("predict", "scans/5.png", "scans", "scans/[37].png", "scans/**/4.*")
    in_folder = ["scans/3.png", "scans/5.png", "scans/7.png", "scans/blank.png", "scans/deeper/4.jpg"]
    names = ["scans/5.png", *in_folder, "scans/3.png", "scans/7.png", "scans/deeper/4.jpg"]
    assert (finished.code, finished.out) == (0, expected(model, *names))
    assert "of 9 images are recognized, 1 are not sure or without a digit" in finished.err


def test_a_file_with_the_name_of_a_pattern_is_that_file(mnist, model, scans):
    (scans / "7.png").rename(scans / "[7].png")
    assert mnist("predict", "scans/[7].png").out == expected(model, "scans/[7].png")


def test_what_is_no_image_has_a_line_of_its_own_and_the_others_are_answered(mnist, model, scans):
    finished = mnist("predict", "scans/3.png", "missing.png", "scans/notes.txt", "scans/blank.png", "scans/7.png")
    assert finished.code == process.BAD_INPUT
    assert finished.out == expected(model, "scans/3.png", "scans/blank.png", "scans/7.png")
    assert f"{Path('scans/blank.png')}: no digit found" in finished.out
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: there is no image at missing.png",
        f"error: {Path('scans/notes.txt')} is no image that can be read (save it as PNG or JPEG)",
    ]
    assert "2 of 5 images are recognized, 1 are not sure or without a digit" in finished.err


def test_a_file_that_may_not_be_read_has_one_too(mnist, model, scans, monkeypatch):
    read = files.read

    def refuse(path, limit):
        if path.name == "5.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, limit)

    wanted = expected(model, "scans/3.png", "scans/7.png")
    monkeypatch.setattr(files, "read", refuse)
    finished = mnist("predict", "scans/3.png", "scans/5.png", "scans/7.png")
    assert (finished.code, finished.out) == (process.BAD_INPUT, wanted)
    assert f"error: {Path('scans/5.png')} cannot be read: Permission denied" in finished.err.splitlines()


def strict(line: str) -> dict:
    """The object in a line of JSON, which has no NaN."""
    return json.loads(line, parse_constant=pytest.fail)


def test_for_programs_there_is_an_object_a_line(mnist, model, scans):
    finished = mnist("predict", "--json", "scans", "missing.png")
    assert finished.code == process.BAD_INPUT
    answers = [strict(line) for line in finished.out.splitlines()]
    assert [Path(answer["image"]).name for answer in answers] == ["3.png", "5.png", "7.png", "blank.png"]
    artifact = inference.load(model)
    for answer in answers[:3]:
        same = inference.predict(artifact, answer["image"])
        assert answer == {
            "image": answer["image"],
            "outcome": "sure" if same.label else "not sure",
            "label": same.label,
            "best": same.best[0],
            "confidence": pytest.approx(same.best[1], abs=1e-6),
            "runner_up": same.runner_up[0],
            "runner_up_confidence": pytest.approx(same.runner_up[1], abs=1e-6),
            "probabilities": pytest.approx(dict(zip("0123456789", same.probabilities, strict=True)), abs=1e-6),
            "problem": None,
        }
    assert answers[3] == {
        "image": answers[3]["image"],
        "outcome": "not found",
        "label": None,
        "best": None,
        "confidence": 0,
        "runner_up": None,
        "runner_up_confidence": 0,
        "probabilities": {},
        "problem": "no digit found",
    }


def test_a_model_that_answers_with_nan_is_never_sure_and_its_json_is_json(mnist, trained, scans, tmp_path):
    torch.save(trained.model.state_dict() | {"fc2.bias": torch.full((10,), math.nan)}, tmp_path / "nan.pth")
    finished = mnist("predict", "--json", "scans/7.png", "--model", "nan.pth")
    answer = strict(finished.out)
    assert (answer["outcome"], answer["label"], answer["confidence"]) == ("not sure", None, None)
    assert "trained on unknown data: it has no card" in finished.err


def test_what_the_network_saw_is_drawn_where_it_is_asked_for(mnist, model, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("mnist.cli.predict.MAX_DRAWN_IMAGES", 2)
    drawn = []
    monkeypatch.setattr(figures, "draw_inputs", lambda *arguments: drawn.append(arguments))
    finished = mnist("predict", "scans", "--show")
    assert f"drawn: {Path('figures/seen.png')}" in finished.err
    (seen, path), artifact = drawn[0], inference.load(model)
    assert path == Path("figures/seen.png")
    assert len(seen) == 2
    for (image, title), name in zip(seen, ("3.png", "5.png"), strict=True):
        same = inference.predict(artifact, scans / name)
        assert np.array_equal(image, same.prepared)
        doubt = "" if same.label else "not sure: "
        first, second, third = title.splitlines()
        assert (first, second.startswith(f"{doubt}{same.best[0]}, ")) == (name, True)
        assert third.startswith(f"next: {same.runner_up[0]}, ")


def test_the_drawing_is_a_picture_and_never_takes_the_place_of_an_image(mnist, model, scans, tmp_path):
    assert mnist("predict", "scans", "--show", "seen.png").code == 0
    for _ in range(2):
        assert mnist("predict", "scans/3.png", "--show").code == 0
    for path in ("seen.png", "figures/seen.png"):
        with Image.open(tmp_path / path) as picture:
            assert picture.format == "PNG"
    before = (scans / "3.png").read_bytes()
    assert_one_clear_line(mnist("predict", "--show", "scans/3.png", "scans/5.png"), "3.png exists")
    assert (scans / "3.png").read_bytes() == before
    assert mnist("predict", "scans/blank.png", "--show", "nothing.png").code == 0
    assert not (tmp_path / "nothing.png").exists(), "there was nothing to draw"


@pytest.mark.filterwarnings("ignore:Glyph")  # some are in no font
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file cannot be called that")
def test_a_file_may_be_called_anything(mnist, model, scans, tmp_path):
    names = [b"costs $5^$.png", b"\xff\xfe.png", b"two\nlines.png", b"%s [bold]{x}.png"]
    for name in names:
        shutil.copy(scans / "7.png", os.fsencode(scans) + b"/" + name)
    finished = mnist("predict", "scans", "--show", "seen.png")
    assert finished.code == 0
    assert finished.out.count(": 7 (") == len(names) + 1
    assert (tmp_path / "seen.png").exists()


def test_of_other_classes_it_is_warned_and_answered_by_their_names(mnist, trained, scans, tmp_path):
    clothes = torchvision.datasets.FashionMNIST.classes
    path = saved(trained, tmp_path / "models", name="fashion-mnist", train="clothes", classes=clothes)
    finished = mnist("predict", "scans/7.png")
    assert finished.code == 0
    assert f"model: {Path('models') / path.name}, trained on clothes\n" in finished.err
    assert f"WARNING: the model knows no digits, but {', '.join(clothes)}; " in finished.err
    assert finished.out.startswith(f"{Path('scans/7.png')}: Sneaker (")


def test_under_the_threshold_of_the_model_it_is_not_sure(mnist, trained, scans, tmp_path):
    save_model(trained.model, tmp_path / "models", measured={"threshold": 1})
    finished = mnist("predict", "scans/3.png", "scans/7.png")
    assert finished.code == 0, "an honest answer"
    assert [line.partition(": ")[2][:10] for line in finished.out.splitlines()] == ["not sure: "] * 2
    assert "0 of 2 images are recognized, 2 are not sure or without a digit" in finished.err


def test_many_images_are_answered_in_their_order(mnist, model, scans, monkeypatch):
    monkeypatch.setattr(inference, "IMAGES_PER_BATCH", 7)
    names = [str(Path(f"scans/{(3, 5, 7)[number % 3]}.png")) for number in range(display.MIN_FILES_FOR_BAR + 1)]
    finished = mnist("predict", *names)
    assert [line.partition(": ")[0] for line in finished.out.splitlines()] == names
    assert "\x1b" not in finished.out + finished.err, "a bar is for a terminal"


# ---- The model elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def _timed_briefly(monkeypatch):
    monkeypatch.setattr(exporting, "TIMING_SECONDS", 0)
    monkeypatch.setattr(exporting, "TIMED_BATCH_SIZES", (1, 20))


@pytest.mark.usefixtures("_timed_briefly")
def test_export_writes_beside_the_model_what_agrees_with_it_and_the_second_time_nothing(mnist, model, tmp_path):
    finished = mnist("export")
    path = model.with_suffix(".onnx")
    assert finished.code == 0, finished
    assert finished.out.splitlines()[-1] == str(Path("models") / path.name)
    assert "predict the same digit for all of offline subset, held-out part, 1,000 images" in finished.out
    assert "images per batch" in finished.out
    assert path.read_bytes() == exporting.to_onnx(artifacts.load(model))
    before = path.stat()
    finished = mnist("export", model)
    assert (finished.code, finished.err) == (0, "the same file exists already\n")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert mnist("export", "--output", "new/folder/digits.onnx").code == 0
    assert (tmp_path / "new" / "folder" / "digits.onnx").read_bytes() == path.read_bytes()
    assert {entry.suffix for entry in (tmp_path / "models").iterdir()} == {".json", ".onnx", ".pth"}


@pytest.mark.usefixtures("_timed_briefly")
@pytest.mark.parametrize("content", [b"", b"somebody's", b"x" * 100_000])
def test_export_never_takes_the_place_of_another_file(mnist, model, content):
    path = model.with_suffix(".onnx")
    path.write_bytes(content)
    finished = mnist("export")
    assert_one_clear_line(finished, f"{path.name} is there already, and is another file")
    assert path.read_bytes() == content


def test_a_file_that_does_not_agree_is_not_kept(mnist, model, tmp_path, monkeypatch):
    to_onnx = exporting.to_onnx

    def export_another_network(artifact):
        other = copy.deepcopy(artifact.model)
        other.fc2.bias.data += torch.linspace(0, 1, 10)
        return to_onnx(dataclasses.replace(artifact, model=other))

    monkeypatch.setattr(exporting, "to_onnx", export_another_network)
    assert_one_clear_line(mnist("export"), "the ONNX file must not be used")
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_export_says_how_to_get_them(mnist, model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert_one_clear_line(mnist("export"), "python -m pip install 'mnist[export]'")
    assert not list(tmp_path.rglob("*.onnx"))


def test_demo_writes_a_page_with_the_model_in_it(mnist, model, tmp_path):
    finished = mnist("demo")
    path = tmp_path / "site" / "index.html"
    assert (finished.code, finished.out) == (0, f"{Path('site/index.html')}\n")
    assert f"with {Path('models') / model.name} in it, {path.stat().st_size / 1000:,.0f} kB" in finished.err
    assert path.read_text(encoding="utf-8") == page.render(artifacts.load(Path("models") / model.name))
    assert mnist("demo", model, "--output", "site/index.html").code == 0, "a page of its own it renews"


def test_demo_does_not_take_the_place_of_another_page(mnist, model, tmp_path):
    for content in ("<!doctype html><title>mine</title>", ""):
        (tmp_path / "mine.html").write_text(content, encoding="utf-8")
        assert_one_clear_line(mnist("demo", "--output", "mine.html"), "mine.html exists")
        assert (tmp_path / "mine.html").read_text(encoding="utf-8") == content


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--recipe", "nope"], ["no recipe is called 'nope'", "baseline, standard"]),
        (["train", "--epochs", "-1"], ["epochs must be above 0 and at most a million"]),
        (["train", "--epochs", "many"], ["'many' is not a valid float", "mnist train --help"]),
        (["train", "--rotation", "999"], ["rotation must be"]),
        (["train", "--dataset", "cifar"], ["no data set is called 'cifar'"]),
        (["train", "--device", "tpu"], ["no device is called 'tpu'"]),
        (["train", "--architecture", "nope", *QUICK], ["no architecture is called 'nope'"]),
        (["train", "--learning-rate", "1e30", *QUICK], ["the loss is", "smaller learning rate"]),
        (["train", "--epocs", "1"], ["No such option", "--epochs"]),
        (["trian"], ["No such command 'trian'"]),
        (["data", "--dataset", "mnist", "--mirror", "nowhere"], ["nowhere is neither a URL nor a folder"]),
        (["augment", "--columns", "2"], ["--columns"]),
        (["augment", "--dataset", "subset", "--output", "text.pth"], ["--output must end in .png"]),
        (["augment", "--dataset", "subset", "--output", ""], ["--output must end in .png"]),
        (["gate"], ["there is no model in models", "make train"]),
        (["gate", "missing.pth"], ["there is no model at missing.pth"]),
        (["gate", "empty.pth"], ["empty.pth is empty"]),
        (["gate", "text.pth"], ["text.pth"]),
        (["gate", "code.pth"], ["could run code"]),
        (["gate", "truncated.pth"], ["truncated.pth is damaged"]),
        (["gate", "other.pth"], ["another architecture"]),
        (["gate", "whole.pth", "--policy", "text.pth"], ["text.pth is not a policy"]),
        (["gate", "whole.pth", "--baseline", "text.pth"], ["text.pth"]),
        (["train", "--policy", "missing.toml", *QUICK], ["there is no policy at missing.toml"]),
        (["train", "--baseline", "missing.pth", *QUICK], ["there is no model at missing.pth"]),
        (["gate", "whole.pth", "--dataset", "subset", "--reports-dir", "text.pth"], ["text.pth"]),
        (
            ["train", "--dataset", "text.pth"],
            ["no data set is called 'text.pth', and no folder", "auto, mnist, subset"],
        ),
        (["data", "--dataset", "./"], [". has no folder 0 (there must be one for each digit"]),
        (["train", "--init", "missing.pth", *QUICK], ["there is no model at missing.pth"]),
        (["train", "--init", "truncated.pth", *QUICK], ["truncated.pth is damaged"]),
        (
            ["train", "--init", "whole.pth", "--architecture", "fast", *QUICK],
            ["whole.pth is of architecture cnn, not fast"],
        ),
        (["predict"], ["Missing argument 'IMAGE...'", "mnist predict --help"]),
        (["predict", "nothing-*.png"], ["nothing matches nothing-*.png"]),
        (["predict", "."], ["there is no image in ."]),
        (["predict", "text.pth"], ["there is no model in models", "make train"]),
        (["predict", "text.pth", "--model", "missing.pth"], ["there is no model at missing.pth"]),
        (["predict", "text.pth", "--show", "seen.jpg"], ["--show must end in .png, not seen.jpg"]),
        (["export"], ["there is no model in models", "make train"]),
        (["export", "whole.pth", "--output", "model.txt"], ["--output must end in .onnx, not model.txt"]),
        (["export", "whole.pth", "--dataset", "nowhere"], ["no data set is called 'nowhere'"]),
        (["demo"], ["there is no model in models", "make train"]),
        (["demo", "whole.pth", "--output", "page.txt"], ["--output must end in .html, not page.txt"]),
        (["demo", "whole.pth", "--output", "text.pth/a.html"], ["text.pth", "a file is where a folder should be"]),
        (["train", "--models-dir", "text.pth", *QUICK], ["text.pth", "a file is where a folder should be"]),
        (["data", "--dataset", "mnist", "--data-dir", "text.pth"], ["text.pth"]),
        (
            ["augment", "--dataset", "subset", "--output", "text.pth/a.png"],
            ["text.pth", "a file is where a folder should be"],
        ),
    ],
    ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line_and_costs_nothing(mnist, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    state = architecture.build("cnn", generator(0)).state_dict()
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-100])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("not weights", encoding="utf-8")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"conv1.weight": print}))
    torch.save({"fc.weight": torch.zeros(10, 784)}, tmp_path / "other.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_one_clear_line(mnist(*arguments), *words)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


IMAGES, LABELS = torch.zeros(20, 28, 28, dtype=torch.uint8), torch.zeros(20, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (b"\0\0\x09" + idx_bytes(IMAGES)[3:], idx_bytes(LABELS), "wrong magic number"),
        (idx_bytes(IMAGES)[:-1], idx_bytes(LABELS), "its header says 15,680"),
        (idx_bytes(IMAGES), idx_bytes(LABELS + 10), "a label is 10"),
        (idx_bytes(IMAGES), idx_bytes(LABELS[1:]), "20 images, but labels of shape [19]"),
    ],
)
def test_data_that_contradicts_itself_is_one_clear_line(mnist, tmp_path, monkeypatch, images, labels, complaint):
    archives, packed = archives_of([images, labels, *tiny_mnist()[2:]])
    monkeypatch.setattr(reader, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    finished = mnist("train", "--mirror", tmp_path)
    *notices, last = finished.err.splitlines()
    assert finished.code == process.BAD_INPUT
    assert last.startswith("error: ")
    assert complaint in last
    assert all(line.startswith("fetching ") for line in notices)
    assert list(tmp_path.glob("models/*")) == []


def test_a_truncated_archive_that_cannot_be_fetched_again_is_named(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    path = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    finished = mnist("data", "--dataset", "mnist")
    assert finished.code == process.BAD_INPUT
    first, last = finished.err.splitlines()
    assert f"{path.relative_to(tmp_path)} is damaged" in first
    assert last.startswith("error: train-images-idx3-ubyte.gz is not to be had")
    assert path.read_bytes() == b"half a download"


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written to"), (errno.EACCES, "may write")],
)
def test_a_disk_that_takes_nothing_is_named_and_every_earlier_model_stays(mnist, model, monkeypatch, code, hint):
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}

    def fail(path, content):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(files, "write_atomically", fail)
    finished = mnist("train", *QUICK)
    assert finished.code == process.BAD_INPUT
    *warnings, last = finished.err.splitlines()
    assert warnings[-1].startswith("WARNING: step 63 is not saved")
    assert all(re.match(r"WARNING: step \d+ is not saved", line) for line in warnings)
    assert last.startswith("error: ")
    assert "mnist_model_" in last
    assert hint in last
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.parametrize(
    "command", [["augment", "--dataset", "subset"], ["data", "--dataset", "mnist", "--mirror", "."]]
)
def test_a_full_disk_is_named_while_a_picture_or_data_is_written(mnist, tmp_path, monkeypatch, command):
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(reader, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    finished = mnist(*command)
    assert finished.code == process.BAD_INPUT
    last = finished.err.splitlines()[-1]
    assert last.startswith(("error: figures", "error: data"))
    assert "free some space" in last
    assert not list(tmp_path.rglob("*.part"))


def test_an_interruption_is_one_line_and_exit_code_130(mnist, model, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupt)
    finished = mnist("train", *QUICK)
    assert finished.code == process.INTERRUPTED
    assert finished.err.strip().startswith("error: interrupted")
    assert artifacts.newest(model.parent) == model


@pytest.fixture
def _ctrl_c_is_heard():
    """A shell's background job ignores Ctrl-C, and so would the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(path: Path) -> None:
    """Return as soon as ``path`` exists."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not appeared"
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("when", ["starting", "training"])
def test_ctrl_c_ends_a_real_run_with_one_line_and_no_traceback(tmp_path, when):
    options = ["--dataset", "subset", "--epochs", "50", "--device", "cpu"]
    command = [sys.executable, "-u", "-m", "mnist", "train", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        try:
            if when == "training":
                assert child.stdout.readline().startswith("epoch ")
            else:
                wait_for(tmp_path / "reports")  # the last folder to be made before torch is imported
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
    assert child.returncode == process.INTERRUPTED
    assert list(tmp_path.glob("models/*")) == []
    if when == "starting":
        assert err.strip() == "error: interrupted (no existing file was changed)"
    else:
        assert re.fullmatch(
            r"interrupted after [\d,]+ of 3,150 steps; saved in checkpoints/run_\d+_\d+ \(continue: .*\)\n", err
        )


# ---- Interrupted, and gone on with -----------------------------------------------------------------------------------


@pytest.fixture
def interrupt(monkeypatch, _ctrl_c_is_heard):
    """Have the next run told to leave after so many steps."""

    def plan(steps: int, number: int = signal.SIGINT) -> None:
        draw_affine = transforms.draw_affine
        batches = itertools.count(1)

        def draw_and_interrupt(*arguments, **options):
            if next(batches) == steps:
                monkeypatch.setattr(transforms, "draw_affine", draw_affine)
                signal.raise_signal(number)
            return draw_affine(*arguments, **options)

        monkeypatch.setattr(transforms, "draw_affine", draw_and_interrupt)

    return plan


def newest_weights(folder: Path) -> bytes:
    return artifacts.newest(folder / "models").read_bytes()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, process.INTERRUPTED), (signal.SIGTERM, process.TERMINATED)]
)
def test_a_run_goes_on_where_it_was_interrupted_to_the_same_model(mnist, interrupt, tmp_path, number, code):
    assert mnist("train", *QUICK, "--seed", 3).code == 0
    whole = newest_weights(tmp_path)
    interrupt(20, number)
    finished = mnist("train", *QUICK, "--seed", 3)
    assert finished.code == code
    assert "interrupted after 20 of 63 steps; saved in checkpoints" in finished.err
    assert "make train RESUME=1" in finished.err
    finished = mnist("train", "--no-gate", "--resume")
    assert finished.code == 0
    assert "step 26/63" in finished.out
    assert newest_weights(tmp_path) == whole
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.training.resumed == 1
    assert card.recipe.seed == 3
    assert list((tmp_path / "checkpoints").iterdir()) == [], "what is saved is not needed any more"


def test_only_a_run_with_the_choices_given_is_gone_on_with(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3)
    for choice in (("--seed", 4), ("--recipe", "fast"), ("--dataset", "mnist", "--mirror", tmp_path)):
        finished = mnist("train", *QUICK[2:], "--dataset", "subset", *choice, "--resume")
        assert "no interrupted run with these settings is in checkpoints: starting a new one" in finished.err
    assert "no interrupted run" not in mnist("train", *QUICK, "--recipe", "standard", "--seed", 3, "--resume").err


def test_a_run_on_other_data_is_not_gone_on_with(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    other = dataclasses.replace(saved.dataset, sha256="0" * 64)
    path.write_bytes(checkpoints.pack(dataclasses.replace(saved, dataset=other)))
    assert_one_clear_line(mnist("train", *QUICK, "--resume"), "the data has changed since the run was interrupted")


def test_a_run_on_other_threads_is_gone_on_with_and_warned_of(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    path.write_bytes(
        checkpoints.pack(dataclasses.replace(saved, machine=dataclasses.replace(saved.machine, threads=64)))
    )
    finished = mnist("train", *QUICK, "--resume")
    assert finished.code == 0
    assert "WARNING: weights will differ by rounding from an uninterrupted run's (threads: 64, now" in finished.err


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_a_second_interruption_leaves_at_once(mnist, tmp_path, monkeypatch):
    def twice(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(transforms, "draw_affine", twice)
    finished = mnist("train", *QUICK)
    assert finished.code == process.INTERRUPTED
    assert finished.err.strip() == "error: interrupted (no existing file was changed)"


def test_a_disk_too_full_for_a_checkpoint_is_a_warning_and_no_end(mnist, tmp_path, monkeypatch):
    def fail(folder, step, checkpoint):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoints/run")

    monkeypatch.setattr(checkpoints.RunFolder, "write", fail)
    finished = mnist("train", *QUICK, "--checkpoint-interval", 40)
    assert finished.code == 0
    assert finished.err.count("WARNING: ") == 2
    assert "step 40 is not saved, and training continues: checkpoints/run: No space left on device" in finished.err


def test_a_run_on_a_folder_is_gone_on_with_however_the_folder_is_written(mnist, interrupt, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    interrupt(1)
    assert mnist("train", "--dataset", "photos", *FEW).code == process.INTERRUPTED
    finished = mnist("train", "--dataset", "./photos/", "--no-gate", "--resume")
    assert (finished.code, "no interrupted run" in finished.err) == (0, False)
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.training.resumed == 1


@pytest.fixture
def others(tmp_path) -> list[str]:
    """Two models to start from."""
    for seed in (1, 2):
        torch.save(architecture.build("cnn", generator(seed)).state_dict(), tmp_path / f"{seed}.pth")
    return ["1.pth", "2.pth"]


def test_only_a_run_that_started_from_the_model_given_is_gone_on_with_and_to_the_same_model(
    mnist, interrupt, tmp_path, others
):
    one, other = others
    assert mnist("train", *QUICK, "--init", one).code == 0
    whole = newest_weights(tmp_path)
    interrupt(20)
    assert mnist("train", *QUICK, "--init", one).code == process.INTERRUPTED
    said = "no interrupted run with these settings is in checkpoints: starting a new one"
    assert said in mnist("train", *QUICK, "--init", other, "--resume").err
    assert newest_weights(tmp_path) != whole
    finished = mnist("train", "--no-gate", "--init", one, "--resume")
    assert (finished.code, said in finished.err) == (0, False)
    assert newest_weights(tmp_path) == whole
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.training.resumed == 1
    assert card.training.init.weights == one


def test_a_run_goes_on_without_the_model_it_started_from_and_one_from_chance_is_not_taken_for_it(
    mnist, interrupt, tmp_path, others
):
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3)
    assert "no interrupted run" in mnist("train", *QUICK, "--seed", 3, "--init", others[0], "--resume").err
    whole = newest_weights(tmp_path)
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3, "--init", others[0])
    (tmp_path / others[0]).unlink()
    assert mnist("train", "--no-gate", "--resume").code == 0, "the newest run comes first"
    assert newest_weights(tmp_path) == whole
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.training.init.weights == others[0]


@pytest.mark.parametrize("interval", ["0", "-1s", "soon", "s", "nans", "infs"])
def test_an_interval_that_is_none_is_refused(mnist, interval):
    assert_one_clear_line(mnist("train", "--checkpoint-interval", interval), "neither a number of steps, like 500")
