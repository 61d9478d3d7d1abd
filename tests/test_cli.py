import dataclasses
import errno
import importlib.metadata
import json
import math
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from strategies import archives_of, generator, idx_bytes, tiny_mnist

from mnist import architecture, artifacts, checkpoints, cli, datasets, figures, files, gate, metrics, recipes, trainer

QUICK = ("--dataset", "subset", "--epochs", 1, "--device", "cpu", "--no-gate")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(metrics, "PROBED", 200)
    monkeypatch.setattr(metrics, "SEEN", 1000)


@pytest.fixture
def model(trained, subset, tmp_path):
    """A good model in models/, with its card."""
    return artifacts.save(
        trained.model,
        tmp_path / "models",
        recipe={"architecture": "cnn"},
        dataset={"name": "subset"},
        training={},
        measured={},
    )


def assert_one_clear_line(finished, *words):
    assert finished.code == cli.BAD_INPUT, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    for word in words:
        assert word in finished.err


# ---- What works ------------------------------------------------------------------------------------------------------


def test_without_a_command_help_is_shown(mnist):
    finished = mnist()
    assert finished.code == 0
    assert all(command in finished.out for command in ("data", "train", "augment", "gate"))


@pytest.mark.parametrize("command", ["data", "train", "augment", "gate"])
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
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
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
    card = json.loads(path.with_suffix(".json").read_text())
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
    monkeypatch.setattr(cli, "out", cli.Console(force_terminal=True, legacy_windows=False, width=140))
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
    assert finished.code == cli.BLOCKED
    assert "BLOCKED by: accuracy" in finished.out
    assert artifacts.newest(tmp_path / "models")


def test_the_gate_ships_a_good_model_and_prints_and_writes_every_criterion(mnist, model, tmp_path):
    finished = mnist("gate")
    assert finished.code == 0
    assert finished.out.splitlines()[-2].startswith("SHIP")
    assert model.name in finished.out
    assert "held-out part, 1,000 images" in finished.out
    report = json.loads((tmp_path / "reports" / model.stem / "report.json").read_text())
    assert report["decision"] == "ship"
    for criterion in gate.CRITERIA:
        assert criterion.name in finished.out
        assert criterion.name in [verdict["criterion"] for verdict in report["verdicts"]]


def test_on_the_subset_what_is_undecided_is_a_loud_warning_and_elsewhere_it_blocks(mnist, model, tmp_path):
    shipped = gate.POLICY.read_text(encoding="utf-8")
    policy = tmp_path / "policy.toml"
    of_subset = shipped.replace("accuracy = { at_least = 0.95 }", "accuracy = { at_least = 0.98 }")
    policy.write_text(of_subset, encoding="utf-8")  # 98 % of a thousand images, give or take
    finished = mnist("gate", "--policy", policy)
    assert finished.code == 0
    assert finished.out.splitlines()[-2] == "SHIP, with 1 of 25 criteria undecided"
    assert "too few images to tell; the policy lets that pass with this WARNING" in finished.out
    policy.write_text(of_subset.replace('undecided = "warn"', 'undecided = "block"'), encoding="utf-8")
    finished = mnist("gate", "--policy", policy)
    assert finished.code == cli.BLOCKED
    assert finished.out.splitlines()[-2] == "BLOCKED by: accuracy"


def test_the_gate_blocks_an_untrained_model_with_exit_code_1(mnist, tmp_path):
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "model.pth")
    finished = mnist("gate", "model.pth", "--dataset", "subset")
    assert finished.code == cli.BLOCKED
    assert "BLOCKED by: possibly-seen-images, accuracy, digit-accuracy" in finished.out
    assert "WARNING: the model may have been trained on these very images" in finished.err


def test_the_gate_does_not_ship_on_images_that_the_model_may_have_been_trained_on(mnist, trained, tmp_path):
    torch.save(trained.model.state_dict(), tmp_path / "no card.pth")
    finished = mnist("gate", "no card.pth", "--dataset", "subset")
    assert finished.code == cli.BLOCKED
    assert finished.out.splitlines()[-2] == "BLOCKED by: possibly-seen-images"


def test_the_gate_blocks_a_model_with_a_nan_in_it_and_says_that_the_rest_was_not_measured(mnist, trained, tmp_path):
    state = trained.model.state_dict() | {"conv1.bias": torch.full((6,), math.nan)}
    torch.save(state, tmp_path / "nan.pth")
    finished = mnist("gate", "nan.pth", "--dataset", "subset")
    assert finished.code == cli.BLOCKED
    assert "accuracy: not measured, to be >= 95.00%" in finished.out
    assert "weights-not-finite: 6, to be <= 0: not met" in finished.out


