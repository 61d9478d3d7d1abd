"""Inject faults into real training runs: kills, failing writes, flipped bits and concurrent programs.

Each function injects one kind of fault, looks for damage, and returns a :class:`Tally`.
"""

import contextlib
import datetime
import errno
import http.server
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from samples import checkpoint as make_checkpoint
from samples import save_model
from sandbox import SAVE_EVERY_10_STEPS, TRAIN_COMMAND, Sandbox

from mnist import architecture, recipes
from mnist.datasets import mnist as reader
from mnist.storage import checkpoints, integrity

MAX_KILLS_PER_RUN = 5  # after this many kills, the run is not killed again, so that it can end
SAVE_EVERY_50_STEPS = ("--checkpoint-interval", "50")
DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SHORT_WRITE = "short write"  # not an error: os.write writes only half of the bytes, and returns their number
LOG_CHARACTERS = 300  # number of characters at the end of a log that are shown with a problem


@dataclass
class Tally:
    """The number of times that a fault was injected, and the losses."""

    fault: str
    times: int = 0
    problems: list[str] = field(default_factory=list)  # one line for each loss
    details: str = ""

    def add(self, *problems: str) -> None:
        """Count one injected fault and the problems that it caused."""
        self.times += 1
        self.problems += problems

    def cells(self) -> list[str]:
        """Return the table row: fault, times, survived or refused, lost, details."""
        lost = len(self.problems)
        return [self.fault, str(self.times), str(self.times - lost), str(lost), self.details]


# ---- Kills -----------------------------------------------------------------------------------------------------------


def kill_at_random(sandbox: Sandbox, folder: Path, kills: int, seed: int = 0) -> Tally:
    """Kill training runs at random instants and resume each one until it ends."""
    rng = random.Random(seed)
    tally = Tally("SIGKILL at a random instant")
    options = (*TRAIN_COMMAND, *SAVE_EVERY_10_STEPS, "--resume")
    runs = 0
    while tally.times < kills:
        runs += 1
        run_folder = folder / str(runs)
        earlier = save_earlier_model(run_folder)
        for _ in range(MAX_KILLS_PER_RUN):
            if sandbox.run(run_folder, *options, seconds=rng.uniform(0, 0.8 * sandbox.seconds_per_run)).code == 0:
                break
            tally.add(*find_damage(sandbox, run_folder, earlier))
        else:
            sandbox.run(run_folder, *options)
        tally.problems += find_differences(sandbox, run_folder, earlier)
    tally.details = f"{runs} runs, each resumed to the weights of an undisturbed run"
    return tally


def kill_at_every_write(sandbox: Sandbox, folder: Path, every: int = 1) -> Tally:
    """Kill a training run at its n-th file operation, for each n in turn, and resume it.

    During a write, the process is killed after half of the bytes are written. For a shorter test, only every
    ``every``-th operation is tried.
    """
    tally = Tally("SIGKILL in the middle of each file operation in turn")
    options = (*TRAIN_COMMAND, *SAVE_EVERY_50_STEPS)
    for number in range(1, 10_000, every):
        run_folder = folder / str(number)
        earlier = save_earlier_model(run_folder)
        if sandbox.run(run_folder, *options, hook=KillAt(number)).code == 0:
            break
        tally.add(*find_damage(sandbox, run_folder, earlier))
        sandbox.run(run_folder, *options, "--resume")
        tally.problems += find_differences(sandbox, run_folder, earlier)
    tally.details = "downloads, extraction, checkpoints, model; each run resumed to the same weights"
    return tally


@dataclass
class KillAt:
    """A hook for a run that kills the run's process at the n-th file operation."""

    number: int  # counted from 1

    def __call__(self) -> "contextlib.AbstractContextManager[None]":
        """Return the context manager in which the process kills itself."""
        return intercept(self._act)

    def _act(self, number: int, operation: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number == self.number:
            if operation == "write":
                call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)


