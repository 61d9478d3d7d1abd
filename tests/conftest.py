"""Fixtures for all tests, and the conditions that all tests share.

Every test runs in an empty folder, in the same environment on every machine, on the CPU, without a network, and without
the global random generator.
"""

import functools
import os
import pickle
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# These variables change what programs print, what they compute with, or where they look for data. They are removed
# before torch and rich are imported, which read some of them only once. A test that needs one sets it.
_REMOVED_VARIABLES = {
    *("CI", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SOURCE_DATE_EPOCH"),
}
_REMOVED_PREFIXES = ("GITHUB_", "MNIST_", "TORCHELASTIC_", "UV_")
for _name in list(os.environ):
    if _name in _REMOVED_VARIABLES or _name.startswith(_REMOVED_PREFIXES):
        del os.environ[_name]
# A process that was started in the background, or with nohup, ignores these signals. Its children, to which tests send
# them, would ignore them as well.
for _name in ("SIGINT", "SIGHUP", "SIGUSR1"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)
# Threads of one process wait for each other in a busy loop: on a busy machine, two are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU rounds differently

import judged_models
import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console
from samples import save_model
from strategies import write_printed

from mnist import cli, datasets, files, recipes, trainer
from mnist.cli import tables
from mnist.datasets import Dataset
from mnist.trainer import TrainingResult

torch.set_num_threads(1)

# Property tests use the same examples every time; CI uses more of them ("thorough"). HYPOTHESIS_PROFILE=explore
# generates new ones.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, max_examples=20, **_COMMON)
settings.register_profile("thorough", derandomize=True, max_examples=50, **_COMMON)
settings.register_profile("explore", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their marks
def pytest_collection_modifyitems(items):
    """Mark the tests that open pages in a browser as slow."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Make the name lookup of every host except this machine fail."""
    getaddrinfo = socket.getaddrinfo

    def refuse_other_hosts(host, *arguments, **options):
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests must not connect to {host!r}")
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse_other_hosts)
        yield


@pytest.fixture(autouse=True)
def _untouched_global_generator():
    """Fail a test that draws from the global generator: every random number comes from a generator passed in."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before), "the test drew from the global generator"


@pytest.fixture(autouse=True, scope="session")
def _no_mps():
    """Compute on the CPU on macOS, too: hosted runners report a GPU that they cannot use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", functools.cache(lambda: False))
        yield


@pytest.fixture(autouse=True, scope="session")
def _subset_is_read_once():
    """Keep the offline subset in memory: most commands of the tests load it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_subset", functools.cache(datasets.load_subset))
        yield


@pytest.fixture(autouse=True, scope="session")
def _files_may_stay_in_the_cache():
    """Do not wait for the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_images():
    """Measure models on few images, so that the gate is fast."""
    with judged_models.measuring(judged_models.FEW_IMAGES):
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


@pytest.fixture
def public_mirrors(monkeypatch) -> list[str]:
    """Replace torchvision's mirrors of MNIST by an empty list, to which a test can add URLs."""
    import torchvision  # the import takes seconds, and few tests need it

    urls: list[str] = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", urls)
    return urls


@pytest.fixture
def serve() -> Iterator[Callable]:
    """Return a function that starts a web server; see `mirror_server`."""
    from mirror_server import servers

    with servers() as start:
        yield start


@pytest.fixture(scope="session")
def subset() -> Dataset:
    return datasets.load_subset()


@pytest.fixture(scope="session")
def trained(subset) -> TrainingResult:
    """Train a model in the same way as `make train DATASET=subset`.

    The weights depend on the processor and on the version of PyTorch. No test may depend on them: set TEST_SEED=1 to
    train others. The file TEST_MODEL keeps the result for later runs of the tests, such as those of scripts/mutants.py.
    """
    kept = os.environ.get("TEST_MODEL")
    if kept and os.path.exists(kept):
        return pickle.loads(Path(kept).read_bytes())
    recipe = recipes.get("standard", epochs=15, seed=int(os.environ.get("TEST_SEED", "0")))
    result = trainer.train(recipe, subset.train.images, subset.train.labels)
    if kept:
        files.write_atomically(Path(kept), pickle.dumps(result))
    return result


@pytest.fixture(scope="module")
def browser():
    """Start a real browser for a module that tests a page."""
    from browser import launched  # the import is slow, and few tests need it

    with launched() as browser:
        yield browser


@dataclass
class Finished:
    """The result of a command."""

    code: int  # exit code
    out: str  # standard output
    err: str  # standard error


@pytest.fixture
def mnist(capsys, monkeypatch) -> Callable[..., Finished]:
    """Return a function that runs a command in the test's folder, as if its output were redirected to a file."""
    monkeypatch.setattr(tables, "out", Console(width=100))

    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as exited:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(exited.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def saved_model(trained, subset, tmp_path_factory) -> Path:
    """Save a good model with its true card and its digests."""
    return save_model(trained.model, tmp_path_factory.mktemp("models"), data=subset)


@pytest.fixture
def model(saved_model, tmp_path) -> Path:
    """Copy the good model, its card and its digests to models/, with a report that it passed the gate."""
    shutil.copytree(saved_model.parent, tmp_path / "models")
    judged_models.write_decision(saved_model, "ship", tmp_path / "reports" / "earlier")
    return tmp_path / "models" / saved_model.name


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write a folder with three images of each digit, of which one is held out."""
    return write_printed(tmp_path_factory.mktemp("folders") / "photos", each=3)


@pytest.fixture(scope="module")
def judged(trained, subset, tmp_path_factory):
    """Return a function that judges a model, by default a good one."""

    def judge(model=trained.model, **options):
        return judged_models.judge(model, subset, tmp_path_factory.mktemp("models"), **options)

    return judge


@pytest.fixture(scope="module")
def good(judged):
    return judged()


@pytest.fixture(scope="module")
def compared(judged):
    """Judge a good model with an untrained one as the baseline."""
    return judged(previous=judged_models.untrained_model())
