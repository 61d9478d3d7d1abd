import configparser
import contextlib
import errno
import importlib.metadata
import os
import pickle
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from commands import QUICK, assert_one_clear_line
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import archives_of, generator, idx_bytes, tiny_mnist, write_raw

from mnist import architecture, cli, datasets
from mnist.cli import process
from mnist.datasets import mnist as reader
from mnist.report import figures


def test_cli_without_command_shows_help(mnist):
    finished = mnist()
    assert finished.code == 0
    assert all(f"\n  {command} " in finished.out for command in cli.COMMANDS)


@pytest.mark.parametrize("command", ["data", "train", "augment", "gate", "export"])
def test_help_describes_every_command(mnist, command):
    finished = mnist(command, "--help")
    assert finished.code == 0
    assert "MNIST_MIRROR" in finished.out


def test_help_and_bad_options_do_not_import_torch():
    program = (
        "import sys; from mnist import cli\ntry: cli.main(['train', '--recipe', 'nope'])\nexcept SystemExit: pass\n"
    )
    program += "print('torch' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "False\n"


@pytest.mark.slow
def test_import_of_torch_is_exempt_from_garbage_collection():
    program = "import gc; from mnist.cli import process; process.import_torch(); first = gc.get_freeze_count(); "
    program += "kept = [[] for _ in range(10_000)]; process.import_torch(); "
    program += "print(gc.isenabled(), first > 100_000, gc.get_freeze_count() == first)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "True True True\n"


def test_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mnist", "--version"])
    monkeypatch.delitem(sys.modules, "mnist.__main__", raising=False)  # runpy warns of it
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("mnist", run_name="__main__")
    assert capsys.readouterr().out.startswith("mnist, version ")


