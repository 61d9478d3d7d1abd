"""Time the commands that users wait for, in the working tree and, optionally, in another commit.

`scripts/benchmark.py` uses this module. Every command runs in a new process. With two checkouts, each round runs all
commands in one checkout and then in the other, so that a change in the machine's speed affects both.
"""

import configparser
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bootstrap
import documents

from mnist import files
from mnist.errors import MnistError, first_line

DATA_FOLDER = documents.ROOT / "data"
PICTURE = documents.ROOT / "examples" / "pictures" / "scan.png"
EPOCHS_OF_UNTRAINED_MODEL = 0.02  # few epochs suffice, because the gate's time does not depend on the training

# The rows of the table: for each key of a time in seconds, its description.
CONVENTIONAL = "conventional"
ROWS = {
    "fast": "`mnist train --recipe fast`, to about 99.0 %: training loop",
    "fast-process": "`mnist train --recipe fast --no-gate`: the complete process",
    CONVENTIONAL: "`scripts/conventional.py`: training loop",
    "baseline": "`mnist train --recipe baseline`, the same network: training loop",
    "predict": "`mnist predict x.png` in a new process",
    "predict-onnx": "`mnist predict x.png --model x.onnx`, which does not use PyTorch",
    "gate-standard": "`mnist gate`, network of `standard`, 10,000 test images",
    "gate-accurate": "`mnist gate`, network of `accurate`, 10,000 test images",
    "train": "`mnist train`, as `make train` runs it with data present: training loop",
    "train-rest": "`mnist train`, as `make train` runs it: the rest (start, data, evaluation, gate, report)",
}

Times = dict[str, float]  # seconds, with the same keys as ROWS
Accuracies = dict[str, dict[str, list[float]]]  # the accuracy for each seed, keyed by checkout name and recipe


class CommitError(MnistError):
    """The commit cannot be checked out or set up."""


@dataclass(frozen=True)
class Checkout:
    """A checkout of the repository, and the Python interpreter that runs it."""

    name: str
    folder: Path
    python: str = sys.executable

    def run(self, *arguments: object, codes: Sequence[int] = (0,)) -> tuple[float, str]:
        """Run Python in an empty folder with the package of this checkout; return the time in seconds and the output.

        Raises:
            subprocess.CalledProcessError: if the exit code is not one of ``codes``.
        """
        with tempfile.TemporaryDirectory() as folder:
            command = [self.python, *map(str, arguments)]
            environment = os.environ | {"PYTHONPATH": str(self.folder)}
            started = time.perf_counter()
            finished = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False
            )
            seconds = time.perf_counter() - started
        if finished.returncode not in codes:
            raise subprocess.CalledProcessError(finished.returncode, command, finished.stdout)
        return seconds, finished.stdout

    def check(self) -> None:
        """Check that Python imports this checkout's package; compile the package, so that no timed process has to.

        Raises:
            CommitError: if another package is imported.
        """
        imported = Path(self.run("-c", "import mnist; print(mnist.__file__)")[1].strip())
        if self.folder.resolve() not in imported.resolve().parents:
            raise CommitError(f"{self.python} imports {imported}, not {self.folder} (is PYTHONPATH ignored?)")
        self.run("-m", "compileall", "-q", self.folder / "mnist")

    def train(
        self,
        recipe: str,
        folder: Path,
        *options: object,
        seed: int = 0,
        device: str = "cpu",
        codes: Sequence[int] = (0,),
    ) -> dict[str, Any]:
        """Train a recipe with `mnist train`; return its weights file, time in seconds, memory in bytes and accuracy."""
        chosen = ["--recipe", recipe, "--seed", seed, "--device", device, *_DATA, *options]
        folders = ["--models-dir", folder, "--checkpoints-dir", folder / "checkpoints"]
        seconds, _ = self.run("-m", "mnist", "train", *chosen, *folders, codes=codes)
        path = next(folder.glob("*.json"))
        card = json.loads(path.read_text(encoding="utf-8"))
        return {
            "path": path.with_suffix(".pth"),
            "seconds": card["training"]["seconds"],
            "startup": card["training"]["startup_seconds"],
            "memory": card["training"]["peak_memory_bytes"],
            "accuracy": card["measured"]["accuracy"],
            "process": seconds,
        }


_DATA = ("--dataset", "mnist", "--data-dir", DATA_FOLDER)
WORKING_TREE = Checkout("working tree", documents.ROOT)


