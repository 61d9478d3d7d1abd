"""Run commands of the package as processes of their own, in folders and against a mirror of their own."""

import contextlib
import gzip
import hashlib
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mnist import cli, datasets
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, Archives
from mnist.storage import artifacts

TRAIN = ("train", "--dataset", "mnist", "--no-gate", "--epochs", "1", "--batch-size", "32", "--device", "cpu")
SAVING = ("--checkpoint-interval", "10")

# Fork processes from one that has already imported torch, which takes seconds. Windows has no fork, and on macOS a
# forked process must not use the system's frameworks, in which urllib looks for a proxy.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
IMPORTED_FIRST = ("mnist.metrics", "mnist.trainer", "mnist.distributed")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload(["sandbox", *IMPORTED_FIRST])


class Sandbox:
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
        process = CONTEXT.Process(target=run_command, args=given, daemon=True)
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


def run_command(folder: Path, arguments: tuple[str, ...], archives: Archives, mirror: str, hook: Any, log: str) -> None:
    """Run a command in this process, with its output in a file."""
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