@pytest.fixture
def defect(monkeypatch, tmp_path):
    """Let `mnist data` fail with an error of any type, and save tracebacks in the test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def plan(error: Exception) -> None:
        def fail(*arguments, **options):
            raise error

        monkeypatch.setattr(datasets, "load", fail)

    return plan


@pytest.mark.parametrize(
    "error", [TypeError("no\nlines"), KeyError(3), UnicodeError(), MemoryError(), RecursionError()]
)
def test_internal_error_is_one_line_with_the_traceback_in_a_file(mnist, tmp_path, defect, error):
    defect(error)
    finished = mnist("data")
    assert finished.code == process.INTERNAL_ERROR
    (path,) = tmp_path.glob("mnist_error_*.txt")
    (line,) = finished.err.splitlines()
    assert line.startswith(f"error: internal error: {type(error).__name__}: ")
    assert line.endswith(f"(please report it with the file {path})")
    assert "in fail" in path.read_text(encoding="utf-8")


def test_debug_prints_the_traceback(mnist, tmp_path, defect):
    defect(TypeError("a defect"))
    finished = mnist("--debug", "data")
    assert finished.code == process.INTERNAL_ERROR
    first, *_, last = finished.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "error: internal error: TypeError: a defect (please report it with the lines above)"
    assert list(tmp_path.iterdir()) == []


def test_internal_error_prints_the_traceback_if_no_file_can_be_written(mnist, tmp_path, monkeypatch, defect):
    defect(TypeError("a defect"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    finished = mnist("data")
    assert finished.code == process.INTERNAL_ERROR
    assert "in fail" in finished.err


def test_closed_pipe_elsewhere_is_bad_input(mnist, defect):
    """click would exit with 1, which stands for a blocked model."""
    defect(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
    assert_one_clear_line(mnist("data"), "Broken pipe")


def test_both_programs_start_at_the_same_function():
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
    assert settings["options.entry_points"]["console_scripts"].strip() == "mnist = mnist.__main__:main"


def test_version_is_that_of_the_package(mnist):
    assert importlib.metadata.version("mnist") in mnist("--version").out


def test_data_counts_images_per_digit(mnist):
    finished = mnist("data", "--dataset", "subset")
    assert finished.code == 0
    assert finished.out.count(" 400 ") == finished.out.count(" 100 ") == 10


@pytest.mark.slow
def test_augment_draws_a_picture_from_the_seed(mnist, tmp_path):
    pictures = []
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        finished = mnist(
            "augment", "--dataset", "subset", "--seed", seed, "--columns", 5, "--draws", 2, "--output", name
        )
        assert (finished.code, finished.out) == (0, f"{name}\n")
        pictures.append(Image.open(tmp_path / name).tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_augment_never_overwrites_a_photo(mnist, tmp_path):
    arguments = ("augment", "--dataset", "subset", "--columns", 5, "--draws", 1, "--output", "photo.png")
    Image.new("L", (28, 28)).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    assert_one_clear_line(mnist(*arguments), "photo.png exists and was not drawn by this program", "--force")
    assert (tmp_path / "photo.png").read_bytes() == before
    assert mnist(*arguments, "--force").code == 0
    assert mnist(*arguments).code == 0, "now it is a picture of this program"


def test_augment_draws_different_versions_of_each_digit(mnist, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "draw_augmentation", lambda *arguments: drawn.append(arguments))
    mnist("augment", "--dataset", "subset", "--columns", 12, "--draws", 3)
    originals, augmented, names, subtitle, _ = drawn[0]
    assert names == [*"012345678901"]
    assert augmented.shape == (3, 12, 28, 28)
    assert len(torch.cat([originals[None], augmented]).flatten(0, 1).flatten(1).unique(dim=0)) == 48
    assert "offline subset" in subtitle


@given(st.text(st.characters(codec=None)), st.sampled_from(["ascii", "latin-1", "cp437", "shift_jis", "utf-8"]))
def test_symbols_handler_encodes_any_text(text, encoding):
    written = text.encode(encoding, "mnist.symbols").decode(encoding)
    with contextlib.suppress(UnicodeEncodeError):
        assert written.encode(encoding) == text.encode(encoding)


@pytest.mark.parametrize("name", ["fashion-mnist", "qmnist"])
def test_data_counts_images_by_class_name(mnist, tmp_path, name):
    write_raw(tmp_path / "data", datasets.TORCHVISION_DATASETS[name])
    finished = mnist("data", "--dataset", name)
    assert finished.code == 0, finished
    for split in ("training", "test"):
        assert f"{datasets.TORCHVISION_DATASETS[name]} {split}" in finished.out
    for shown in datasets.load(name, tmp_path / "data").train.classes:
        assert f"\n  {shown} " in finished.out


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
        (["trian"], ["there is no command 'trian' (did you mean 'train'?)"]),
        (["xyz"], ["there is no command 'xyz' (see 'mnist --help')"]),
        (["data", "--dataset", "mnist", "--mirror", "nowhere"], ["nowhere is neither a URL nor a folder"]),
        (["augment", "--columns", "2"], ["--columns"]),
        (["augment", "--dataset", "subset", "--output", "text.pth"], ["--output must end in .png"]),
        (["augment", "--dataset", "subset", "--output", ""], ["the path is empty"]),
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
            ["whole.pth has the architecture cnn, not fast"],
        ),
        (["predict"], ["Missing argument 'IMAGE...'", "mnist predict --help"]),
        (["predict", "--show"], ["Missing argument 'IMAGE...' (see"]),
        (["predict", "--show", "text.pth"], ["text.pth was taken for the value of --show; put the images before"]),
        (["predict", "nothing-*.png"], ["no file matches nothing-*.png"]),
        (["predict", "."], ["there is no image in ."]),
        (["predict", "scan.png"], ["there is no model in models", "make train"]),
        (["predict", "scan.png", "--model", "missing.pth"], ["there is no model at missing.pth"]),
        (["predict", "scan.png", "--show", "seen.jpg"], ["--show must end in .png, not seen.jpg"]),
        (["predict", "scan.png", "text.pth"], ["text.pth is a model, not an image (name it with --model)"]),
        (["predict", ""], ["an IMAGE is empty"]),
        (["predict", "scan.png", "--models-dir", "text.pth"], ["text.pth is a file, not a folder of models"]),
        (["models", "--models-dir", "text.pth"], ["text.pth is a file, not a folder of models"]),
        (["gate", "card.json"], ["card.json does not hold the weights of a model (name the .pth file beside it)"]),
        (["train", "--recipe", "my"], ["accurate-1k, or a .toml file)"]),
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
def test_bad_input_is_one_clear_line(mnist, tmp_path, arguments, words):
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
def test_data_reports_contradictory_data_in_one_line(mnist, tmp_path, monkeypatch, images, labels, complaint):
    archives, packed = archives_of([images, labels, *tiny_mnist()[2:]])
    monkeypatch.setattr(reader, "MNIST", archives)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    finished = mnist("train", "--mirror", tmp_path)
    *notices, last = finished.err.splitlines()
    assert finished.code == process.BAD_INPUT
    assert last.startswith("error: ")
    assert complaint in last
    assert all(line.startswith("downloading ") for line in notices)
    assert list(tmp_path.glob("models/*")) == []


def test_data_names_a_truncated_archive(mnist, tmp_path, public_mirrors):
    path = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    finished = mnist("data", "--dataset", "mnist")
    assert finished.code == process.BAD_INPUT
    first, last = finished.err.splitlines()
    assert f"{path.relative_to(tmp_path)} is damaged" in first
    assert last.startswith("error: could not download train-images-idx3-ubyte.gz")
    assert path.read_bytes() == b"half a download"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["augment", "--dataset", "subset"], ["data", "--dataset", "mnist", "--mirror", "."]]
)
def test_full_disk_is_reported_for_pictures_and_data(mnist, tmp_path, monkeypatch, command):
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
