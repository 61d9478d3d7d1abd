"""Fixtures for all tests, and the conditions that all tests share.

Every test runs in an empty folder, in the same environment on every machine, on the CPU, without a network, and without
the global random generator.
"""

import functools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# These variables change what programs print, what they compute with, or where they look for data. They are removed
# before torch and rich are imported, which read some of them once. A test that needs one sets it.
_REMOVED_VARIABLES = {
    *("CI", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SOURCE_DATE_EPOCH"),
}
_REMOVED_PREFIXES = ("GITHUB_", "MNIST_", "TORCHELASTIC_", "UV_")
for _name in list(os.environ):
    if _name in _REMOVED_VARIABLES or _name.startswith(_REMOVED_PREFIXES):
        del os.environ[_name]
# The threads of one process wait for each other by spinning: beside other work, two are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU rounds differently

import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console
from samples import save_model
from strategies import write_printed

from mnist import cli, datasets, recipes, trainer
from mnist.cli import display
from mnist.datasets import Dataset
from mnist.gate import measurement
from mnist.trainer import TrainingResult

torch.set_num_threads(1)

# Properties are checked on the same examples every time; HYPOTHESIS_PROFILE=explore looks for new ones.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, max_examples=50, **_COMMON)
settings.register_profile("explore", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """A test that looks up any host but this one fails."""
    look_up = socket.getaddrinfo

    def only_here(host, *arguments, **options):
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the tests may not reach {host!r}")
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", only_here)
        yield


@pytest.fixture(autouse=True)
def _untouched_global_generator():
    """Randomness comes from generators that are passed in: the global one is never drawn from."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before), "something drew from the global generator"


@pytest.fixture(autouse=True, scope="session")
def _no_mps():
    """Compute on the CPU on a Mac, too: hosted runners report a GPU that they cannot use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", functools.cache(lambda: False))
        yield


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    """Run each test in an empty folder, and restore the environment after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONWARNDEFAULTENCODING", raising=False)  # a child process would print its warnings
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def subset() -> Dataset:
    return datasets.load_subset()


@pytest.fixture(scope="session")
def trained(subset) -> TrainingResult:
    """Train what `make train DATASET=subset` trains.

    The weights depend on the processor and on PyTorch's version. No test may depend on them: TEST_SEED=1 gives others.
    """
    recipe = recipes.get("standard", epochs=15, seed=int(os.environ.get("TEST_SEED", "0")))
    return trainer.train(recipe, subset.train.images, subset.train.labels)


@pytest.fixture(scope="module")
def browser():
    """A real browser, for a module that tests a page."""
    from browser import launched  # it takes a while to import, and few tests need it

    with launched() as browser:
        yield browser


@dataclass
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def mnist(capsys, monkeypatch) -> Callable[..., Finished]:
    """Run a command of the command line in the test's folder, as if its output went to a file."""
    monkeypatch.setattr(display, "out", Console(width=100))

    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as exited:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(exited.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def few_images(monkeypatch) -> None:
    """Measure models on few images, so that the gate is fast."""
    monkeypatch.setattr(measurement, "IMAGES_PER_PROBE", 200)
    monkeypatch.setattr(measurement, "TRAINING_SAMPLE", 1000)


@pytest.fixture
def model(trained, tmp_path) -> Path:
    """Save a good model in models/, with a threshold of 0: it is sure of every digit."""
    return save_model(trained.model, tmp_path / "models", measured={"threshold": 0})


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write a folder with three images of each digit, of which one is held out."""
    return write_printed(tmp_path_factory.mktemp("folders") / "photos", each=3)
