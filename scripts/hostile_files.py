"""Make hostile files, such as zip bombs and pickles that run code, and check that each command refuses them."""

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
from faults import LOG_CHARACTERS, Tally
from sandbox import CONTEXT, PRELOADED_MODULES, run_command

from mnist import architecture, resources
from mnist.cli import process as command_line
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, Archives
from mnist.storage import checkpoints

MAX_REFUSAL_BYTES = 200 * 2**20  # maximum memory that a command may use to refuse a file
BOMB_BYTES = 2 * MAX_REFUSAL_BYTES  # decompressed size of a bomb
MAX_REFUSAL_SECONDS = 60
MAX_COMPRESSED_BYTES = 10_000  # this module decompresses only smaller .gz files; bombs are larger


class Canary:
    """Create the file `canary` when a pickle of this class is loaded unsafely."""

    def __reduce__(self) -> Any:
        return (open, ("canary", "w"))


class MemoryHog:
    """Allocate 10 GB when a pickle of this class is loaded."""

    def __reduce__(self) -> Any:
        return (bytearray, (10**10,))


def make_hostile_files() -> dict[str, tuple[str, Callable[[Path], object]]]:
    """Return the name of each file and the function that creates it at a path, keyed by the file's description."""
    weights = _serialize(architecture.build("cnn", torch.Generator()).state_dict())
    billion_pixels = b"\0\0\x08\x03" + 3 * (1000).to_bytes(4, "big")
    nested = b"[" * 100_000

    def write(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    def write_card(content: bytes | int) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            path.write_bytes(weights)
            card = path.with_suffix(".json")
            _write_sparse(card, content) if isinstance(content, int) else card.write_bytes(content)

        return make

    def write_checkpoint(value: Any) -> Callable[[Path], object]:
        return write(checkpoints.seal(_serialize(value)))

    return {
        "a pickle that runs code": ("a.pth", write(_serialize({"conv1.weight": Canary()}))),
        "a bare pickle that runs code": ("a.pth", write(pickle.dumps(Canary()))),
        "a pickle that allocates 10 GB": ("a.pth", write(_serialize(MemoryHog()))),
        "a zip bomb": ("a.pth", write(_recompress(weights, bytes(BOMB_BYTES), "archive/data/999"))),
        "a zip record that claims 4 GB": ("a.pth", write(_claim_size(weights, 2**32 - 2))),
        "a zip record named ../../escaped": ("a.pth", write(_recompress(weights, b"x", "../../escaped"))),
        "a weights file of 1 TB": ("a.pth", lambda path: _write_sparse(path, 10**12)),
        "a symbolic link to an endless device": ("a.pth", lambda path: path.symlink_to("/dev/zero")),
        "a symbolic link to itself": ("a.pth", lambda path: path.symlink_to(path)),
        "a named pipe": ("a.pth", lambda path: os.mkfifo(path)),
        "a folder": ("a.pth", lambda path: path.mkdir()),
        "a card with 100,000 nested lists": ("a.pth", write_card(nested)),
        "a card with a number of a million digits": ("a.pth", write_card(b'{"schema": ' + b"9" * 10**6 + b"}")),
        "a card of 1 GB": ("a.pth", write_card(10**9)),
        "a card of another schema": ("a.pth", write_card(b'{"schema": {"a": 1}}')),
        "a card that is a list": ("a.pth", write_card(b"[1, 2]")),
        "a policy with 100,000 nested lists": ("p.toml", write(b"a = " + nested)),
        "a checkpoint that runs code": ("a.ckpt", write_checkpoint(Canary())),
        "a checkpoint with values of other types": ("a.ckpt", write_checkpoint({"recipe": 3})),
        "a checkpoint of 1 TB": ("a.ckpt", lambda path: _write_sparse(path, 10**12)),
        "a gzip bomb": ("b.gz", write(gzip.compress(bytes(BOMB_BYTES), compresslevel=1))),
        "an image of a billion pixels": ("b.gz", write(gzip.compress(billion_pixels))),
        "an image of 255 dimensions": ("b.gz", write(gzip.compress(b"\0\0\x08\xff" + 255 * b"\0\0\0\1" + b"x"))),
    }  # fmt: skip


def read_hostile_files(folder: Path) -> Tally:
    """Pass each hostile file to the command that reads it.

    The command must refuse it with one line, use little memory, run no code, and write nothing outside its folder.
    """
    tally = Tally(f"hostile files, each refused with one line within {MAX_REFUSAL_BYTES >> 20} MiB")
    max_memory = 0
    for name, (file, make) in make_hostile_files().items():
        file_folder = folder / str(tally.times)
        file_folder.mkdir(parents=True)
        make(file_folder / file)
        process = CONTEXT.Process(target=_read_hostile_file, args=(file_folder, file), daemon=True)
        process.start()
        process.join(MAX_REFUSAL_SECONDS)
        process.kill()
        process.join()
        log = (file_folder / "log").read_text(encoding="utf-8")
        memory = int((file_folder / "memory").read_text(encoding="utf-8") or 0) if process.exitcode else 0
        errors = [line for line in log.splitlines() if "Error" in line or "Traceback" in line]
        expected = command_line.BLOCKED if file.endswith(".ckpt") else command_line.BAD_INPUT
        problems = []
        if process.exitcode != expected:
            problems.append(f"{name}: exit code {process.exitcode}: {log[-LOG_CHARACTERS:]}")
        if errors:
            problems.append(f"{name}: {errors[0]}")
        if memory > MAX_REFUSAL_BYTES:
            problems.append(f"{name}: used {memory >> 20} MiB")
        if (file_folder / "canary").exists():
            problems.append(f"{name}: its code was run")
        if (folder.parent / "escaped").exists():
            problems.append(f"{name}: a file was written outside the folder")
        tally.add(*problems[:1])
        max_memory = max(max_memory, memory)
    tally.details = f"no code was run; at most {max_memory / 2**20:.0f} MiB were used"
    return tally


def _read_hostile_file(folder: Path, file: str) -> None:
    """Run the command that reads a file of this name; write the number of bytes that it used to the file `memory`."""
    archives = _register_archives(folder, file) if file.endswith(".gz") else reader.MNIST
    command = {
        "a.pth": ("gate", "a.pth"),
        "p.toml": ("train", "--policy", "p.toml", "--dataset", "subset", "--device", "cpu"),
        "a.ckpt": ("verify", "a.ckpt"),
        "b.gz": ("data", "--dataset", "mnist"),
    }[file]
    for name in PRELOADED_MODULES:  # import now, so that the modules' memory is not counted
        importlib.import_module(name)
    before = resources.peak_memory()
    try:
        run_command(folder, command, archives, "", None, "log")
    finally:
        Path("memory").write_text(str(resources.peak_memory() - before), encoding="utf-8")


def _register_archives(folder: Path, file: str) -> Archives:
    """Copy the file into the data folder as all four archives; return archive descriptions with its checksums.

    With other checksums, the command would refuse the file before decompressing it.
    """
    packed = (folder / file).read_bytes()
    content = gzip.decompress(packed) if len(packed) < MAX_COMPRESSED_BYTES else b""
    md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    archives = [Archive(f"{name}-ubyte.gz", md5, sha256, 10_000_000) for name in "abcd"]
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives:
        (raw / archive.name).write_bytes(packed)
    return Archives(*archives)


def _serialize(value: Any) -> bytes:
    """Return the bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _recompress(content: bytes, extra: bytes, name: str) -> bytes:
    """Return a zip archive with its records compressed, and with one more record."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.namelist():
            new.writestr(record, old.read(record))
        new.writestr(name, extra)
    return result.getvalue()


def _claim_size(content: bytes, size: int) -> bytes:
    """Return a zip archive whose directory claims that the first record is ``size`` bytes long."""
    entry = content.index(b"PK\1\2")
    return content[: entry + 24] + size.to_bytes(4, "little") + content[entry + 28 :]


def _write_sparse(path: Path, size: int) -> None:
    """Write a file of ``size`` zero bytes that takes no space on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
