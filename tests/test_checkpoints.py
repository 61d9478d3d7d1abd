import contextlib
import dataclasses
import errno
import io
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import filelock
import pytest
import samples
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist import files, recipes
from mnist.storage import checkpoints
from mnist.storage.card import Origin
from mnist.storage.checkpoints import Checkpoint, CheckpointError

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)
START = samples.checkpoint(recipes.get("standard"))


def packed(**values) -> bytes:
    """Return the content of a checkpoint file with any values."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return checkpoints.seal(buffer.getvalue())


def match_any(checkpoint: Checkpoint) -> bool:
    return True


@given(st.binary(max_size=50), st.floats(allow_nan=False), st.integers(0, 5))
def test_unpack_returns_what_was_packed(content, seconds, resumed):
    training = {"generator": torch.tensor(list(content), dtype=torch.uint8), "seconds": seconds, "batches": {"step": 7}}
    checkpoint = dataclasses.replace(START, resumed=resumed, training=training)
    unpacked = checkpoints.unpack(checkpoints.pack(checkpoint), "file")
    assert (unpacked.recipe, unpacked.dataset, unpacked.resumed) == (START.recipe, START.dataset, resumed)
    assert torch.equal(unpacked.training["generator"], training["generator"])
    assert unpacked.training["seconds"] == seconds
    assert unpacked.step == 7


@pytest.mark.parametrize("training", [{"seconds": 1.0}, {"batches": None}, {"batches": {"step": "x"}}, "text", [1]])
def test_unpack_refuses_a_state_without_its_step(training):
    content = checkpoints.pack(dataclasses.replace(START, training=training))
    with pytest.raises(CheckpointError, match="file is not a checkpoint of this program"):
        checkpoints.unpack(content, "file")


@settings(max_examples=200)
@given(st.data())
def test_unpack_detects_a_flipped_bit(data):
    content = bytearray(checkpoints.pack(START))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.unpack(content, "file")


@given(st.integers(0, 3000))
def test_unpack_detects_truncation(length):
    content = checkpoints.pack(START)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.unpack(content[: min(length, len(content) - 1)], "file")


INIT = {"weights": "mnist_model_20260101_000000.pth", "sha256": "0", "trained_on": ["mnist", "photos"]}


def test_unpack_restores_the_initial_model():
    """Checkpoints of early versions lack the field; their runs have random initial weights."""
    started = dataclasses.replace(START, init=Origin(INIT["weights"], INIT["sha256"], tuple(INIT["trained_on"])))
    assert checkpoints.unpack(checkpoints.pack(started), "file") == started
    values = dataclasses.asdict(START)
    del values["init"]
    assert checkpoints.unpack(packed(**values), "file") == START


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": {"name": "x", "epochs": -1}},
        {"dataset": {}},
        {"resumed": "often"},
        {"init": 3},
        {"init": "a.pth"},
        {"init": {}},
        {"init": {**INIT, "weights": 3}},
        {"init": {**INIT, "trained_on": None}},
        {"init": {**INIT, "trained_on": ["mnist", 3]}},
        {"init": {"weights": "a.pth", "sha256": "0"}},
    ],
    ids=repr,
)
def test_unpack_refuses_values_of_wrong_types(changed):
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        checkpoints.unpack(packed(**{**dataclasses.asdict(START), **changed}), "file")


def test_write_keeps_the_last_two_checkpoints(tmp_path):
    folder = checkpoints.start(tmp_path)
    written = [folder.write(step, START) for step in (5, 10, 999_999_999, 1_000_000_000)]
    assert folder.newest_first() == [written[3], written[2]]
    folder.close()


def test_start_creates_a_new_folder_for_each_run(tmp_path):
    runs = [checkpoints.start(tmp_path, NOON) for _ in range(3)]
    assert [run.path.name for run in runs] == [f"run_20260102_120000{end}" for end in ("", "_2", "_3")]
    for run in runs:
        run.close()


def test_find_returns_the_newest_interrupted_run(tmp_path):
    """It ignores runs that are still running."""
    older, newer = checkpoints.start(tmp_path, NOON), checkpoints.start(tmp_path, NOON + timedelta(seconds=1))
    for run in (older, newer):
        run.write(1, START)
    assert checkpoints.find(tmp_path, match_any) is None
    older.close()
    found, _ = checkpoints.find(tmp_path, match_any)
    assert found.path == older.path
    assert checkpoints.find(tmp_path, match_any) is None, "the run is being resumed now"
    found.close()
    newer.close()
    found, _ = checkpoints.find(tmp_path, match_any)
    assert found.path == newer.path
    found.close()
    assert checkpoints.find(tmp_path, lambda checkpoint: False) is None
    assert checkpoints.find(tmp_path / "nowhere", match_any) is None


def test_find_skips_a_damaged_checkpoint_with_a_warning(tmp_path):
    run = checkpoints.start(tmp_path)
    run.write(1, dataclasses.replace(START, resumed=1))
    run.write(2, START).write_bytes(b"truncated")
    run.close()
    lines = []
    found, checkpoint = checkpoints.find(tmp_path, match_any, lines.append)
    assert checkpoint.resumed == 1
    assert len(lines) == 1
    assert "step_000000002.ckpt is damaged" in lines[0]
    found.close()


def test_remove_deletes_only_files_of_the_run(tmp_path):
    run = checkpoints.start(tmp_path)
    run.write(1, START)
    (run.path / f".step_000000002.ckpt.0123{files.PART_SUFFIX}").touch()
    run.remove()
    assert os.listdir(tmp_path) == []
    run = checkpoints.start(tmp_path)
    run.write(1, START)
    (run.path / "notes.txt").touch()
    run.remove()
    assert os.listdir(run.path) == ["notes.txt"]


def test_find_removes_a_run_without_checkpoints(tmp_path):
    checkpoints.start(tmp_path).close()
    assert checkpoints.find(tmp_path, match_any) is None
    assert os.listdir(tmp_path) == []


def test_failed_write_leaves_earlier_checkpoints_alone(tmp_path, monkeypatch):
    run = checkpoints.start(tmp_path)
    before = [run.write(step, START) for step in (1, 2)]

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, contextlib.suppress(OSError):
        patch.setattr(os, "fsync", fail)
        run.write(3, START)
    assert run.newest_first() == before[::-1]
    run.close()


def test_read_refuses_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoints.read(tmp_path)


def refuse_locks(monkeypatch, number: int):
    """Let the lock file of every run fail to open, as does the lock file of another user's run."""

    def refuse(lock, *arguments, **options):
        path = Path(lock.lock_file)
        if path.exists():
            raise OSError(number, os.strerror(number), str(path))
        return acquire(lock, *arguments, **options)

    acquire = filelock.FileLock.acquire
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ELOOP])
def test_runs_of_other_users_are_skipped_with_a_warning(tmp_path, monkeypatch, number):
    other = checkpoints.start(tmp_path, NOON)
    other.write(1, START)
    other.close()
    (tmp_path / f".{other.path.name}.lock").touch()
    refuse_locks(monkeypatch, number)
    lines = []
    assert checkpoints.find(tmp_path, match_any, lines.append) is None
    assert len(lines) == 1
    assert os.strerror(number) in lines[0]
    run = checkpoints.start(tmp_path, NOON)
    assert run.path.name == f"{other.path.name}_2"
    run.close()


