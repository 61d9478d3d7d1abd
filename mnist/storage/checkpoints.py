"""A training run on disk while it lasts: its whole state, now and then, so that it can go on where it was cut off.

Each run has a folder of its own, ``run_YYYYMMDD_HHMMSS`` in UTC, with its last two checkpoints, and a lock beside it
that the system releases when the process ends, however it does: what is locked is running, what is not was interrupted.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import torch

from mnist import files
from mnist.errors import MnistError
from mnist.recipes import Recipe
from mnist.storage import pickles

KEPT = 2  # of a run: the older one is for the case that the newer one is damaged
LARGEST = 100_000_000  # bytes; a hundred times what weights, their momenta and the rest need

_MAGIC = b"mnist checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size
_RUN = re.compile(r"run_(\d{8}_\d{6})(?:_(\d+))?")
_NAME = re.compile(r"step_(\d{9,})\.ckpt")


class CheckpointError(MnistError):
    """A checkpoint that is damaged, or no checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands, and what it takes to go on.

    recipe and dataset: as on a model card; machine: what else the weights depend on, by rounding; resumed: how often
    the run was interrupted and has gone on; training: what the trainer saved, None at the very beginning; init: the
    model that it started from, as on a model card, None for weights drawn at random.
    """

    recipe: Mapping[str, Any]
    dataset: Mapping[str, Any]
    machine: Mapping[str, Any]
    resumed: int = 0
    training: Mapping[str, Any] | None = None
    init: Mapping[str, Any] | None = None


class Folder:
    """The checkpoints of one run, which is this process's as long as the folder is open."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock) -> None:
        self.path = path
        self._lock = lock

    def write(self, step: int, checkpoint: Checkpoint) -> Path:
        """Keep ``checkpoint``, reached after so many steps, and of the earlier ones the last.

        Raises:
            OSError: it cannot be written; the earlier ones are as they were.
        """
        path = self.path / f"step_{step:09}.ckpt"
        files.write_atomically(path, pack(checkpoint))
        with contextlib.suppress(OSError):  # it is saved, whatever becomes of the older ones
            for old in self.newest_first()[KEPT:]:
                old.unlink()
        return path

    def newest_first(self) -> list[Path]:
        """The checkpoints, whole or not."""
        paths = self.path.iterdir() if self.path.is_dir() else ()
        named = [(int(match.group(1)), path) for path in paths if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(named, reverse=True)]

    def remove(self) -> None:
        """The run is over: remove what this module has written, and nothing else."""
        with contextlib.suppress(OSError):  # it may stay: nothing depends on its going
            for path in [*self.newest_first(), *self.path.glob(f".step_*{files.PART}")]:
                path.unlink()
            self.path.rmdir()
            Path(self._lock.lock_file).unlink()
        self.close()

    def close(self) -> None:
        """Let others have it."""
        self._lock.release()


def start(checkpoints_dir: Path, now: datetime | None = None) -> Folder:
    """A folder for a new run, under a name that nothing has yet.

    Raises:
        OSError: it cannot be made.
    """
    checkpoints_dir.mkdir(parents=True, exist_ok=True)
    stem = f"run_{(now or datetime.now(timezone.utc)).astimezone(timezone.utc):%Y%m%d_%H%M%S}"
    for name in files.numbered(stem):
        path = checkpoints_dir / name
        if folder := _open(path):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return folder
            folder.close()
    raise AssertionError("unreachable: there is always another number")


def find(
    checkpoints_dir: Path, wanted: Callable[[Checkpoint], bool], notify: Callable[[str], None] = lambda line: None
) -> tuple[Folder, Checkpoint] | None:
    """The newest interrupted run that is ``wanted``, with its newest intact checkpoint; None where there is none.

    ``notify`` is told, in one line each, which checkpoints are damaged and passed over.
    """
    for path in _runs(checkpoints_dir):
        folder = _open(path)
        if folder is None:
            continue  # it is running
        if not folder.newest_first():
            folder.remove()  # it ended before it had saved anything
            continue
        for file in folder.newest_first():
            try:
                checkpoint = read(file)
            except (CheckpointError, OSError) as error:
                notify(f"WARNING: {error}; going back to the one before it, if there is one")
                continue
            if wanted(checkpoint):
                return folder, checkpoint
            break
        folder.close()
    return None


def _runs(checkpoints_dir: Path) -> list[Path]:
    """The folders of runs, the newest first."""
    paths = checkpoints_dir.iterdir() if checkpoints_dir.is_dir() else ()
    named = [(m.group(1), int(m.group(2) or 1), path) for path in paths if (m := _RUN.fullmatch(path.name))]
    return [path for *_, path in sorted(named, reverse=True)]


def _open(path: Path) -> Folder | None:
    """The folder of that run as this process's own, or None where another process has it."""
    # A lock can be had once in a process, whichever thread asks: two runs at once are two owners.
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    return Folder(path, lock)


# ---- The file --------------------------------------------------------------------------------------------------------


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint's file: a line that says what it is, the SHA-256 of the rest, and the rest as torch saves it."""
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    return seal(buffer.getvalue())


def seal(content: bytes) -> bytes:
    """Return the content of a checkpoint file: the format's name, the SHA-256 of ``content``, and ``content``."""
    return _MAGIC + hashlib.sha256(content).digest() + content


def unpack(content: bytes | bytearray, name: str) -> Checkpoint:
    """What :func:`pack` was given.

    Raises:
        CheckpointError: it is not intact.
    """
    magic, digest, rest = content[: len(_MAGIC)], content[len(_MAGIC) :][:_DIGEST], content[len(_MAGIC) + _DIGEST :]
    if magic != _MAGIC:
        raise CheckpointError(f"{name} is damaged, or no checkpoint of this version")
    if hashlib.sha256(rest).digest() != digest:
        raise CheckpointError(f"{name} is damaged: its SHA-256 is not the one in it")
    try:
        checkpoint = Checkpoint(**pickles.load(rest, name))
        Recipe(**checkpoint.recipe)
        names = [checkpoint.dataset["name"], checkpoint.dataset["sha256"]]
        if checkpoint.init is not None:
            names += [checkpoint.init["weights"], checkpoint.init["sha256"], *checkpoint.init["trained_on"]]
        kinds = isinstance(checkpoint.resumed, int), isinstance(checkpoint.init, dict | None)
        if not all(isinstance(value, str) for value in names) or not all(kinds):
            raise TypeError("values of another kind")
    except (MnistError, TypeError, KeyError) as error:  # whole, but nothing that this program wrote
        raise CheckpointError(f"{name} is no checkpoint of this program") from error
    return checkpoint


def read(path: Path) -> Checkpoint:
    """The checkpoint in that file.

    Raises:
        CheckpointError: it is not intact.
        OSError: it cannot be read.
    """
    try:
        content = files.read(path, LARGEST)
    except files.UnreadableError as error:
        raise CheckpointError(f"{error}: it is no checkpoint") from error
    return unpack(content, str(path))
