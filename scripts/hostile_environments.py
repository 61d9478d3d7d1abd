"""Run the test suite under the conditions of other people's machines.

    .venv/bin/python scripts/hostile_environments.py              every case, a quarter of an hour
    .venv/bin/python scripts/hostile_environments.py --repeat 3   three times in a row
    .venv/bin/python scripts/hostile_environments.py github ascii 60-columns

Each case runs on a copy of the checkout, without the slow tests, and on those test files alone that can notice it. It
fails if a test fails, or if the tests leave anything but caches in the checkout. The cases `clock` and `read-only-home`
need Linux, and `clock` the program faketime.
"""

import argparse
import builtins
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHES = (".coverage", ".hypothesis", ".pytest_cache", "__pycache__")
PLUGIN = Path(__file__).stem  # this module is also the pytest plugin that a case may need
PRINTING = ("cli", "ci_programs", "report")
DATASETS = ("datasets", "mirrors", "folder_datasets", "torchvision_datasets")
FILES = (
    *DATASETS,
    "artifacts",
    "card",
    "checkpoints",
    "cli",
    "files",
    "preparation",
    "integrity",
    "project",
    "release",
    "report",
)
COMPUTING = (
    *("architecture", "artifacts", "card", "checkpoints", "cli", "corruptions", "distributed", "export", "figures"),
    *DATASETS,
    *(
        "gate",
        "gate_power",
        "preparation",
        "inference",
        "intervals",
        "measurement",
        "metrics",
        "model_validation",
        "trainer",
        "transforms",
    ),
)


@dataclass(frozen=True)
class Case:
    """Conditions for the suite."""

    tests: tuple[str, ...] = ()  # names of test files without test_ and .py; none: all of them
    environment: dict[str, str] = field(default_factory=dict)  # variables to set
    wrapper: tuple[str, ...] = ()  # a program that starts the tests
    folder: str = "checkout"  # name of the checkout's folder
    busy_processes: int = 0  # to run beside it
    processes: int = 2  # that share the tests
    plugin: str = ""  # what the plugin below does: hide-unix or shuffle
    left_out: str = ""  # an expression for pytest's -k


