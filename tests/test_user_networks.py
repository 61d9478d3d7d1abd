"""Test the user's own networks, named as MODULE:CLASS. A model file must never make the program import a module."""

import sys

import pytest
import torch
from commands import QUICK, assert_one_clear_line
from PIL import Image
from samples import save_model

from mnist import architecture, runs, starting, user_networks
from mnist.architecture import ArchitectureError
from mnist.cli.judging import Loader
from mnist.cli.model_options import ModelOptions
from mnist.starting import RunError
from mnist.storage import artifacts
from mnist.storage.artifacts import ArtifactError

NETWORK = """
from torch import nn
from mnist.architecture import Classifier

open("imported", "a").close()


class Net(Classifier):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)

    def layers(self):
        return nn.Flatten(), self.linear


class Wrong(Net):
    def layers(self):
        return (nn.Flatten(),)


class Broken(Net):
    def __init__(self):
        raise ValueError("no")
"""
NAME = "my_networks.linear:Net"


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """Write a package to the current folder, and unload it after the test."""
    (tmp_path / "my_networks").mkdir()
    (tmp_path / "my_networks" / "linear.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "my_networks" / "program.py").write_text("raise SystemExit(0)", encoding="utf-8")
    (tmp_path / "my_networks" / "path.py").write_text("import sys; sys.path.insert(0, 'lib')", encoding="utf-8")
    monkeypatch.setattr(architecture, "ARCHITECTURES", dict(architecture.ARCHITECTURES))
    path = list(sys.path)
    yield
    assert [name for name in sys.path if name != "lib"] == path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("my_networks")]:
        del sys.modules[name]


def forget(tmp_path) -> None:
    """Unload the package, as in a new process."""
    architecture.ARCHITECTURES.pop(NAME, None)
    for name in [name for name in sys.modules if name.startswith("my_networks")]:
        del sys.modules[name]
    (tmp_path / "imported").unlink(missing_ok=True)


@pytest.mark.slow
def test_commands_need_the_architecture_again(mnist, tmp_path):
    finished = mnist("train", "--architecture", NAME, *QUICK)
    assert finished.code == 0, finished
    path = artifacts.newest(tmp_path / "models")
    forget(tmp_path)
    picture = tmp_path / "picture.png"
    for command in (
        ("gate", path, "--dataset", "subset"),
        ("compare", path, path, "--dataset", "subset"),
        ("predict", picture, "--model", path),
        ("verify", path),
    ):
        refused = mnist(*command)
        assert refused.code == 2
        assert f"add --architecture {NAME}" in refused.out + refused.err
        assert not (tmp_path / "imported").exists(), "the card names a module"
    assert mnist("verify", path, "--architecture", NAME).code == 0
    assert artifacts.load(path).architecture == NAME
    assert "digit-accuracy" in mnist("gate", path, "--architecture", NAME).out
    assert mnist("compare", path, path, "--architecture", NAME).code == 0


def test_verify_does_not_call_an_unnamed_network_damaged(mnist, tmp_path):
    path = save(tmp_path)
    forget(tmp_path)
    finished = mnist("verify", path)
    assert (finished.code, "NOT CHECKED" in finished.out, "NOT INTACT" in finished.out) == (2, True, False)
    path.write_bytes(path.read_bytes()[:-1])
    finished = mnist("verify", path)
    assert (finished.code, "NOT CHECKED" in finished.out, "NOT INTACT" in finished.out) == (1, False, True)


def save(folder, name=NAME):
    """Save an untrained model of this architecture; return the path of its weights."""
    user_networks.require(name)
    return save_model(architecture.build(name, torch.Generator()), folder, recipe={"architecture": name})


def test_network_too_large_to_be_saved_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "MAX_WEIGHTS_BYTES", 30_000)
    settings = runs.Settings(overrides={"architecture": "cnn"}, dataset="subset", models_dir=tmp_path / "models")
    with pytest.raises(RunError, match=r"the weights of cnn take 6\d,\d{3} bytes, more than the limit of 30,000"):
        runs.train(settings)
    assert not list((tmp_path / "models").glob("*"))


def test_own_network_must_be_named(mnist, tmp_path):
    path = save(tmp_path)
    forget(tmp_path)
    expected = rf"{path.name} was trained with a network of your own.*\(add --architecture {NAME}\)"
    with pytest.raises(ArtifactError, match=expected):
        artifacts.load(path)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("command", [("predict", "picture.png", "--model"), ("export",), ("demo",)])
def test_model_of_another_architecture_is_refused(mnist, tmp_path, command):
    path = save(tmp_path, "cnn")
    Image.new("L", (28, 28)).save("picture.png")
    assert_one_clear_line(
        mnist(*command, path, "--architecture", NAME), f"{path} has the architecture cnn, not {NAME}", "remove"
    )
    assert_one_clear_line(mnist(*command, path, "--architecture", "fast"), "has the architecture cnn, not fast")
    assert_one_clear_line(mnist(*command, path, "--architecture", "nonsense"), "no architecture is called 'nonsense'")


def test_notice_names_an_option_that_does_not_apply(tmp_path, subset, capsys):
    """The gate and compare load several models, so an option may be meant for another one."""
    own, other = save(tmp_path / "own"), save(tmp_path / "other", "cnn")
    loader = Loader(torch.device("cpu"), ModelOptions(NAME, input_range="0-1"))
    loader.load(own, subset)
    assert capsys.readouterr().err == f"{own}: --input-range 0-1 is ignored, because the model is not an ONNX file\n"
    loader.load(other, subset)
    expected = f"{other}: --architecture {NAME} is ignored, because the model's network is cnn\n"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing_module:Net", "No module named 'missing_module' (run the command in the folder"),
        ("my_networks.py:Net", "write MODULE without .py"),
        ("my_networks", "no architecture is called 'my_networks' (available: cnn"),
        ("my_networks.linear:Missing", "has no attribute 'Missing'"),
        ("my_networks.linear:nn", "is not a subclass of mnist.architecture.Classifier"),
        ("my_networks.linear:Wrong", "has the shape [2, 784], not [2, 10]"),
        ("my_networks.linear:Broken", "no"),
        ("my_networks.program:Net", "0"),
        ("my_networks.path:Missing", "has no attribute 'Missing'"),
        (":", "cannot be used as a network"),
    ],
)
def test_unusable_architecture_is_refused_in_one_line(mnist, name, error):
    with pytest.raises(ArchitectureError):
        user_networks.require(name)
    assert name not in architecture.ARCHITECTURES
    assert_one_clear_line(mnist("train", "--architecture", name, *QUICK), error)
