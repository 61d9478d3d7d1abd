import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from commands import ON_FOLDER, QUICK, assert_one_clear_line
from strategies import archives_of, generator, tiny_mnist, write_raw

from mnist import architecture, datasets, files, recipes, resources, trainer
from mnist.cli import process, tables
from mnist.datasets import mnist as reader
from mnist.gate import performance
from mnist.storage import artifacts


def test_train_offers_every_recipe_field_as_option(mnist):
    text = mnist("train", "--help").out
    assert all(f"--{field.name.replace('_', '-')}" in text for field in recipes.Recipe.options())


def test_train_saves_a_model_with_a_card(mnist, tmp_path):
    finished = mnist("train", *QUICK, "--seed", 7)
    assert finished.code == 0
    path = artifacts.newest(tmp_path / "models")
    assert finished.out.splitlines()[-1] == str(path.relative_to(tmp_path))
    for word in ("accuracy on digit 9", "images/s", "peak memory", "CPU use", "test split, 1,000 images"):
        assert word in finished.out
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["recipe"] == {**vars(recipes.get("standard")), "epochs": 0.5, "seed": 7}
    assert card["dataset"]["name"] == "subset"
    assert card["training"]["images"] == 2000
    assert f"{card['measured']['accuracy']:.2%}" in finished.out
    last = json.loads(path.with_suffix(".log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["step"], last["images"]) == (32, 2000)


@pytest.mark.slow
def test_train_with_validation_judges_on_the_validation_part(mnist, tmp_path):
    finished = mnist("train", "--dataset", "subset", "--epochs", 5, "--device", "cpu", "--validation", 800)
    assert finished.code == 0, finished
    measured_on = "offline subset, training split, last of each class, 800 images"
    assert f"measured on: {measured_on}\n" in finished.out
    path = artifacts.newest(tmp_path / "models")
    assert artifacts.load(path).card.measured.measured_on == measured_on
    judged = mnist("gate", path)
    assert f"{path}, measured on: offline subset, test split, 1,000 images" in judged.out
    assert judged.code == 0, "the model has not seen the test images"


@pytest.mark.slow
def test_train_blocks_a_model_that_started_from_the_validation_images(mnist, model):
    finished = mnist("train", "--dataset", "subset", "--epochs", 1, "--validation", 800, "--init", model)
    assert finished.code == process.BLOCKED
    assert "possibly-seen-images" in finished.out.splitlines()[-2]
    assert re.search(
        r"WARNING: .* trained on 800 of the 800 images .*: mnist_model_\S+\.digests lists them", finished.err
    )


@pytest.mark.parametrize(
    ("count", "error"),
    [
        ("0", "--validation"),
        ("-3", "--validation"),
        ("1e3", "--validation"),
        ("4000", "must be between 1 and 3,999, not 4,000"),
        ("5", "no image of digit 0"),
    ],
)
def test_train_refuses_a_bad_validation_part(mnist, tmp_path, count, error):
    assert_one_clear_line(mnist("train", *QUICK, "--validation", count), error)
    assert [*tmp_path.glob("models/*"), *tmp_path.glob("checkpoints/*")] == []


def test_progress_is_plain_lines_without_a_terminal(mnist):
    finished = mnist("train", *QUICK)
    lines = [line for line in finished.out.splitlines() if line.startswith("epoch")]
    assert 5 <= len(lines) <= 10
    assert all(word in lines[-1] for word in ("step 32/32", "epoch 1/1", "loss", "accuracy", "images/s", "0 s left"))
    assert "\x1b" not in finished.out


def test_progress_is_a_bar_on_a_terminal(mnist, monkeypatch):
    monkeypatch.setattr(tables, "out", tables.Console(force_terminal=True, legacy_windows=False, width=140))
    finished = mnist("train", *QUICK)
    assert "━" in finished.out
    assert "32/32" in finished.out


def test_train_keeps_the_number_of_steps_on_less_data(mnist, monkeypatch):
    epochs = []

    def stop(recipe, *arguments, **options):
        epochs.append(recipe.epochs)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", stop)
    mnist("train", "--dataset", "subset")
    assert epochs == [15]


def test_train_judges_the_model(mnist, tmp_path):
    finished = mnist("train", "--dataset", "subset", "--epochs", 5, "--device", "cpu")
    assert finished.code == 0, finished.out
    path = artifacts.newest(tmp_path / "models")
    assert "SHIP" in finished.out
    assert finished.out.splitlines()[-1] == f"report: {Path('reports') / path.stem / 'report.html'}"


def test_train_keeps_a_blocked_model_and_exits_with_1(mnist, tmp_path):
    finished = mnist("train", "--dataset", "subset", "--epochs", 0.1, "--device", "cpu")
    assert finished.code == process.BLOCKED
    assert "BLOCKED by: accuracy" in finished.out
    assert artifacts.newest(tmp_path / "models")


@pytest.mark.slow
def test_train_gives_a_hint_for_a_blocked_baseline(mnist, monkeypatch):
    monkeypatch.setattr(recipes, "MNIST_TRAINING_IMAGES", 400)  # a tenth of an epoch
    options = ("--dataset", "subset", "--device", "cpu")
    finished = mnist("train", "--recipe", "baseline", *options)
    assert finished.code == process.BLOCKED
    last = finished.out.splitlines()[-1]
    assert "make train RECIPE=standard" in last
    assert last.startswith(f"what to do: see {Path('reports')}")
    for others in ((), ("--recipe", "baseline", "--epochs", 0.1)):
        out = mnist("train", *others, *options).out
        assert "what to do: see " in out.splitlines()[-1]
        assert "RECIPE=standard" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("busy", "threads", "warns"), [(1.0, 2, True), (0.2, 2, False), (1.0, 1, False)])
def test_train_warns_once_of_other_load(mnist, monkeypatch, busy, threads, warns):
    monkeypatch.setattr("mnist.cli.train.SECONDS_BEFORE_LOAD_WARNING", 0)
    monkeypatch.setattr(resources, "OtherLoad", lambda: SimpleNamespace(seconds=1, processors=2, busy=lambda: busy))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finished = mnist("train", *QUICK)
    assert finished.code == 0
    assert finished.err.count("WARNING: other processes keep 1.0 of 2 processors busy") == warns


@pytest.mark.slow
def test_train_downloads_mnist_from_a_mirror(mnist, tmp_path, monkeypatch):
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(reader, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    finished = mnist("train", "--epochs", 1, "--no-gate")
    assert finished.code == 0
    assert "MNIST test set, 10 images" in finished.out
    assert mnist("gate").code == process.BLOCKED, "nothing can be learned from noise"


def test_train_fine_tunes_on_a_folder_and_records_the_origin(mnist, model, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    finished = mnist("train", "--init", model, "--dataset", "photos/", *ON_FOLDER, "--learning-rate", "1e-7")
    assert finished.code == 0, finished
    path = artifacts.newest(tmp_path / "models")
    for words in ("starting from", model.name, "test split, 10 images", "training split, 20 images", "on digit 9"):
        assert words in finished.out
    origin, tuned = artifacts.load(model), artifacts.load(path)
    assert path != model
    assert dataclasses.asdict(tuned.card.training.init) == {
        "weights": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "trained_on": ("subset",),
        "digests_included": True,
    }
    assert tuned.trained_on == {"subset", "photos"}
    assert tuned.classes == tuple("0123456789")
    assert 0.5 <= tuned.threshold <= 1
    assert tuned.card.measured.threshold == tuned.threshold
    before, after = origin.model.state_dict(), tuned.model.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert "other classes" not in finished.err


@pytest.mark.slow
def test_train_without_init_records_no_origin_and_calibrates(mnist, tmp_path):
    assert mnist("train", *QUICK).code == 0
    artifact = artifacts.load(artifacts.newest(tmp_path / "models"))
    assert artifact.card.training.init is None
    assert artifact.trained_on == {"subset"}
    split = datasets.load("subset", tmp_path).train
    assert artifact.threshold == performance.choose_threshold(artifact.model, split, seed=0)


@pytest.mark.slow
def test_train_takes_the_architecture_of_the_initial_model(mnist, photos, tmp_path):
    torch.save(architecture.build("compact-1k", generator(0)).state_dict(), tmp_path / "small.pth")
    options = ("--init", "small.pth", "--dataset", photos, *ON_FOLDER)
    assert mnist("train", *options, "--recipe", "fast").code == 0
    assert mnist("train", *options, "--architecture", "compact-1k").code == 0
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.architecture == card.recipe.architecture == "compact-1k"
    assert card.training.init.trained_on == ("mnist",), "of weights without a card the worst is supposed"


def test_train_learns_other_classes_and_names_them(mnist, model, tmp_path):
    write_raw(tmp_path / "data", "FashionMNIST")
    finished = mnist("train", "--init", model, "--dataset", "fashion-mnist", *ON_FOLDER)
    assert finished.code == 0, finished
    assert (
        f"{model.name} was trained on other classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9); it learns new ones" in finished.err
    )
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
        "was trained on the classes T-shirt/top, ",
        "but subset has the classes 0, 1, 2",
    )
    other_baseline = mnist("gate", "--baseline", model)
    assert other_baseline.code == process.BAD_INPUT
    assert other_baseline.err.splitlines()[-1].startswith(f"error: {model} was trained on the classes 0, 1, 2")
    assert_one_clear_line(mnist("export", path, "--dataset", "subset"), "but subset has the classes 0, 1, 2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written to"), (errno.EACCES, "may write")],
)
def test_train_on_a_full_disk_keeps_earlier_models(mnist, model, monkeypatch, code, hint):
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}

    def fail(path, content):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(files, "write_atomically", fail)
    finished = mnist("train", *QUICK)
    assert finished.code == process.BAD_INPUT
    *warnings, last = finished.err.splitlines()
    *_, of_last_step = [line for line in warnings if "could not be saved" in line]  # others can warn of other load
    assert of_last_step.startswith("WARNING: step 32 could not be saved")
    assert last.startswith("error: ")
    assert "mnist_model_" in last
    assert hint in last
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("gate", [True, False])
def test_train_json_is_one_object_on_stdout(mnist, tmp_path, gate):
    finished = mnist("train", "--json", *(QUICK[:-1] if gate else QUICK))
    printed = json.loads(finished.out)
    path = artifacts.newest(tmp_path / "models")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert Path(printed["model"]).name == path.name
    assert (printed["sha256"], printed["recipe"]) == (card["sha256"], "standard with epochs 0.5")
    assert printed["card"] == card
    assert "step 32/32" in finished.err
    assert printed["decision"] == (None if not gate else "block" if finished.code else "ship")
    if gate:
        report = tmp_path / "reports" / path.stem / "report.json"
        assert printed == json.loads(report.read_text(encoding="utf-8"))
