"""Checkpoints: the complete state of a training run on disk, so that an interrupted run can be resumed.

Each run has its own folder, named ``run_YYYYMMDD_HHMMSS`` after its start in UTC, with its last two checkpoints. A lock
file lies beside the folder. The operating system releases the lock when the process ends for any reason, so a locked
run is still running, and an unlocked run was interrupted.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
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
from mnist.storage.card import DatasetInfo, Origin, parse

CHECKPOINTS_KEPT = 2  # checkpoints per run; the older one is used if the newer one is damaged
MAX_CHECKPOINT_BYTES = 100_000_000  # far larger than any checkpoint of these networks

_MAGIC = b"mnist checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size
DAMAGED_SUFFIX = ".damaged"  # appended to the name of a damaged checkpoint when its run is resumed from an earlier one
_RUN = re.compile(r"run_(\d{8}_\d{6})(?:_(\d+))?")
_NAME = re.compile(r"step_(\d{9,})\.ckpt")


class CheckpointError(MnistError):
    """A file that is not an intact checkpoint."""


@dataclass(frozen=True)
class Machine:
    """The part of the environment that affects the trained weights, through rounding errors."""

    device: str  # cpu, cuda or mps
    threads: int
    processes: int


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run: everything that is needed to resume it."""

    recipe: Recipe
    dataset: DatasetInfo
    machine: Machine
    resumed: int = 0  # number of times that the run was interrupted and resumed
    training: Mapping[str, Any] | None = None  # the trainer's state; None before the first step
    init: Origin | None = None  # None: random initial weights

    @property
    def step(self) -> int:
        """The number of training steps that led to this state."""
        return int(self.training["batches"]["step"]) if self.training else 0


class RunFolder:
    """The checkpoints of one run. The run belongs to this process until the folder is closed."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock) -> None:
        self.path = path
        self._lock = lock

    def write(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, and delete all but the last two.

        Args:
            step: number of training steps that led to this state.

        Raises:
            OSError: if the checkpoint cannot be written. The earlier checkpoints are then unchanged.
        """
        path = self.path / f"step_{step:09}.ckpt"
        files.write_atomically(path, pack(checkpoint))
        with contextlib.suppress(OSError):  # the new checkpoint is safe even if an old one cannot be deleted
            for old in self.newest_first()[CHECKPOINTS_KEPT:]:
                old.unlink()
        return path

    def newest_first(self) -> list[Path]:
        """Return the paths of all checkpoints, intact or not, newest first."""
        paths = self.path.iterdir() if self.path.is_dir() else ()
        named = [(int(match.group(1)), path) for path in paths if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(named, reverse=True)]

    def remove(self) -> None:
        """Delete the run's checkpoints, its folder and its lock; keep files that other programs wrote."""
        with contextlib.suppress(OSError):  # leftovers do no harm
            leftovers = (f".step_*{files.PART_SUFFIX}", f"step_*{DAMAGED_SUFFIX}")
            for path in [*self.newest_first(), *itertools.chain.from_iterable(map(self.path.glob, leftovers))]:
                path.unlink()
            self.path.rmdir()
            Path(self._lock.lock_file).unlink()
        self.close()

    def close(self) -> None:
        """Release the run, so that another process can resume it."""
        self._lock.release()