@contextlib.contextmanager
def intercept(act: Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]) -> Iterator[None]:
    """Replace the functions of `os` that change files with calls of ``act``.

    ``act`` is called with the number of the operation, its name, the real function and its arguments. Operations on
    lock files are neither counted nor replaced.
    """
    count = 0
    lock = threading.Lock()

    def replacement(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            writes = name != "open" or arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if options or not writes or str(arguments[0]).endswith(".lock"):
                return real(*arguments, **options)
            with lock:
                count += 1
                number = count
            return act(number, name, real, arguments)

        return call

    with contextlib.ExitStack() as stack:
        for name in ("open", "write", "fsync", "replace", "unlink"):
            stack.enter_context(mock.patch.object(os, name, replacement(name, getattr(os, name))))
        yield


def save_earlier_model(folder: Path) -> dict[Path, bytes]:
    """Save a model dated in an earlier year in ``folder``; return the contents of its files, keyed by path."""
    save_dated_model(architecture.build("cnn", torch.Generator()), folder / "models", year=2020)
    return {path: path.read_bytes() for path in (folder / "models").iterdir()}


def save_dated_model(model: torch.nn.Module, models: Path, year: int) -> Path:
    """Save a model as if today were the first day of ``year``; return its weights file."""
    return save_model(model, models, now=datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc))


