"""Run the tests of a mutant in a new process; `scripts/mutants.py` uses this module."""

import contextlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

# Packages that the tests need, imported only once if processes can be forked. None of them may import mnist, or rich,
# which reads environment variables that the tests remove.
PRELOADED = ["hypothesis", "onnx", "pytest", "scipy.stats", "torch", "torchvision"]


def passes(names: Sequence[str], copy: Path, plugin: Any, timeout: float | None) -> bool:
    """Return True if the tests pass, in a new process, within ``timeout`` seconds."""
    # A forked process need not import the packages again.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    multiprocessing.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run_pytest, args=(names, copy, plugin))
    process.start()
    process.join(timeout)
    kill_with_children(process)
    return process.exitcode == 0


def _run_pytest(names: Sequence[str], copy: Path, plugin: Any) -> None:
    """Run test files of a copy of the checkout in this process, and exit."""
    assert "mnist" not in sys.modules, "the tests would not import the mutated module"
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.chdir(copy)
    # Write no bytecode: Python would reuse it for another mutant with the same file size and modification time.
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(copy), str(copy / "scripts")]
    # Remove MAKEFLAGS: otherwise, a make that a test starts would wait for the job slots of the outer make.
    os.environ.pop("MAKEFLAGS", None)
    os.environ |= {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'scripts'}", "PYTHONDONTWRITEBYTECODE": "1"}
    if "trainer" not in names:  # a change of the other modules has no effect on the model that tests/conftest.py trains
        os.environ["TEST_MODEL"] = str(copy.parent.parent / "model.pickle")
    options = ["-x", "-q", "--assert=plain", "--tb=no", "-p", "no:cacheprovider", f"--rootdir={copy}"]
    tests = [f"tests/test_{name}.py" for name in names]
    sys.exit(pytest.main([*options, f"--basetemp={copy.parent}/tests", *tests], plugins=[plugin]))


class Order:
    """A pytest plugin that runs tests in a given order, and stops at the first failure without searching for others."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._positions = {test: position for position, test in enumerate(tests)}

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        # Without shrinking: it takes long, and the smallest counterexample is not needed.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings.default, phases=phases, report_multiple_bugs=False)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._positions.get(item.nodeid, len(items)))


class Recorder:
    """A pytest plugin that writes the fields of a :class:`mutants.Recording` to a file."""

    def __init__(self, copy: Path, modules: Sequence[str], result: Path) -> None:
        self._paths, self._result = {module: str(copy / module) for module in modules}, result
        self._durations: dict[str, float] = {}

    def pytest_sessionstart(self) -> None:
        os.environ["COVERAGE_CORE"] = "ctrace"  # the core of Python 3.14 records a line for one context only
        import coverage

        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=list(self._paths.values()))
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._durations[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {module: data.contexts_by_lineno(path) for module, path in self._paths.items()}
        self._result.write_text(json.dumps([self._durations, lines]), encoding="utf-8")


def kill_with_children(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a process that is still running, and the processes that it has started."""
    if process.is_alive():
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.join()
