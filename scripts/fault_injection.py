"""Kill, starve and mislead real training runs, start them by the dozen, and see that nothing is lost.

    .venv/bin/python scripts/fault_injection.py            some minutes; renews its table in docs/reliability.md
    .venv/bin/python scripts/fault_injection.py --kills 20 shorter; prints alone

Every run is a process of its own, `mnist train` with all that belongs to it: fetching archives, extracting them,
training, saving. The digits are those of the offline subset, packed as MNIST's archives are. Exits with 1 if anything
is lost.
"""

import argparse
import contextlib
import errno
import gzip
import hashlib
import http.server
import importlib
import io
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import documents
import torch

from mnist import architecture, cli, datasets, recipes, resources
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, Archives
from mnist.storage import artifacts, checkpoints, integrity

DOCUMENT = documents.DOCS / "reliability.md"
MEMORY = 200 * 2**20  # bytes that refusing a file may take
BOMB = 2 * MEMORY  # bytes that a bomb unfolds to
TRAIN = ("train", "--dataset", "mnist", "--no-gate", "--epochs", "1", "--batch-size", "32", "--device", "cpu")
SAVING = ("--checkpoint-interval", "10")

# Fork processes from one that has already imported torch, which takes seconds. Windows has no fork, and on macOS a
# forked process must not use the system's frameworks, in which urllib looks for a proxy.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
IMPORTED_FIRST = ("mnist.metrics", "mnist.trainer", "mnist.distributed")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload(["fault_injection", *IMPORTED_FIRST])


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