def test_a_model_that_is_worse_than_the_last_release_is_blocked_and_a_better_one_is_not(
    mnist, model, trained, tmp_path
):
    state = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    state["fc2.bias"][3] += 4  # sees a 3 too often
    torch.save(state, tmp_path / "worse.pth")
    policy = tmp_path / "lenient.toml"
    policy.write_text(
        gate.POLICY.read_text().replace(
            "possibly-seen-images = { at_most = 0 }", "possibly-seen-images = { at_most = 1e9 }"
        )
    )
    options = ("--dataset", "subset", "--policy", policy)
    worse = mnist("gate", "worse.pth", "--baseline", model, *options)
    assert worse.code == cli.BLOCKED
    assert "regression" in worse.out.splitlines()[-2]
    better = mnist("gate", model, "--baseline", "worse.pth", *options)
    assert better.code == 0
    report = json.loads((tmp_path / "reports" / "worse" / "report.json").read_text())
    assert sum(report["comparison"]["lost_per_digit"]) > sum(report["comparison"]["gained_per_digit"])


def test_in_github_actions_what_blocks_is_annotated_and_the_verdicts_are_in_the_summary(
    mnist, model, tmp_path, monkeypatch
):
    summary = tmp_path / "summary.md"
    summary.write_text("what was there\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "bad.pth")
    finished = mnist("gate", "bad.pth", "--dataset", "subset")
    errors = [line for line in finished.out.splitlines() if line.startswith("::error")]
    assert any(line.startswith("::error title=accuracy::accuracy: ") and "%25" in line for line in errors)
    text = summary.read_text()
    assert text.startswith("what was there\n## 🔴 Blocked: bad.pth")
    assert all(f"| {criterion.name} |" in text for criterion in gate.CRITERIA)
    mnist("gate", model)
    assert "🟢 Ship" in summary.read_text()


def test_in_github_actions_a_warning_is_annotated_as_one(mnist, model, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        gate.POLICY.read_text(encoding="utf-8").replace(
            "accuracy = { at_least = 0.95 }", "accuracy = { at_least = 0.98 }"
        )
    )
    out = mnist("gate", "--policy", policy).out
    assert "::warning title=accuracy::" in out
    assert "::error" not in out


def test_a_model_is_judged_by_the_bounds_of_its_recipe(mnist, trained, tmp_path):
    said = {"recipe": {"architecture": "cnn", "name": "standard"}, "dataset": {"name": "subset"}}
    artifacts.save(trained.model, tmp_path / "models", **said, training={}, measured={})
    policy = tmp_path / "policy.toml"
    stricter = "\n[recipes.standard.bounds]\nlatency = { at_most = 0 }\n"
    policy.write_text(gate.POLICY.read_text(encoding="utf-8") + stricter, encoding="utf-8")
    assert mnist("gate", "--policy", policy).out.splitlines()[-2] == "BLOCKED by: latency"


def test_elsewhere_nothing_is_annotated(mnist, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    torch.save(architecture.build("cnn", generator(0)).state_dict(), tmp_path / "bad.pth")
    assert "::error" not in mnist("gate", "bad.pth", "--dataset", "subset").out


def test_a_mirror_of_mnist_is_trained_on_from_end_to_end(mnist, tmp_path, monkeypatch):
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(datasets, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    finished = mnist("train", "--epochs", 1, "--no-gate")
    assert finished.code == 0
    assert "MNIST test set, 10 images" in finished.out
    assert mnist("gate").code == cli.BLOCKED, "nothing can be learned from noise"


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
        (["gate", "whole.pth", "--policy", "text.pth"], ["text.pth is no policy"]),
        (["gate", "whole.pth", "--baseline", "text.pth"], ["text.pth"]),
        (["train", "--policy", "missing.toml", *QUICK], ["there is no policy at missing.toml"]),
        (["train", "--baseline", "missing.pth", *QUICK], ["there is no model at missing.pth"]),
        (["gate", "whole.pth", "--dataset", "subset", "--reports-dir", "text.pth"], ["text.pth"]),
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
    (tmp_path / "text.pth").write_text("not weights")
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
    monkeypatch.setattr(datasets, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    finished = mnist("train", "--mirror", tmp_path)
    *notices, last = finished.err.splitlines()
    assert finished.code == cli.BAD_INPUT
    assert last.startswith("error: ")
    assert complaint in last
    assert all(line.startswith("fetching ") for line in notices)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_truncated_archive_that_cannot_be_fetched_again_is_named(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    path = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    finished = mnist("data", "--dataset", "mnist")
    assert finished.code == cli.BAD_INPUT
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
    assert finished.code == cli.BAD_INPUT
    *warnings, last = finished.err.splitlines()
    assert all(line.startswith("WARNING: step 63 is not saved") for line in warnings)
    assert last.startswith("error: ")
    assert "mnist_model_" in last
    assert hint in last
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.parametrize(
    "command", [["augment", "--dataset", "subset"], ["data", "--dataset", "mnist", "--mirror", "."]]
)
def test_a_full_disk_is_named_while_a_picture_or_data_is_written(mnist, tmp_path, monkeypatch, command):
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(datasets, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    finished = mnist(*command)
    assert finished.code == cli.BAD_INPUT
    last = finished.err.splitlines()[-1]
    assert last.startswith(("error: figures", "error: data"))
    assert "free some space" in last
    assert not list(tmp_path.rglob("*.part"))


def test_an_interruption_is_one_line_and_exit_code_130(mnist, model, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupt)
    finished = mnist("train", *QUICK)
    assert finished.code == cli.INTERRUPTED
    assert finished.err.strip().startswith("error: interrupted")
    assert artifacts.newest(model.parent) == model


@pytest.fixture
def _ctrl_c_is_heard():
    """A shell's background job ignores Ctrl-C, and so would the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("when", ["starting", "training"])
def test_ctrl_c_ends_a_real_run_with_one_line_and_no_traceback(tmp_path, monkeypatch, when):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests two threads mostly wait for each other
    command = [sys.executable, "-u", "-m", "mnist", "train", "--dataset", "subset", "--epochs", "50"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if when == "training":
                assert process.stdout.readline().startswith("epoch ")
            else:
                time.sleep(1)  # while torch is being imported
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == cli.INTERRUPTED
    assert list((tmp_path / "models").iterdir()) == []
    if when == "starting":
        assert err.strip() == "error: interrupted (nothing that was there is lost)"
    else:
        assert re.fullmatch(
            r"interrupted after [\d,]+ of 3,150 steps; saved in checkpoints/run_\d+_\d+ \(go on: .*\)\n", err
        )


# ---- Interrupted, and gone on with -----------------------------------------------------------------------------------


@pytest.fixture
def interrupt(monkeypatch, _ctrl_c_is_heard):
    """Have the next run told to leave after so many steps."""

    def plan(steps: int, number: int = signal.SIGINT) -> None:
        record = trainer._Journal.record

        def record_and_leave(journal, *arguments):
            record(journal, *arguments)
            if journal._batches.step == steps:
                monkeypatch.setattr(trainer._Journal, "record", record)
                signal.raise_signal(number)

        monkeypatch.setattr(trainer._Journal, "record", record_and_leave)

    return plan


def newest_weights(folder: Path) -> bytes:
    return artifacts.newest(folder / "models").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGTERM, cli.TERMINATED)])
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
    assert card.training["resumed"] == 1
    assert card.recipe["seed"] == 3
    assert list((tmp_path / "checkpoints").iterdir()) == [], "what is saved is not needed any more"


def test_only_a_run_with_the_choices_given_is_gone_on_with(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3)
    for choice in (("--seed", 4), ("--recipe", "fast"), ("--dataset", "mnist", "--mirror", tmp_path)):
        finished = mnist("train", *QUICK[2:], "--dataset", "subset", *choice, "--resume")
        assert "no interrupted run of these choices is in checkpoints: starting a new one" in finished.err
    assert "no interrupted run" not in mnist("train", *QUICK, "--recipe", "standard", "--seed", 3, "--resume").err


def test_a_run_on_other_data_is_not_gone_on_with(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    other = {**saved.dataset, "sha256": "0" * 64}
    path.write_bytes(checkpoints.pack(dataclasses.replace(saved, dataset=other)))
    assert_one_clear_line(mnist("train", *QUICK, "--resume"), "is not what the interrupted run was trained on")


def test_a_run_on_other_threads_is_gone_on_with_and_warned_of(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    path.write_bytes(checkpoints.pack(dataclasses.replace(saved, machine={**saved.machine, "threads": 64})))
    finished = mnist("train", *QUICK, "--resume")
    assert finished.code == 0
    assert "WARNING: weights will differ by rounding from an uninterrupted run's (threads: 64, now" in finished.err


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_a_second_interruption_leaves_at_once(mnist, tmp_path, monkeypatch):
    def twice(saver):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer._Saver, "after_step", twice)
    finished = mnist("train", *QUICK)
    assert finished.code == cli.INTERRUPTED
    assert finished.err.strip() == "error: interrupted (nothing that was there is lost)"


def test_a_disk_too_full_for_a_checkpoint_is_a_warning_and_no_end(mnist, tmp_path, monkeypatch):
    def fail(folder, step, checkpoint):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoints/run")

    monkeypatch.setattr(checkpoints.Folder, "write", fail)
    finished = mnist("train", *QUICK, "--checkpoint-interval", 40)
    assert finished.code == 0
    assert finished.err.count("WARNING: ") == 2
    assert "step 40 is not saved, and training goes on: checkpoints/run: No space left on device" in finished.err


@pytest.mark.parametrize("interval", ["0", "-1s", "soon", "s", "nans", "infs"])
def test_an_interval_that_is_none_is_refused(mnist, interval):
    assert_one_clear_line(mnist("train", "--checkpoint-interval", interval), "neither a number of steps, like 500")
