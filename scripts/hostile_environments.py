"""Run the test suite under the conditions of other machines.

    .venv/bin/python scripts/hostile_environments.py              run every case; takes 15 minutes
    .venv/bin/python scripts/hostile_environments.py --repeat 3   run every case three times
    .venv/bin/python scripts/hostile_environments.py github ascii 60-columns

Each case runs the test files that its conditions can affect, without the slow tests, in a copy of the checkout. A case
fails if a test fails, or if the tests leave files other than caches in the checkout. The cases `clock` and
`read-only-home` need Linux, and `clock` also needs the program faketime.
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
PLUGIN = Path(__file__).stem  # this module is also a pytest plugin
# Names of test files without test_ and .py, grouped into tests of output, of files, and of numbers.
COMMANDS = ("cli", "cli_deploy", "cli_gate", "cli_interrupts", "cli_predict", "cli_train")
PRINTING = ("cli", "cli_deploy", "cli_gate", "cli_predict", "cli_train", "ci_programs", "report", "summary")
DATASETS = ("datasets", "mirrors", "folder_datasets", "torchvision_datasets")
FILES = (
    *DATASETS,
    "artifacts",
    "card",
    "checkpoints",
    *COMMANDS,
    "files",
    "preparation",
    "reading",
    "integrity",
    "project",
    "release",
    "report",
    "summary",
)
COMPUTING = (
    *(
        "architecture",
        "artifacts",
        "checkpoints",
        *COMMANDS,
        "corruptions",
        *DATASETS,
        "card",
        "distributed",
        "export",
        "figures",
    ),
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
    """The conditions of one run of the suite."""

    tests: tuple[str, ...] = ()  # names of test files without test_ and .py; empty: all test files
    environment: dict[str, str] = field(default_factory=dict)  # environment variables to set
    wrapper: tuple[str, ...] = ()  # command-line words before the pytest command
    folder: str = "checkout"  # folder name of the copy
    busy_processes: int = 0  # number of additional processes that keep processors busy during the run
    processes: int = 2  # number of pytest's worker processes
    plugin: str = ""  # action of the plugin below: hide-unix or shuffle
    selection: str = ""  # expression for pytest's option -k


MOUNT = 'mount -t tmpfs -o ro none "$HOME" && exec "$@"'
CASES = {
    "github": Case(PRINTING, {"GITHUB_ACTIONS": "true", "CI": "true"}),  # run() also sets GITHUB_STEP_SUMMARY
    "60-columns": Case(PRINTING, {"COLUMNS": "60", "LINES": "20", "TERM": "dumb"}),
    "ascii": Case(
        (
            *PRINTING,
            "artifacts",
            "card",
            "checkpoints",
            "datasets",
            "files",
            "folder_datasets",
            "integrity",
            "resources",
        ),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    "other-processor": Case(
        COMPUTING,
        {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    ),
    # Training gives different weights with another PyTorch version or processor. A seed other than 0 simulates this.
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
    "busy": Case((*COMMANDS, *DATASETS, "distributed", "export", "page", "resources", "trainer"), busy_processes=4),
    "no-unix-modules": Case((*FILES, "distributed", "resources", "trainer"), plugin="hide-unix"),
    "clock": Case(
        (*FILES, "resources", "trainer"),
        {"TZ": "Pacific/Kiritimati"},
        wrapper=("faketime", "-f", "+1h"),
        # faketime replaces the time since boot with the time of day, and makes the timeout of a lock an hour longer.
        selection="not measures_its_memory and not hangs_times_out and not silent_server",
    ),
    "random-order": Case(plugin="shuffle"),
}


def main() -> None:
    """Run the cases and print one line for each; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeat", type=int, default=1, help="number of repetitions (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case: {', '.join(unknown)} (see --help)")
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
    """Run the suite under the conditions of a case; return the last line of pytest's output, and the problems."""
    with tempfile.TemporaryDirectory() as scratch, keep_busy(case.busy_processes):
        folder = Path(scratch) / case.folder
        copy_checkout(folder)
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
        command += ["-k", case.selection] if case.selection else []
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
            return "", [f"{case.wrapper[0]} is not installed (install it, or run other cases)"]
        lines = finished.stdout.strip().splitlines() or ["no output"]
        problems = [] if finished.returncode == 0 else lines[-200:]
        problems += [f"left behind: {path}" for path in sorted(_files(folder) - before)]
        problems += ["a test wrote to the job summary"] if summary.read_bytes() else []
        return lines[-1].strip("= "), problems


def copy_checkout(folder: Path) -> None:
    """Copy the files that git tracks or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _files(folder: Path) -> set[str]:
    """Return the paths of all files in a folder except caches."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return {str(path) for path in paths if not any(part.startswith(CACHES) for part in path.parts)}


@contextlib.contextmanager
def keep_busy(count: int) -> Iterator[None]:
    """Run processes that keep processors busy while the context is open."""
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
    """The module `os` without some functions that Windows lacks. Setting an attribute changes the real module."""

    def __getattr__(self, name: str) -> Any:
        if name in HIDDEN_FUNCTIONS:
            raise AttributeError(f"module 'os' has no attribute {name!r}")
        return getattr(os, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(os, name, value)

    def __delattr__(self, name: str) -> None:
        """Restore the real attribute, because monkeypatch deletes attributes that it mistakes for inherited ones."""
        setattr(os, name, _REAL_OS[name])


def _hide_unix() -> None:
    """Hide modules and functions that Windows lacks, but only from the modules of this project."""
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
    """Hide Unix modules if the variable HOSTILE requests this; pytest calls this function in every process."""
    if os.environ.get("HOSTILE", "").startswith("hide-unix"):
        _hide_unix()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Shuffle the tests if the variable HOSTILE requests this; the order is the same in all processes."""
    if match := re.fullmatch(r"shuffle (\d+)", os.environ.get("HOSTILE", "")):
        random.Random(int(match.group(1))).shuffle(items)


if __name__ == "__main__":
    main()
