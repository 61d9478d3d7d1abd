"""Files made to mislead the program that reads them, and how each command takes them."""

import gzip
import hashlib
import importlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faults import Tally
from sandbox import CONTEXT, IMPORTED_FIRST, run_command

from mnist import architecture, cli, resources
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, Archives
from mnist.storage import checkpoints

MEMORY = 200 * 2**20  # bytes that refusing a file may take
BOMB = 2 * MEMORY  # bytes that a bomb unfolds to


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


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def hostile_files() -> dict[str, tuple[str, Callable[[Path], object]]]:
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
        "a checkpoint that runs code": ("a.ckpt", write(checkpoints.seal(_saved(Canary())))),
        "a checkpoint of other values": ("a.ckpt", write(checkpoints.seal(_saved({"recipe": 3})))),
        "a checkpoint of 1 TB": ("a.ckpt", lambda path: _sparse(path, 10**12)),
        "a gzip bomb": ("b.gz", write(gzip.compress(bytes(BOMB), compresslevel=1))),
        "an image of a billion pixels": ("b.gz", write(gzip.compress(dims))),
        "an image of 255 dimensions": ("b.gz", write(gzip.compress(b"\0\0\x08\xff" + 255 * b"\0\0\0\1" + b"x"))),
    }  # fmt: skip


def mislead(folder: Path) -> Tally:
    """Give each hostile file to the command that reads it: one clear line, within the bound on memory, no code run."""
    tally = Tally(f"hostile files, refused in one line within {MEMORY >> 20} MiB")
    most = 0
    for name, (file, make) in hostile_files().items():
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
        run_command(folder, command, archives or reader.MNIST, "", None, "log")
    finally:
        Path("memory").write_text(str(resources.peak_memory() - before), encoding="utf-8")