def test_find_skips_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    run = checkpoints.start(tmp_path)
    run.write(1, START)
    run.close()
    iterdir = Path.iterdir

    def refuse(path):
        if path == run.path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    lines = []
    assert checkpoints.find(tmp_path, match_any, lines.append) is None
    assert len(lines) == 1
    assert os.strerror(errno.EACCES) in lines[0]


def test_damaged_checkpoint_does_not_displace_later_ones(tmp_path):
    """The run resumes at step 1, so the damaged checkpoint of step 9 must not count as newer than steps 2 and 3."""
    run = checkpoints.start(tmp_path)
    run.write(1, START)
    run.write(9, START).write_bytes(b"truncated")
    run.close()
    run, _ = checkpoints.find(tmp_path, match_any)
    written = [run.write(step, START) for step in (2, 3)]
    assert run.newest_first() == written[::-1]
    assert (run.path / "step_000000009.ckpt.damaged").read_bytes() == b"truncated"
    run.remove()
    assert os.listdir(tmp_path) == []


def test_damaged_checkpoint_keeps_its_name_if_its_run_is_not_resumed(tmp_path):
    run = checkpoints.start(tmp_path)
    paths = [run.write(9, START), run.write(1, START)]
    paths[0].write_bytes(b"truncated")
    run.close()
    assert checkpoints.find(tmp_path, lambda checkpoint: False) is None
    paths[1].write_bytes(b"truncated")
    assert checkpoints.find(tmp_path, match_any) is None
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("training", [3, "state", [], torch.zeros(2)], ids=repr)
def test_unpack_refuses_a_training_state_of_another_type(training):
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        checkpoints.unpack(packed(**{**dataclasses.asdict(START), "training": training}), "file")
