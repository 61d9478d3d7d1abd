"""Faults of the machine: kills, failing writes, flipped bits, and many programs at once; what each has damaged."""

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
from sandbox import SAVING, TRAIN, Sandbox

from mnist import architecture, recipes
from mnist.datasets import mnist as reader
from mnist.storage import artifacts, checkpoints, integrity


@dataclass
class Tally:
    """What was done, how often, and what went wrong."""

    what: str
    done: int = 0
    problems: list[str] = field(default_factory=list)
    remark: str = ""

    def note(self, *problems: str) -> None:
        """One more; each problem is something lost."""
        self.done += 1
        self.problems += problems

    def cells(self) -> list[str]:
        """As a line of the table."""
        lost = len(self.problems)
        return [self.what, str(self.done), str(self.done - lost), str(lost), self.remark]


# ---- Kills -----------------------------------------------------------------------------------------------------------


def kill_at_random(sandbox: Sandbox, folder: Path, kills: int, seed: int = 0) -> list[Tally]:
    """SIGKILL at random instants of a run, which then goes on, to be killed again, until it is done."""
    chance = random.Random(seed)
    tally = Tally("SIGKILL at a random instant")
    tries = 0
    while tally.done < kills:
        tries += 1
        here = folder / str(tries)
        earlier = save_earlier_model(here)
        for _ in range(5):
            if (
                sandbox.run(here, *TRAIN, *SAVING, "--resume", seconds=chance.uniform(0, 0.8 * sandbox.seconds)).code
                == 0
            ):
                break
            tally.note(*find_damage(sandbox, here, earlier))
        else:
            sandbox.run(here, *TRAIN, *SAVING, "--resume")
        tally.problems += find_differences(sandbox, here, earlier)
    tally.remark = f"{tries} runs, each to the weights of an undisturbed one"
    return [tally]


def kill_at_every_write(sandbox: Sandbox, folder: Path, every: int = 1) -> list[Tally]:
    """SIGKILL at each operation on files in turn, in the middle of it where it is a write; then go on."""
    tally = Tally("SIGKILL in the middle of each operation on files in turn")
    for number in range(1, 10_000, every):
        here = folder / str(number)
        earlier = save_earlier_model(here)
        if sandbox.run(here, *TRAIN, "--checkpoint-interval", "50", hook=KillAt(number)).code == 0:
            break
        tally.note(*find_damage(sandbox, here, earlier))
        sandbox.run(here, *TRAIN, "--checkpoint-interval", "50", "--resume")
        tally.problems += find_differences(sandbox, here, earlier)
    tally.remark = "fetching, extracting, checkpoints, model; each run went on to the same weights"
    return [tally]


@dataclass
class KillAt:
    """A context in which the process kills itself at the n-th operation on files."""

    number: int

    def __call__(self) -> "contextlib.AbstractContextManager[None]":
        """The context."""
        return intercept(self._act)

    def _act(self, number: int, operation: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number == self.number:
            if operation == "write":
                call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)


@contextlib.contextmanager
def intercept(act: Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]) -> Iterator[None]:
    """Have ``act`` decide on every operation that changes files; it is told the number, the name and the real call."""
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

    names = ("open", "write", "fsync", "replace", "unlink")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(os, name, replacement(name, getattr(os, name))))
        yield


def save_earlier_model(folder: Path) -> dict[Path, bytes]:
    """A model that lies there already: the content of its files."""
    model = architecture.build("cnn", torch.Generator())
    save_model(model, folder / "models", year=2020)
    return {path: path.read_bytes() for path in (folder / "models").iterdir()}


def save_model(model: torch.nn.Module, models: Path, year: int) -> Path:
    """Save it as of that year."""
    now = datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc)
    about = {"recipe": {"architecture": "cnn"}, "dataset": {"name": "none"}, "training": {}, "measured": {}}
    return artifacts.save(model, models, **about, now=now)