MOUNT = 'mount -t tmpfs -o ro none "$HOME" && exec "$@"'
CASES = {
    "github": Case(PRINTING, {"GITHUB_ACTIONS": "true", "CI": "true"}),  # and the file of a job summary
    "60-columns": Case(PRINTING, {"COLUMNS": "60", "LINES": "20", "TERM": "dumb"}),
    "ascii": Case(
        ("artifacts", "card", "checkpoints", "cli", *DATASETS, "files", "integrity", "report", "resources"),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    "other-processor": Case(
        COMPUTING,
        {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    ),
    # Another version of PyTorch, or another processor, trains other weights. The seed of the suite's model is 0.
    "other-weights": Case(COMPUTING, {"TEST_SEED": "1"}),
    "one-thread": Case(
        (*DATASETS, "distributed", "export", "resources", "trainer"),
        {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        wrapper=("taskset", "--cpu-list", "0"),
        processes=1,
    ),
    "odd-path": Case((*FILES, "ci_programs", "figures", "page"), folder="checkout #1, ümlaut [brackets]"),
    "read-only-home": Case(
        (*DATASETS, "examples", "export", "figures", "page", "project", "release", "report_page"),
        wrapper=("unshare", "--mount", "sh", "-c", MOUNT, "sh"),
    ),
    "busy": Case(("cli", *DATASETS, "distributed", "export", "page", "resources", "trainer"), busy_processes=4),
    "no-unix-modules": Case((*FILES, "distributed", "resources", "trainer"), plugin="hide-unix"),
    "clock": Case(
        (*FILES, "resources", "trainer"),
        {"TZ": "Pacific/Kiritimati"},
        wrapper=("faketime", "-f", "+1h"),
        left_out="not measures_its_memory",  # faketime gives the time of day for the time since the boot
    ),
    "random-order": Case(plugin="shuffle"),
}


def main() -> None:
    """Run the cases, print a line for each, and exit with 1 if any has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeat", type=int, default=1, help="times in a row")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case is called {', '.join(unknown)}")
    failed = False
    for repetition in range(options.repeat):
        for name in options.cases or CASES:
            started = time.monotonic()
            result, problems = run(name, CASES[name], seed=repetition)
            failed |= bool(problems)
            print(f"{'FAILED' if problems else 'passed'}  {name:16} {time.monotonic() - started:4.0f} s  {result}")
            print(*problems, sep="\n", end="\n" * bool(problems), flush=True)
    sys.exit(failed)


def run(name: str, case: Case, seed: int) -> tuple[str, list[str]]:
    """Run the suite under a case; return pytest's last line, and what is wrong."""
    with tempfile.TemporaryDirectory() as scratch, _busy(case.busy_processes):
        folder = Path(scratch) / case.folder
        _copy_checkout(folder)
        home, summary = Path(scratch) / "home", Path(scratch) / "summary.md"
        home.mkdir()
        summary.touch()
        before = _files(folder)
        variables = {name: value for name, value in os.environ.items() if name not in ("LANG", "MAKEFLAGS")}
        variables |= {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'scripts'}", "PYTHONWARNDEFAULTENCODING": "1"}
        variables |= {"GITHUB_STEP_SUMMARY": str(summary), "HOSTILE": f"{case.plugin} {seed}"}
        variables |= {"HOME": str(home)} if name == "read-only-home" else {}
        command = [*case.wrapper, sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", PLUGIN]
        command += ["--numprocesses", str(case.processes), "--dist", "worksteal", f"--basetemp={scratch}/tests"]
        command += ["-k", case.left_out] if case.left_out else []
        command += [f"tests/test_{test}.py" for test in case.tests]
        try:
            finished = subprocess.run(
                command,
                cwd=folder,
                env=variables | case.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            return "", [f"{case.wrapper[0]} is not installed"]
        lines = finished.stdout.strip().splitlines() or ["no output"]
        problems = [] if finished.returncode == 0 else lines[-200:]
        problems += [f"left behind: {path}" for path in sorted(_files(folder) - before)]
        problems += ["the job summary was written to"] if summary.read_bytes() else []
        return lines[-1].strip("= "), problems


def _copy_checkout(folder: Path) -> None:
    """Copy the files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _files(folder: Path) -> set[str]:
    """Return all files in a folder but caches."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return {str(path) for path in paths if not any(part.startswith(CACHES) for part in path.parts)}


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep processors busy with other processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ---- The pytest plugin -----------------------------------------------------------------------------------------------

HIDDEN_MODULES = ("fcntl", "resource", "pwd", "termios")
HIDDEN_FUNCTIONS = ("fork", "forkpty", "register_at_fork", "sched_getaffinity", "getuid", "geteuid", "killpg")


_REAL_OS = dict(vars(os))


class _OsWithoutUnix(types.ModuleType):
    """The module `os`, without some functions that Windows lacks. Changes go to the real module."""

    def __getattr__(self, name: str) -> Any:
        if name in HIDDEN_FUNCTIONS:
            raise AttributeError(f"module 'os' has no attribute {name!r}")
        return getattr(os, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(os, name, value)

    def __delattr__(self, name: str) -> None:
        """Undo a change, as a test does that takes the attribute for an inherited one."""
        setattr(os, name, _REAL_OS[name])


def _hide_unix() -> None:
    """Hide modules and functions that Windows lacks from the modules of this project, and from no others."""
    real_import, without_unix = builtins.__import__, _OsWithoutUnix("os")
    folders = tuple(str(Path.cwd() / name) + os.sep for name in ("mnist", "tests", "scripts", "examples"))

    def import_as_on_windows(name: str, namespace: Any = None, *arguments: Any, **options: Any) -> Any:
        importer = str((namespace or {}).get("__file__", ""))
        if importer.startswith(folders) and importer != __file__:
            if name in HIDDEN_MODULES:
                raise ImportError(f"No module named {name!r}")
            if name == "os":
                return without_unix
        return real_import(name, namespace, *arguments, **options)

    builtins.__import__ = import_as_on_windows


def pytest_configure() -> None:
    """Prepare what HOSTILE asks for, in every process that runs tests."""
    if os.environ.get("HOSTILE", "").startswith("hide-unix"):
        _hide_unix()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Shuffle the tests, if HOSTILE asks for it; all processes must agree on an order."""
    if match := re.fullmatch(r"shuffle (\d+)", os.environ.get("HOSTILE", "")):
        random.Random(int(match.group(1))).shuffle(items)


if __name__ == "__main__":
    main()
