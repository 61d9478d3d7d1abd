"""Fixtures for all tests, and what holds for all of them: no network but this machine itself, and no chance."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, settings

from mnist import cli, datasets, recipes, trainer
from mnist.datasets import Dataset
from mnist.trainer import Run

# The threads of one process wait for each other by spinning: beside other work, two are many times slower than one.
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


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)


@pytest.fixture(autouse=True)
def _outside_github_actions(monkeypatch):
    """Keep the models of the tests out of the job summary when CI runs the tests."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def subset() -> Dataset:
    return datasets.load_subset()


@pytest.fixture(scope="session")
def trained(subset) -> Run:
    """What `make train DATASET=subset` trains."""
    return trainer.train(recipes.get("standard", epochs=15), subset.train.images, subset.train.labels)


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
def mnist(capsys, tmp_path, monkeypatch) -> Callable[..., Finished]:
    """Run a command of the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as exited:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(exited.value.code or 0, captured.out, captured.err)

    return run