def find_damage(sandbox: Sandbox, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    """What is not whole under its own name: but for leftovers of writes, and names taken for a model not yet there."""
    with mock.patch.object(reader, "MNIST", sandbox.archives):
        findings = list(integrity.check(folder))
    damaged = [f for f in findings if f.problem and f.kind not in ("leftover", "model card")]
    changed = [path for path, content in earlier.items() if path.read_bytes() != content]
    return [f"{finding.path}: {finding.problem}" for finding in damaged] + [f"{path} was changed" for path in changed]


def find_differences(sandbox: Sandbox, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    """What is damaged, or whether the newest model is not the one of an undisturbed run."""
    if sandbox.is_undisturbed(folder / "models"):
        return find_damage(sandbox, folder, earlier)
    log = (folder / "log").read_text(encoding="utf-8")
    return [f"{folder}: other weights than an undisturbed run's, or none: {log[-300:]}"]


# ---- Faults of the disk ----------------------------------------------------------------------------------------------

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def fail_every_write(folder: Path) -> Tally:
    """Let each operation of saving a model, a checkpoint and a picture fail in turn, in every way."""
    tally = Tally("ENOSPC, EIO, EACCES or a short write at each operation of a save in turn")
    model = architecture.build("cnn", torch.Generator().manual_seed(1))
    about = {"name": "none", "sha256": "0"}
    start = checkpoints.Checkpoint(vars(recipes.get("standard")), about, {}, training={"model": model.state_dict()})
    kept = checkpoints.start(folder / "checkpoints")
    kept.write(1, start)
    saves = {
        "model": (folder / "models", lambda: save_model(model, folder / "models", year=2021)),
        "checkpoint": (kept.path, lambda: kept.write(2, start)),
    }
    save_model(model, folder / "models", year=2020)
    for what, (place, save) in saves.items():
        before = {path: path.read_bytes() for path in place.iterdir()}
        for code in (*ERRORS, "short"):
            for number in range(1, 1000):
                fault = Fault(number, code)
                problems = _attempt(fault, save, f"{what}, operation {number}, {code}")
                if not fault.happened:
                    break
                leftovers = [path for path in place.iterdir() if path not in before]
                problems += [f"{path} was changed" for path in before if path.read_bytes() != before[path]]
                problems += [f"{f.path}: {f.problem}" for f in integrity.check(place) if f.problem]
                tally.note(*problems)
                for path in leftovers:
                    path.unlink()
            for path in set(place.iterdir()) - set(before):
                path.unlink()
    kept.close()
    tally.remark = "the old state whole, the cause named, or the whole of the new"
    return tally


@dataclass
class Fault:
    """An operation that fails: with an error, or, "short", by writing half and saying so."""

    number: int
    code: int | str
    happened: bool = False

    def __call__(self, number: int, operation: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number != self.number:
            return call(*arguments)
        self.happened = True
        if self.code != "short":
            of_a_file = () if operation in ("write", "fsync") else (str(arguments[0]),)
            raise OSError(self.code, os.strerror(self.code), *of_a_file)
        if operation == "write":
            return call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        return call(*arguments)


def _attempt(fault: Fault, save: Callable[[], Any], what: str) -> list[str]:
    """What is wrong with how a save takes the fault: it must name it, or succeed where half a write is all."""
    try:
        with intercept(fault):
            save()
    except OSError as error:
        return [] if error.errno == fault.code and error.filename else [f"{what}: {error!r}"]
    return []


def flip_bits(sandbox: Sandbox, folder: Path, flips: int, seed: int = 0) -> Tally:
    """Flip one bit at random places of a model, a card, a checkpoint and the data: `verify` must find each."""
    chance = random.Random(seed)
    tally = Tally("a flipped bit in a model, a card, a checkpoint or a data file")
    folder.mkdir()
    sandbox.run(folder, *TRAIN, "--checkpoint-interval", "50", hook=KillAt(100))  # by then there is a checkpoint
    save_model(architecture.build("cnn", torch.Generator()), folder / "models", year=2020)
    suffixes = (".pth", ".ckpt", ".gz", "-ubyte")
    files = [path for path in folder.rglob("*") if path.name.endswith(suffixes)]
    files.append(next((folder / "models").glob("*2020*.json")))
    with mock.patch.object(reader, "MNIST", sandbox.archives):
        for _ in range(flips):
            path = chance.choice(files)
            content = path.read_bytes()
            at = chance.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
            found = list(integrity.check(path.with_suffix(".pth") if path.suffix == ".json" else path))
            tally.note(*([] if found[0].problem else [f"{path}: byte {at} was not found"]))
            path.write_bytes(content)
    tally.remark = f"{len(files)} files"
    return tally


# ---- Many at once ----------------------------------------------------------------------------------------------------


def start_at_once(sandbox: Sandbox, folder: Path, count: int) -> Tally:
    """So many `data` and so many `train` at once in one folder: all succeed, with one download and a model each."""
    tally = Tally(f"{count} `mnist data` and {count} `mnist train` at once in one folder")
    folder.mkdir()
    asked: Counter[str] = Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    def handler(*arguments: Any) -> Handler:
        return Handler(*arguments, directory=str(sandbox.mirror))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        commands = [("data", "--dataset", "mnist")] * count + [TRAIN] * count
        started = [
            sandbox.start(folder, *command, log=f"log {number}", mirror=mirror)
            for number, command in enumerate(commands)
        ]
        for number, process in enumerate(started):
            process.join()
            problem = f"exit code {process.exitcode}: {(folder / f'log {number}').read_text(encoding='utf-8')[-300:]}"
            tally.note(*([problem] if process.exitcode else []))
        server.shutdown()
    models = list((folder / "models").glob("*.pth"))
    if len(models) != count or any(path.read_bytes() != sandbox.weights for path in models):
        tally.problems.append(f"{len(models)} models for {count} runs, or others than an undisturbed run's")
    if set(asked.values()) != {1} or len(asked) != 4:
        tally.problems.append(f"downloads: {dict(asked)}")
    tally.problems += find_damage(sandbox, folder, {})
    tally.remark = "each archive downloaded once; a model of its own for each run"
    return tally
