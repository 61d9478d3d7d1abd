import contextlib
import dataclasses
import errno
import io
import os
from datetime import datetime, timedelta, timezone

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
    """A checkpoint file with these values, whatever they are."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return checkpoints.seal(buffer.getvalue())


def anything(checkpoint: Checkpoint) -> bool:
    return True


@given(st.binary(max_size=50), st.floats(allow_nan=False), st.integers(0, 5))
def test_what_is_unpacked_is_what_was_packed(content, seconds, resumed):
    training = {"generator": torch.tensor(list(content), dtype=torch.uint8), "seconds": seconds}
    checkpoint = dataclasses.replace(START, resumed=resumed, training=training)
    unpacked = checkpoints.unpack(checkpoints.pack(checkpoint), "it")
    assert (unpacked.recipe, unpacked.dataset, unpacked.resumed) == (START.recipe, START.dataset, resumed)
    assert torch.equal(unpacked.training["generator"], training["generator"])
    assert unpacked.training["seconds"] == seconds


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data):
    content = bytearray(checkpoints.pack(START))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.unpack(content, "it")


@given(st.integers(0, 3000))
def test_a_truncated_one_is_found(length):
    content = checkpoints.pack(START)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.unpack(content[: min(length, len(content) - 1)], "it")


INIT = {"weights": "mnist_model_20260101_000000.pth", "sha256": "0", "trained_on": ["mnist", "photos"]}


def test_what_the_run_started_from_is_kept_and_an_older_one_that_does_not_say_is_read():
    started = dataclasses.replace(START, init=Origin(INIT["weights"], INIT["sha256"], tuple(INIT["trained_on"])))
    assert checkpoints.unpack(checkpoints.pack(started), "it") == started
    values = dataclasses.asdict(START)
    del values["init"]
    assert checkpoints.unpack(packed(**values), "it") == START


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
def test_one_with_other_values_in_it_is_refused(changed):
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        checkpoints.unpack(packed(**{**dataclasses.asdict(START), **changed}), "it")


def test_the_last_two_are_kept(tmp_path):
    folder = checkpoints.start(tmp_path)
    written = [folder.write(step, START) for step in (5, 10, 999_999_999, 1_000_000_000)]
    assert folder.newest_first() == [written[3], written[2]]
    folder.close()


def test_every_run_has_a_folder_of_its_own(tmp_path):
    runs = [checkpoints.start(tmp_path, NOON) for _ in range(3)]
    assert [run.path.name for run in runs] == [f"run_20260102_120000{end}" for end in ("", "_2", "_3")]
    for run in runs:
        run.close()


def test_the_newest_interrupted_run_is_found_and_one_that_runs_is_not(tmp_path):
    older, newer = checkpoints.start(tmp_path, NOON), checkpoints.start(tmp_path, NOON + timedelta(seconds=1))
    for run in (older, newer):
        run.write(1, START)
    assert checkpoints.find(tmp_path, anything) is None
    older.close()
    found, _ = checkpoints.find(tmp_path, anything)
    assert found.path == older.path
    assert checkpoints.find(tmp_path, anything) is None, "now this one is being gone on with"
    found.close()
    newer.close()
    found, _ = checkpoints.find(tmp_path, anything)
    assert found.path == newer.path
    found.close()
    assert checkpoints.find(tmp_path, lambda checkpoint: False) is None
    assert checkpoints.find(tmp_path / "nowhere", anything) is None


def test_where_the_last_is_damaged_the_one_before_it_is_taken_and_that_is_said(tmp_path):
    run = checkpoints.start(tmp_path)
    run.write(1, dataclasses.replace(START, resumed=1))
    run.write(2, START).write_bytes(b"half of it")
    run.close()
    said = []
    found, checkpoint = checkpoints.find(tmp_path, anything, said.append)
    assert checkpoint.resumed == 1
    assert len(said) == 1
    assert "step_000000002.ckpt is damaged" in said[0]
    found.close()


def test_a_run_that_is_over_leaves_nothing_of_its_own_and_all_of_others(tmp_path):
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


def test_a_run_that_saved_nothing_is_cleared_away(tmp_path):
    checkpoints.start(tmp_path).close()
    assert checkpoints.find(tmp_path, anything) is None
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_earlier_ones(tmp_path, monkeypatch):
    run = checkpoints.start(tmp_path)
    before = [run.write(step, START) for step in (1, 2)]

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, contextlib.suppress(OSError):
        patch.setattr(os, "fsync", fail)
        run.write(3, START)
    assert run.newest_first() == before[::-1]
    run.close()


def test_what_is_no_file_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoints.read(tmp_path)