def main() -> None:
    """Do all of it, print it, and in a full run renew the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, help="at random instants, and no document (default: 200, and the document)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = World(folder)
        tallies = []
        for part in (
            lambda: kill_at_random(world, folder / "random", options.kills or 200),
            lambda: kill_at_every_write(world, folder / "writes"),
            lambda: [fail_every_write(folder / "faults")],
            lambda: [flip_bits(world, folder / "bits", 2000)],
            lambda: [mislead(folder / "hostile")],
            lambda: [start_at_once(world, folder / "crowd", 10)],
        ):
            for tally in part():
                tallies.append(tally)
                print(documents.row(tally.cells()), *tally.problems, sep="\n", flush=True)
    if not options.kills:
        header = ["what", "done", "survived or refused", "lost", ""]
        table = documents.table(header, [tally.cells() for tally in tallies], "lrrrl")
        documents.replace_section(DOCUMENT, "faults", table)
    sys.exit(any(tally.problems for tally in tallies))


# ---- Processes -------------------------------------------------------------------------------------------------------


class World:
    """The archives that the runs fetch, and the weights that an undisturbed run ends with."""

    def __init__(self, folder: Path) -> None:
        subset = datasets.load_subset()
        self.mirror = folder / "mirror"
        self.mirror.mkdir()
        described = []
        for split in (subset.train, subset.test):
            for name, values in (("images-idx3", split.images[:, 0]), ("labels-idx1", split.labels.to(torch.uint8))):
                part = "train" if split is subset.train else "t10k"
                described.append(_pack(self.mirror / f"{part}-{name}-ubyte.gz", _idx(values)))
        self.archives = Archives(*described)
        for name in ("first", "again"):  # the first has to wait for imports
            here = folder / name
            here.mkdir()
            started = time.monotonic()
            finished = self.run(here, *TRAIN, *SAVING)
            self.seconds = time.monotonic() - started
            assert finished.code == 0, finished.log
        self.weights = artifacts.newest(here / "models").read_bytes()

    def run(self, folder: Path, *arguments: str, seconds: float | None = None, hook: Any = None) -> "Finished":
        """Run a command in ``folder``, fetching from the mirror; kill it after so many seconds."""
        process = self.start(folder, *arguments, hook=hook)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return Finished(
            process.exitcode, (folder / "log").read_text(encoding="utf-8") if (folder / "log").exists() else ""
        )

    def start(self, folder: Path, *arguments: str, hook: Any = None, log: str = "log", mirror: str = "") -> Any:
        """Start a command and return its process."""
        given = (folder, arguments, self.archives, mirror or str(self.mirror), hook, log)
        process = CONTEXT.Process(target=_run_command, args=given, daemon=True)
        process.start()
        return process

    def is_undisturbed(self, models: Path) -> bool:
        """Whether the newest model is, bit for bit, what an undisturbed run ends with."""
        path = artifacts.newest(models)
        return path is not None and path.read_bytes() == self.weights


@dataclass
class Finished:
    """How a process ended, and what it printed."""

    code: int
    log: str


def _run_command(
    folder: Path, arguments: tuple[str, ...], archives: Archives, mirror: str, hook: Any, log: str
) -> None:
    os.chdir(folder)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(OMP_NUM_THREADS="1", MNIST_MIRROR=mirror)
    torch.set_num_threads(1)
    reader.MNIST = archives
    with hook() if hook else contextlib.nullcontext():
        cli.main(arguments)


def _idx(values: torch.Tensor) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + shape + values.numpy().tobytes()


def _pack(path: Path, content: bytes) -> Archive:
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Archive(path.name, md5, hashlib.sha256(content).hexdigest(), len(content))


# ---- Kills -----------------------------------------------------------------------------------------------------------


def kill_at_random(world: World, folder: Path, kills: int, seed: int = 0) -> list[Tally]:
    """SIGKILL at random instants of a run, which then goes on, to be killed again, until it is done."""
    chance = random.Random(seed)
    tally = Tally("SIGKILL at a random instant")
    tries = 0
    while tally.done < kills:
        tries += 1
        here = folder / str(tries)
        earlier = _earlier_model(here)
        for _ in range(5):
            if world.run(here, *TRAIN, *SAVING, "--resume", seconds=chance.uniform(0, 0.8 * world.seconds)).code == 0:
                break
            tally.note(*_damage(world, here, earlier))
        else:
            world.run(here, *TRAIN, *SAVING, "--resume")
        tally.problems += _differences(world, here, earlier)
    tally.remark = f"{tries} runs, each to the weights of an undisturbed one"
    return [tally]


def kill_at_every_write(world: World, folder: Path, every: int = 1) -> list[Tally]:
    """SIGKILL at each operation on files in turn, in the middle of it where it is a write; then go on."""
    tally = Tally("SIGKILL in the middle of each operation on files in turn")
    for number in range(1, 10_000, every):
        here = folder / str(number)
        earlier = _earlier_model(here)
        if world.run(here, *TRAIN, "--checkpoint-interval", "50", hook=KillAt(number)).code == 0:
            break
        tally.note(*_damage(world, here, earlier))
        world.run(here, *TRAIN, "--checkpoint-interval", "50", "--resume")
        tally.problems += _differences(world, here, earlier)
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


def _earlier_model(folder: Path) -> dict[Path, bytes]:
    """A model that lies there already: the content of its files."""
    model = architecture.build("cnn", torch.Generator())
    save_model(model, folder / "models", year=2020)
    return {path: path.read_bytes() for path in (folder / "models").iterdir()}


def save_model(model: torch.nn.Module, models: Path, year: int) -> Path:
    """Save it as of that year."""
    import datetime

    now = datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc)
    about = {"recipe": {"architecture": "cnn"}, "dataset": {"name": "none"}, "training": {}, "measured": {}}
    return artifacts.save(model, models, **about, now=now)


def _damage(world: World, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    """What is not whole under its own name: but for leftovers of writes, and names taken for a model not yet there."""
    with mock.patch.object(datasets, "MNIST", world.archives):
        findings = list(integrity.check(folder))
    damaged = [f for f in findings if f.problem and f.kind not in ("leftover", "model card")]
    changed = [path for path, content in earlier.items() if path.read_bytes() != content]
    return [f"{finding.path}: {finding.problem}" for finding in damaged] + [f"{path} was changed" for path in changed]


def _differences(world: World, folder: Path, earlier: dict[Path, bytes]) -> list[str]:
    if world.is_undisturbed(folder / "models"):
        return _damage(world, folder, earlier)
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


def flip_bits(world: World, folder: Path, flips: int, seed: int = 0) -> Tally:
    """Flip one bit at random places of a model, a card, a checkpoint and the data: `verify` must find each."""
    chance = random.Random(seed)
    tally = Tally("a flipped bit in a model, a card, a checkpoint or a data file")
    folder.mkdir()
    world.run(folder, *TRAIN, "--checkpoint-interval", "50", hook=KillAt(100))  # by then there is a checkpoint
    save_model(architecture.build("cnn", torch.Generator()), folder / "models", year=2020)
    suffixes = (".pth", ".ckpt", ".gz", "-ubyte")
    files = [path for path in folder.rglob("*") if path.name.endswith(suffixes)]
    files.append(next((folder / "models").glob("*2020*.json")))
    with mock.patch.object(datasets, "MNIST", world.archives):
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


# ---- Hostile input ---------------------------------------------------------------------------------------------------


class Canary:
    """A pickle of it creates the file "canary" where it is loaded by a careless program."""

    def __reduce__(self) -> Any:
        return (open, ("canary", "w"))


class Hungry:
    """A pickle of it asks for ten billion bytes."""

    def __reduce__(self) -> Any:
        return (bytearray, (10**10,))


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _recompressed(content: bytes, extra: bytes = b"", name: str = "") -> bytes:
    """The same archive, compressed, with one more record in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.namelist():
            new.writestr(record, old.read(record))
        if name:
            new.writestr(name, extra)
    return out.getvalue()