class CheckpointWriter:
    """Writes the checkpoints of a run into its folder; without a folder it writes nothing."""

    def __init__(self, start: Checkpoint, folder: RunFolder | None, notify: Callable[[str], None]) -> None:
        self._start, self._folder, self._notify = start, folder, notify
        self._last_step = -1

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, or warn if that fails: a full disk must not end a run that can still succeed."""
        if self._folder is not None:
            try:
                self._folder.write(step, dataclasses.replace(self._start, training=state))
                self._last_step = step
            except OSError as error:
                self._notify(f"WARNING: step {step:,} could not be saved: {files.explain(error)}; training continues")

    def describe(self, step: int, interruption: str) -> str:
        """Return ``interruption`` and a note on whether and where the run was saved, or "" if there is no folder."""
        if self._folder is None:
            return ""
        if self._last_step == step:
            return f"{interruption}; saved in {self._folder.path}"
        earlier = f"; the last checkpoint is from step {self._last_step:,}" if self._last_step > 0 else ""
        return f"{interruption}; NOT saved{earlier}"


def start(checkpoints_dir: Path, now: datetime | None = None) -> RunFolder:
    """Create a folder for a new run, under a name that does not exist yet.

    Raises:
        OSError: if the folder cannot be created.
    """
    checkpoints_dir.mkdir(parents=True, exist_ok=True)
    stem = f"run_{(now or datetime.now(timezone.utc)).astimezone(timezone.utc):%Y%m%d_%H%M%S}"
    for name in files.numbered(stem):
        path = checkpoints_dir / name
        try:
            folder = _lock_folder(path)
        except OSError:
            if not os.path.lexists(_lock_path(path)):
                raise
            continue  # a run of another user has this name
        if folder:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return folder
            folder.close()
    raise AssertionError("unreachable: files.numbered never ends")


def find(
    checkpoints_dir: Path, matches: Callable[[Checkpoint], bool], notify: Callable[[str], None] = lambda line: None
) -> tuple[RunFolder, Checkpoint] | None:
    """Return the newest interrupted run that matches, with its newest intact checkpoint, or None if there is none.

    Damaged checkpoints that are newer than the intact one are renamed. Otherwise they would count as newer than the
    checkpoints that the resumed run writes.

    Args:
        notify: is called with one line for each damaged checkpoint, and for each run that cannot be used.
    """
    for path in _run_paths(checkpoints_dir):
        folder = None
        try:
            folder = _lock_folder(path)
            if folder and (checkpoint := _last_intact(folder, matches, notify)):
                return folder, checkpoint
        except OSError as error:  # such as the lock or the folder of another user
            notify(f"WARNING: {path} is skipped: {files.explain(error)}")
        if folder:
            folder.close()
    return None


def _last_intact(
    folder: RunFolder, matches: Callable[[Checkpoint], bool], notify: Callable[[str], None]
) -> Checkpoint | None:
    """Return the newest intact checkpoint if it matches, and rename the damaged ones that are newer.

    Remove the run if it has no checkpoints.
    """
    paths = folder.newest_first()
    if not paths:
        folder.remove()  # the run ended before its first checkpoint
    for number, path in enumerate(paths):
        checkpoint = _read_or_warn(path, notify)
        if checkpoint and matches(checkpoint):
            for damaged in paths[:number]:
                with contextlib.suppress(OSError):
                    damaged.replace(damaged.with_name(damaged.name + DAMAGED_SUFFIX))
            return checkpoint
        if checkpoint:
            break
    return None


def _read_or_warn(path: Path, notify: Callable[[str], None]) -> Checkpoint | None:
    try:
        return read(path)
    except (CheckpointError, OSError) as error:
        notify(f"WARNING: {error}; using the previous checkpoint, if there is one")
        return None


def _run_paths(checkpoints_dir: Path) -> list[Path]:
    """Return the folders of all runs, the newest first."""
    paths = checkpoints_dir.iterdir() if checkpoints_dir.is_dir() else ()
    named = [(m.group(1), int(m.group(2) or 1), path) for path in paths if (m := _RUN.fullmatch(path.name))]
    return [path for *_, path in sorted(named, reverse=True)]


def _lock_folder(path: Path) -> RunFolder | None:
    """Lock a run's folder for this process, or return None if another process has locked it.

    Raises:
        OSError: if the lock file cannot be opened, for example because it belongs to another user.
    """
    # thread_local=False: a thread other than the one that acquired the lock can release it.
    lock = filelock.FileLock(_lock_path(path), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    return RunFolder(path, lock)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


# ---- The file --------------------------------------------------------------------------------------------------------


def pack(checkpoint: Checkpoint) -> bytes:
    """Return the contents of a checkpoint file."""
    values = {
        "recipe": dataclasses.asdict(checkpoint.recipe),
        "dataset": dataclasses.asdict(checkpoint.dataset),
        "machine": dataclasses.asdict(checkpoint.machine),
        "resumed": checkpoint.resumed,
        "training": checkpoint.training,
        "init": dataclasses.asdict(checkpoint.init) if checkpoint.init else None,
    }
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return seal(buffer.getvalue())


def seal(content: bytes) -> bytes:
    """Return the content preceded by the magic line and the SHA-256 of the content."""
    return _MAGIC + hashlib.sha256(content).digest() + content


def unpack(content: bytes | bytearray, name: str) -> Checkpoint:
    """Parse the contents of a checkpoint file.

    Args:
        name: the name of the file, for error messages.

    Raises:
        CheckpointError: if it is damaged, or was not written by this program.
    """
    magic, digest, rest = content[: len(_MAGIC)], content[len(_MAGIC) :][:_DIGEST], content[len(_MAGIC) + _DIGEST :]
    if magic != _MAGIC:
        raise CheckpointError(f"{name} is damaged, or not a checkpoint of this version")
    if hashlib.sha256(rest).digest() != digest:
        raise CheckpointError(f"{name} is damaged: its SHA-256 differs from the one stored in it")
    try:
        values: dict[str, Any] = pickles.load(rest, name)
        if not isinstance(values["training"], dict | None):
            raise TypeError("training is not a dictionary")
        checkpoint = Checkpoint(
            recipe=parse(Recipe, values["recipe"], "recipe"),
            dataset=parse(DatasetInfo, values["dataset"], "dataset"),
            machine=parse(Machine, values["machine"], "machine"),
            resumed=parse(int, values["resumed"], "resumed"),
            training=values["training"],
            init=parse(Origin | None, values.get("init"), "init"),
        )
        checkpoint.step  # noqa: B018  raises an error if the state has another form
    except (MnistError, TypeError, ValueError, KeyError, AttributeError) as error:
        # The content is intact, since its SHA-256 is correct, but another program wrote it.
        raise CheckpointError(f"{name} is not a checkpoint of this program") from error
    return checkpoint


def read(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        CheckpointError: if it is damaged, or was not written by this program.
        OSError: if the file cannot be read.
    """
    try:
        content = files.read(path, MAX_CHECKPOINT_BYTES)
    except files.UnreadableError as error:
        raise CheckpointError(f"{error} (a checkpoint is a .ckpt file)") from error
    return unpack(content, str(path))
