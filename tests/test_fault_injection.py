import signal

import fault_injection
import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fault_injection.World(tmp_path_factory.mktemp("world"))


def test_ten_kills_at_random_instants_lose_nothing(world, tmp_path):
    (tally,) = fault_injection.kill_at_random(world, tmp_path, 10)
    assert tally.done >= 10
    assert tally.problems == []


def test_a_kill_in_the_middle_of_a_write_loses_nothing(world, tmp_path):
    (tally,) = fault_injection.kill_at_every_write(world, tmp_path, every=35)
    assert tally.done >= 2
    assert tally.problems == []


def test_a_disk_that_fails_at_any_operation_loses_nothing_and_is_named(tmp_path):
    tally = fault_injection.fail_every_write(tmp_path)
    assert tally.done > 50
    assert tally.problems == []


def test_every_flipped_bit_is_found(world, tmp_path):
    tally = fault_injection.flip_bits(world, tmp_path / "bits", 200)
    assert tally.done == 200
    assert tally.problems == []


def test_hostile_files_are_refused_in_one_line_within_the_bound_on_memory(tmp_path):
    tally = fault_injection.mislead(tmp_path / "hostile")
    assert tally.done == len(fault_injection._hostile())
    assert tally.problems == []


def test_many_at_once_get_in_nobodys_way(world, tmp_path):
    tally = fault_injection.start_at_once(world, tmp_path / "crowd", 3)
    assert tally.done == 6
    assert tally.problems == []


def test_what_is_lost_is_noticed(world, tmp_path):
    earlier = fault_injection._earlier_model(tmp_path)
    assert fault_injection._damage(world, tmp_path, earlier) == []
    path = next(path for path in earlier if path.suffix == ".pth")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(fault_injection._damage(world, tmp_path, earlier)) == 2, "damaged, and changed"
    (tmp_path / "log").write_text("why", encoding="utf-8")
    assert "other weights" in fault_injection._differences(world, tmp_path, earlier)[0]
