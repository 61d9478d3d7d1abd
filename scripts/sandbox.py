"""Run `mnist` commands in separate processes, each in its own folder and with a local mirror of small archives."""

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

TRAIN_COMMAND = ("train", "--dataset", "mnist", "--no-gate", "--epochs", "1", "--batch-size", "32", "--device", "cpu")
SAVE_EVERY_10_STEPS = ("--checkpoint-interval", "10")

# Fork processes from a server that has already imported torch, because the import takes seconds. Windows has no fork.
# On macOS, a forked process must not use the system's frameworks, which urllib uses to look for a proxy.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
PRELOADED_MODULES = ("mnist.metrics", "mnist.trainer", "mnist.distributed")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload(["sandbox", *PRELOADED_MODULES])


class Sandbox:
    """A mirror with archives of the offline subset, and the weights of an undisturbed run."""

    def __init__(self, folder: Path) -> None:
        subset = datasets.load_subset()
        self.mirror = folder / "mirror"
        self.mirror.mkdir()
        archives = []
        for part, split in (("train", subset.train), ("t10k", subset.test)):
            for name, values in (("images-idx3", split.images[:, 0]), ("labels-idx1", split.labels.to(torch.uint8))):
                archives.append(_pack(self.mirror / f"{part}-{name}-ubyte.gz", _to_idx(values)))
        self.archives = Archives(*archives)
        for name in ("first", "second"):  # time only the second run: the first one waits for the forkserver's imports
            run_folder = folder / name
            run_folder.mkdir()
            started = time.monotonic()
            finished = self.run(run_folder, *TRAIN_COMMAND, *SAVE_EVERY_10_STEPS)
            self.seconds_per_run = time.monotonic() - started
            assert finished.code == 0, finished.log
        self.weights = artifacts.newest(run_folder / "models").read_bytes()

    def run(self, folder: Path, *arguments: str, seconds: float | None = None, hook: Any = None) -> "Finished":
        """Run a command in ``folder`` with the mirror, and kill it after ``seconds``.

        Args:
            folder: the working folder of the command.
            arguments: arguments of the program `mnist`.
            seconds: time limit, or None for no limit.
            hook: function that returns a context manager in which the command runs.
        """
        process = self.start(folder, *arguments, hook=hook)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        log = folder / "log"
        return Finished(process.exitcode, log.read_text(encoding="utf-8") if log.exists() else "")

    def start(self, folder: Path, *arguments: str, hook: Any = None, log: str = "log", mirror: str = "") -> Any:
        """Start a command in ``folder`` and return its process; ``mirror`` replaces the local mirror."""
        parameters = (folder, arguments, self.archives, mirror or str(self.mirror), hook, log)
        process = CONTEXT.Process(target=run_command, args=parameters, daemon=True)
        process.start()
        return process

    def is_undisturbed(self, models: Path) -> bool:
        """Return True if the newest model has, bit for bit, the weights of an undisturbed run."""
        path = artifacts.newest(models)
        return path is not None and path.read_bytes() == self.weights


@dataclass
class Finished:
    """A process that has ended."""

    code: int  # the exit code; the negative signal number if a signal ended the process
    log: str  # stdout and stderr


def run_command(folder: Path, arguments: tuple[str, ...], archives: Archives, mirror: str, hook: Any, log: str) -> None:
    """Run a command in this process with one thread, and write its stdout and stderr to the file ``log``."""
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(OMP_NUM_THREADS="1", MNIST_MIRROR=mirror)
    torch.set_num_threads(1)
    reader.MNIST = archives
    with hook() if hook else contextlib.nullcontext():
        cli.main(arguments)


def _to_idx(values: torch.Tensor) -> bytes:
    """Return a uint8 tensor in the IDX format."""
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + shape + values.numpy().tobytes()


def _pack(path: Path, content: bytes) -> Archive:
    """Write a gzip archive and return its description."""
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Archive(path.name, md5, hashlib.sha256(content).hexdigest(), len(content))