# ---- Another commit --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Checkout]:
    """Check out a commit into a temporary worktree; set up an environment for it if its requirements differ.

    Raises:
        CommitError: if there is no such commit, or its environment cannot be set up.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "base"
        _git("worktree", "add", "--quiet", "--detach", folder, commit)
        try:
            name = _git("-C", folder, "rev-parse", "--short", "HEAD")
            same = requirements(folder) == requirements(documents.ROOT)
            checkout = Checkout(name, folder, sys.executable if same else _set_up(folder))
            checkout.check()
            yield checkout
        finally:
            _git("worktree", "remove", "--force", folder)


def requirements(folder: Path) -> tuple[dict[str, str], str]:
    """Return the packages that the timed commands need, and the pinned versions; empty if a file lacks them.

    Raises:
        CommitError: if a file cannot be parsed.
    """
    setup = configparser.ConfigParser()
    constraints = folder / "constraints.txt"
    try:
        setup.read(folder / "setup.cfg", encoding="utf-8")
        packages = {extra: setup.get("options.extras_require", extra, fallback="") for extra in ("offline", "export")}
        packages["required"] = setup.get("options", "install_requires", fallback="")
        return packages, constraints.read_text(encoding="utf-8") if constraints.exists() else ""
    except (configparser.Error, UnicodeDecodeError) as error:
        raise CommitError(f"setup.cfg or constraints.txt in {folder} cannot be read: {first_line(error)}") from error


def _set_up(folder: Path) -> str:
    """Create a checkout's environment with its own `bootstrap.py`; return the path of the environment's Python."""
    print(f"setting up an environment for {folder}, because its requirements differ", file=sys.stderr)
    if subprocess.run([sys.executable, folder / "scripts" / "bootstrap.py"], check=False).returncode:
        raise CommitError("the environment of that commit could not be set up (see above)")
    return str(folder / ".venv" / bootstrap.PYTHON_IN_VENV)


def _git(*arguments: object) -> str:
    command = ["git", "-C", str(documents.ROOT), *map(str, arguments)]
    try:
        finished = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except OSError as error:
        raise CommitError(f"git, which --base needs, cannot be run: {files.explain(error)} (install git)") from error
    if finished.returncode:
        raise CommitError(f"git {arguments[0]}: {' '.join(finished.stderr.split())}")
    return finished.stdout.strip()


# ---- Rounds ----------------------------------------------------------------------------------------------------------


def time_round(checkout: Checkout, seed: int, device: str) -> tuple[Times, dict[str, dict[str, Any]]]:
    """Run every command once; return the times and the complete results of the recipes."""
    times: Times = {}
    runs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for recipe in ("baseline", "fast"):
            runs[recipe] = checkout.train(recipe, folder / recipe, "--no-gate", seed=seed, device=device)
            times[recipe] = runs[recipe]["seconds"]
        times["fast-process"] = runs["fast"]["process"]
        reports = ["--reports-dir", folder / "reports"]
        judged = (0, 1)  # expected exit codes, because the gate may block a model
        train = checkout.train("standard", folder / "standard", *reports, seed=seed, device=device, codes=judged)
        times |= {"train": train["seconds"], "train-rest": train["process"] - train["seconds"]}
        untrained = ["--no-gate", "--epochs", EPOCHS_OF_UNTRAINED_MODEL]
        accurate = checkout.train("accurate", folder / "accurate", *untrained, seed=seed, device=device)
        times["predict"], _ = checkout.run("-m", "mnist", "predict", PICTURE, "--model", train["path"])
        checkout.run("-m", "mnist", "export", train["path"], *_DATA)
        exported = train["path"].with_suffix(".onnx")
        with contextlib.suppress(subprocess.CalledProcessError):  # an earlier commit may need PyTorch for this
            times["predict-onnx"], _ = checkout.run("-m", "mnist", "predict", PICTURE, "--model", exported)
        for key, path in (("gate-standard", train["path"]), ("gate-accurate", accurate["path"])):
            options = [*_DATA, "--device", device, *reports]
            times[key], _ = checkout.run("-m", "mnist", "gate", path, *options, codes=judged)
    return times, runs


def in_turn(checkouts: Sequence[Checkout], number: int) -> list[Checkout]:
    """Return the checkouts in the order for a round; the order is reversed in every second round."""
    return list(checkouts if number % 2 == 0 else reversed(checkouts))


# ---- Tables ----------------------------------------------------------------------------------------------------------


def waiting_table(times: Mapping[str, Sequence[Times]]) -> str:
    """Return a table of times with a column for each checkout; with two, add the ratio of the second to the first.

    Args:
        times: the times of each round, keyed by checkout name.
    """
    header = ["", *(f"{name}, s" for name in times), *["ratio"] * (len(times) > 1)]
    first, *_, last = [*times.values(), *times.values()]
    rows = []
    for key, description in ROWS.items():
        columns = [[each[key] for each in rounds if key in each] for rounds in times.values()]
        if not all(columns):
            continue
        rows.append([description, *(documents.spread(column, 2) for column in columns)])
        if len(times) > 1:
            rows[-1].append(documents.spread([b[key] / a[key] for a, b in zip(first, last, strict=True)], 2))
    return documents.table(header, rows, "l" + "r" * (len(header) - 1))


def accuracy_table(accuracies: Accuracies) -> str:
    """Return a table of accuracies with a column for each checkout; with two, add the difference in points."""
    header = ["recipe", "seeds", *accuracies, *["difference in points"] * (len(accuracies) > 1)]
    first, *_, last = [*accuracies.values(), *accuracies.values()]
    rows = []
    for recipe, values in first.items():
        columns = [[100 * value for value in each[recipe]] for each in accuracies.values()]
        cells = [documents.spread(column, 2, " %", statistics.mean) for column in columns]
        if len(accuracies) > 1:
            differences = [100 * (b - a) for a, b in zip(values, last[recipe], strict=True)]
            cells.append(documents.spread(differences, 2, center=statistics.mean))
        rows.append([f"`{recipe}`", str(len(values)), *cells])
    return documents.table(header, rows, "l" + "r" * (len(header) - 1))