def find_damage(sandbox: Sandbox, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    """Return one line for each damaged file in ``folder`` and each changed file of the earlier model.

    Temporary files of interrupted writes do not count as damage, nor does an empty card that reserves a model's name.
    """
    with mock.patch.object(reader, "MNIST", sandbox.archives):
        findings = list(integrity.check(folder))
    damaged = [finding for finding in findings if finding.problem and finding.kind not in ("leftover", "model card")]
    changed = [path for path, content in earlier.items() if path.read_bytes() != content]
    return [f"{finding.path}: {finding.problem}" for finding in damaged] + [f"{path} was changed" for path in changed]


def find_differences(sandbox: Sandbox, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    """Return the damage in ``folder``, or one line if the newest model differs from that of an undisturbed run."""
    if sandbox.is_undisturbed(folder / "models"):
        return find_damage(sandbox, folder, earlier)
    log = (folder / "log").read_text(encoding="utf-8")
    return [f"{folder}: other weights than an undisturbed run, or none: {log[-LOG_CHARACTERS:]}"]


# ---- Disk faults -----------------------------------------------------------------------------------------------------


def fail_every_write(folder: Path) -> Tally:
    """Save a model and a checkpoint while one file operation fails; try each operation with each error in turn."""
    tally = Tally("ENOSPC, EIO, EACCES or a short write at each file operation of a save in turn")
    model = architecture.build("cnn", torch.Generator().manual_seed(1))
    checkpoint = make_checkpoint(
        recipes.get("standard"), training={"model": model.state_dict(), "batches": {"step": 1}}
    )
    run = checkpoints.start(folder / "checkpoints")
    run.write(1, checkpoint)
    saves = {
        "model": (folder / "models", lambda: save_dated_model(model, folder / "models", year=2021)),
        "checkpoint": (run.path, lambda: run.write(2, checkpoint)),
    }
    save_dated_model(model, folder / "models", year=2020)
    for kind, (target, save) in saves.items():
        before = {path: path.read_bytes() for path in target.iterdir()}
        for error in (*DISK_ERRORS, SHORT_WRITE):
            for number in range(1, 1000):
                fault = Fault(number, error)
                problems = _attempt(fault, save, f"{kind}, operation {number}, {error}")
                if not fault.happened:
                    break
                new_files = [path for path in target.iterdir() if path not in before]
                problems += [f"{path} was changed" for path in before if path.read_bytes() != before[path]]
                problems += [f"{found.path}: {found.problem}" for found in integrity.check(target) if found.problem]
                tally.add(*problems)
                for path in new_files:
                    path.unlink()
            for path in set(target.iterdir()) - set(before):
                path.unlink()
    run.close()
    tally.details = "the old files are intact and the error names its cause, or the new files are complete"
    return tally


@dataclass
class Fault:
    """A function for ``act`` of :func:`intercept` that makes the n-th file operation fail."""

    number: int  # counted from 1
    error: int | str  # an errno, or SHORT_WRITE
    happened: bool = False

    def __call__(self, number: int, operation: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number != self.number:
            return call(*arguments)
        self.happened = True
        if self.error != SHORT_WRITE:
            name = () if operation in ("write", "fsync") else (str(arguments[0]),)
            raise OSError(self.error, os.strerror(self.error), *name)
        if operation == "write":
            return call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        return call(*arguments)


def _attempt(fault: Fault, save: Callable[[], Any], title: str) -> list[str]:
    """Save while a fault is injected; return one line if the error is not the injected one or does not name a file."""
    try:
        with intercept(fault):
            save()
    except OSError as error:
        return [] if error.errno == fault.error and error.filename else [f"{title}: {error!r}"]
    return []


def flip_bits(sandbox: Sandbox, folder: Path, flips: int, seed: int = 0) -> Tally:
    """Flip one random bit of a model, a card, a checkpoint or a data file; `mnist verify` must detect each flip."""
    rng = random.Random(seed)
    tally = Tally("one flipped bit in a model, a card, a checkpoint or a data file")
    folder.mkdir()
    sandbox.run(folder, *TRAIN_COMMAND, *SAVE_EVERY_50_STEPS, hook=KillAt(100))  # a checkpoint exists by then
    save_dated_model(architecture.build("cnn", torch.Generator()), folder / "models", year=2020)
    suffixes = (".pth", ".ckpt", ".gz", "-ubyte")
    paths = [path for path in folder.rglob("*") if path.name.endswith(suffixes)]
    paths.append(next((folder / "models").glob("*2020*.json")))
    with mock.patch.object(reader, "MNIST", sandbox.archives):
        for _ in range(flips):
            path = rng.choice(paths)
            content = path.read_bytes()
            position = rng.randrange(len(content))
            flipped = content[position] ^ 1 << rng.randrange(8)
            path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
            findings = list(integrity.check(path.with_suffix(".pth") if path.suffix == ".json" else path))
            tally.add(*([] if findings[0].problem else [f"{path}: the flipped bit in byte {position} was not found"]))
            path.write_bytes(content)
    tally.details = f"{len(paths)} files"
    return tally


# ---- Concurrent programs ---------------------------------------------------------------------------------------------


def start_at_once(sandbox: Sandbox, folder: Path, count: int) -> Tally:
    """Start ``count`` processes of `mnist data` and as many of `mnist train` at once in one folder.

    All must succeed, each archive must be downloaded once, and every training run must save its own model.
    """
    tally = Tally(f"{count} `mnist data` and {count} `mnist train` at once in one folder")
    folder.mkdir()
    downloads: Counter[str] = Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            downloads[self.path] += 1
            super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    def handler(*arguments: Any) -> Handler:
        return Handler(*arguments, directory=str(sandbox.mirror))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        commands = [("data", "--dataset", "mnist")] * count + [TRAIN_COMMAND] * count
        processes = [
            sandbox.start(folder, *command, log=f"log {number}", mirror=mirror)
            for number, command in enumerate(commands)
        ]
        for number, process in enumerate(processes):
            process.join()
            log = (folder / f"log {number}").read_text(encoding="utf-8")
            tally.add(*([f"exit code {process.exitcode}: {log[-LOG_CHARACTERS:]}"] if process.exitcode else []))
        server.shutdown()
    models = list((folder / "models").glob("*.pth"))
    if len(models) != count or any(path.read_bytes() != sandbox.weights for path in models):
        tally.problems.append(f"{len(models)} models of {count} runs, or other weights than an undisturbed run")
    if set(downloads.values()) != {1} or len(downloads) != 4:
        tally.problems.append(f"downloads: {dict(downloads)}")
    tally.problems += find_damage(sandbox, folder, {})
    tally.details = "each archive downloaded once; one model for each run"
    return tally