def _declare(content: bytes, size: int) -> bytes:
    """The same archive, its first record said to be that long."""
    at = content.index(b"PK\1\2")
    return content[: at + 24] + size.to_bytes(4, "little") + content[at + 28 :]


def _sealed(content: bytes) -> bytes:
    return checkpoints._MAGIC + hashlib.sha256(content).digest() + content


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _hostile() -> dict[str, tuple[str, Callable[[Path], object]]]:
    """Name: the file, and what makes it."""
    weights = _saved(architecture.build("cnn", torch.Generator()).state_dict())
    dims = b"\0\0\x08\x03" + 3 * (1000).to_bytes(4, "big")
    deep = b"[" * 100_000

    def write(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    def card(content: bytes | int) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            path.write_bytes(weights)
            beside = path.with_suffix(".json")
            _sparse(beside, content) if isinstance(content, int) else beside.write_bytes(content)

        return make

    return {
        "a pickle that runs code": ("a.pth", write(_saved({"conv1.weight": Canary()}))),
        "a bare pickle that runs code": ("a.pth", write(pickle.dumps(Canary()))),
        "a pickle that asks for 10 GB": ("a.pth", write(_saved(Hungry()))),
        "a zip bomb": ("a.pth", write(_recompressed(weights, bytes(BOMB), "archive/data/999"))),
        "a record said to be 4 GB long": ("a.pth", write(_declare(weights, 2**32 - 2))),
        "a record named ../../escaped": ("a.pth", write(_recompressed(weights, b"x", "../../escaped"))),
        "a weights file of 1 TB": ("a.pth", lambda path: _sparse(path, 10**12)),
        "a symbolic link to a device without end": ("a.pth", lambda path: path.symlink_to("/dev/zero")),
        "a symbolic link to itself": ("a.pth", lambda path: path.symlink_to(path)),
        "a pipe": ("a.pth", lambda path: os.mkfifo(path)),
        "a folder": ("a.pth", lambda path: path.mkdir()),
        "a card nested 100,000 deep": ("a.pth", card(deep)),
        "a card with a number of a million digits": ("a.pth", card(b'{"schema": ' + b"9" * 10**6 + b"}")),
        "a card of 1 GB": ("a.pth", card(10**9)),
        "a card of another schema": ("a.pth", card(b'{"schema": {"a": 1}}')),
        "a card that is a list": ("a.pth", card(b"[1, 2]")),
        "a policy nested 100,000 deep": ("p.toml", write(b"a = " + deep)),
        "a checkpoint that runs code": ("a.ckpt", write(_sealed(_saved(Canary())))),
        "a checkpoint of other values": ("a.ckpt", write(_sealed(_saved({"recipe": 3})))),
        "a checkpoint of 1 TB": ("a.ckpt", lambda path: _sparse(path, 10**12)),
        "a gzip bomb": ("b.gz", write(gzip.compress(bytes(BOMB), compresslevel=1))),
        "an image of a billion pixels": ("b.gz", write(gzip.compress(dims))),
        "an image of 255 dimensions": ("b.gz", write(gzip.compress(b"\0\0\x08\xff" + 255 * b"\0\0\0\1" + b"x"))),
    }  # fmt: skip


def mislead(folder: Path) -> Tally:
    """Give each hostile file to the command that reads it: one clear line, within the bound on memory, no code run."""
    tally = Tally(f"hostile files, refused in one line within {MEMORY >> 20} MiB")
    most = 0
    for name, (file, make) in _hostile().items():
        here = folder / str(tally.done)
        here.mkdir(parents=True)
        make(here / file)
        process = CONTEXT.Process(target=_run_hostile, args=(here, file), daemon=True)
        process.start()
        process.join(60)
        process.kill()
        process.join()
        log, memory = (
            (here / "log").read_text(encoding="utf-8"),
            int((here / "memory").read_text(encoding="utf-8") or 0) if process.exitcode else 0,
        )
        errors = [line for line in log.splitlines() if "Error" in line or "Traceback" in line]
        expected = cli.BLOCKED if file.endswith(".ckpt") else cli.BAD_INPUT
        problems = [] if process.exitcode == expected else [f"{name}: exit code {process.exitcode}: {log[-300:]}"]
        problems += [f"{name}: {errors[0]}"] if errors else []
        problems += [f"{name}: it took {memory >> 20} MiB"] if memory > MEMORY else []
        problems += [f"{name}: its code was run"] if (here / "canary").exists() else []
        problems += [f"{name}: it got out"] if (folder.parent / "escaped").exists() else []
        tally.note(*problems[:1])
        most = max(most, memory)
    tally.remark = f"no code was run; at most {most / 2**20:.0f} MiB were taken for it"
    return tally


def _run_hostile(folder: Path, file: str) -> None:
    archives = None
    if file.endswith(".gz"):  # known to be the right one by its checksum, or nothing would ever be unpacked
        packed = (folder / file).read_bytes()
        content = gzip.decompress(packed) if len(packed) < 10_000 else b""
        md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        parts = [Archive(f"{n}-ubyte.gz", md5, hashlib.sha256(content).hexdigest(), 10_000_000) for n in "abcd"]
        archives = Archives(*parts)
        raw = folder / "data" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part in parts:
            (raw / part.name).write_bytes(packed)
    command = {
        "a.pth": ("gate", "a.pth"),
        "p.toml": ("train", "--policy", "p.toml", "--dataset", "subset", "--device", "cpu"),
        "a.ckpt": ("verify", "a.ckpt"),
        "b.gz": ("data", "--dataset", "mnist"),
    }[file]
    for name in IMPORTED_FIRST:  # a module's own memory is not the file's
        importlib.import_module(name)
    before = resources.peak_memory()
    try:
        _run_command(folder, command, archives or reader.MNIST, "", None, "log")
    finally:
        Path("memory").write_text(str(resources.peak_memory() - before), encoding="utf-8")


# ---- Many at once ----------------------------------------------------------------------------------------------------


def start_at_once(world: World, folder: Path, count: int) -> Tally:
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
        return Handler(*arguments, directory=str(world.mirror))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        commands = [("data", "--dataset", "mnist")] * count + [TRAIN] * count
        started = [
            world.start(folder, *command, log=f"log {number}", mirror=mirror) for number, command in enumerate(commands)
        ]
        for number, process in enumerate(started):
            process.join()
            problem = f"exit code {process.exitcode}: {(folder / f'log {number}').read_text(encoding='utf-8')[-300:]}"
            tally.note(*([problem] if process.exitcode else []))
        server.shutdown()
    models = list((folder / "models").glob("*.pth"))
    if len(models) != count or any(path.read_bytes() != world.weights for path in models):
        tally.problems.append(f"{len(models)} models for {count} runs, or others than an undisturbed run's")
    if set(asked.values()) != {1} or len(asked) != 4:
        tally.problems.append(f"downloads: {dict(asked)}")
    tally.problems += _damage(world, folder, {})
    tally.remark = "each archive downloaded once; a model of its own for each run"
    return tally


if __name__ == "__main__":
    main()
