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


def test_ten_kills_at_random_instants_lose_nothing(sandbox, tmp_path):
    (tally,) = faults.kill_at_random(sandbox, tmp_path, 10)
    assert tally.done >= 10
    assert tally.problems == []


def test_a_kill_in_the_middle_of_a_write_loses_nothing(sandbox, tmp_path):
    (tally,) = faults.kill_at_every_write(sandbox, tmp_path, every=35)
    assert tally.done >= 2
    assert tally.problems == []


def test_a_disk_that_fails_at_any_operation_loses_nothing_and_is_named(tmp_path):
    tally = faults.fail_every_write(tmp_path)
    assert tally.done > 50
    assert tally.problems == []


def test_every_flipped_bit_is_found(sandbox, tmp_path):
    tally = faults.flip_bits(sandbox, tmp_path / "bits", 200)
    assert tally.done == 200
    assert tally.problems == []


def test_hostile_files_are_refused_in_one_line_within_the_bound_on_memory(tmp_path):
    tally = hostile_files.mislead(tmp_path / "hostile")
    assert tally.done == len(hostile_files.hostile_files())
    assert tally.problems == []


def test_many_at_once_get_in_nobodys_way(sandbox, tmp_path):
    tally = faults.start_at_once(sandbox, tmp_path / "crowd", 3)
    assert tally.done == 6
    assert tally.problems == []


def test_what_is_lost_is_noticed(sandbox, tmp_path):
    earlier = faults.save_earlier_model(tmp_path)
    assert faults.find_damage(sandbox, tmp_path, earlier) == []
    path = next(path for path in earlier if path.suffix == ".pth")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(faults.find_damage(sandbox, tmp_path, earlier)) == 2, "damaged, and changed"
    (tmp_path / "log").write_text("why", encoding="utf-8")
    assert "other weights" in faults.find_differences(sandbox, tmp_path, earlier)[0]
