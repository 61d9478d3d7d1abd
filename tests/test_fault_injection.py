"""Test that kills, failing disks, flipped bits, hostile files and concurrent programs lose nothing."""

import signal

import faults
import hostile_files
import pytest
from sandbox import Sandbox

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


def test_kill_at_random_loses_nothing(sandbox, tmp_path):
    tally = faults.kill_at_random(sandbox, tmp_path, 10)
    assert tally.times >= 10
    assert tally.problems == []


def test_kill_at_every_write_loses_nothing(sandbox, tmp_path):
    tally = faults.kill_at_every_write(sandbox, tmp_path, every=35)
    assert tally.times >= 2
    assert tally.problems == []


def test_fail_every_write_loses_nothing_and_names_the_error(tmp_path):
    tally = faults.fail_every_write(tmp_path)
    assert tally.times > 50
    assert tally.problems == []


def test_flip_bits_finds_every_flip(sandbox, tmp_path):
    tally = faults.flip_bits(sandbox, tmp_path / "bits", 200)
    assert tally.times == 200
    assert tally.problems == []


def test_hostile_files_are_refused(tmp_path):
    """Each file is refused with one line, within the bound on memory, and no code of it is run."""
    tally = hostile_files.read_hostile_files(tmp_path / "hostile")
    assert tally.times == len(hostile_files.make_hostile_files())
    assert tally.problems == []


def test_start_at_once_loses_nothing(sandbox, tmp_path):
    tally = faults.start_at_once(sandbox, tmp_path / "concurrent", 3)
    assert tally.times == 6
    assert tally.problems == []


def test_find_damage_finds_a_changed_model(sandbox, tmp_path):
    earlier = faults.save_earlier_model(tmp_path)
    assert faults.find_damage(sandbox, tmp_path, earlier) == []
    path = next(path for path in earlier if path.suffix == ".pth")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(faults.find_damage(sandbox, tmp_path, earlier)) == 2, "one line for damage, one for the change"
    (tmp_path / "log").write_text("why", encoding="utf-8")
    assert "other weights" in faults.find_differences(sandbox, tmp_path, earlier)[0]
