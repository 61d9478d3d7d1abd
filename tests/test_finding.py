"""Test the search for digits in many files, and the memory that threads share."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import PATIENCE, drawn, printed

from mnist import preparation, resources
from mnist.preparation import Digit, Found, ImageError, NoDigitError, finding, reading
from mnist.preparation.finding import map_in_threads

BLANK = Image.new("L", (60, 60), 255)


@pytest.fixture
def _two_processors(monkeypatch):
    monkeypatch.setattr(resources, "processors", lambda: 2)


# ---- Threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 2, 3, 64])
def test_map_keeps_the_order(monkeypatch, ahead):
    """Even if each item is finished only after the next one, as far as that one has been started."""
    monkeypatch.setattr(finding, "FILES_READ_AHEAD", ahead)
    monkeypatch.setattr(resources, "processors", lambda: 4)
    finished = [threading.Event() for _ in range(20)]

    def wait(number: int) -> int:
        if ahead > 1 and number % 2 == 0:
            finished[number + 1].wait(PATIENCE)
        finished[number].set()
        return -number

    assert list(map_in_threads(wait, iter(range(20)))) == [-number for number in range(20)]
    assert list(map_in_threads(wait, [])) == []


@pytest.mark.usefixtures("_two_processors")
def test_map_starts_the_next_item_while_a_slow_one_runs(monkeypatch):
    monkeypatch.setattr(finding, "FILES_READ_AHEAD", 2)
    started = [threading.Event() for _ in range(4)]

    def wait_for_the_next(number: int) -> bool:
        started[number].set()
        return number != 1 or started[2].wait(PATIENCE)  # with batches of two, item 2 would start after item 1

    assert all(map_in_threads(wait_for_the_next, range(4)))


@pytest.mark.parametrize("ahead", [1, 3])
def test_map_reads_the_items_lazily(monkeypatch, ahead):
    monkeypatch.setattr(finding, "FILES_READ_AHEAD", ahead)
    read = []

    def items():
        for number in range(20):
            read.append(number)
            yield number

    results = map_in_threads(lambda number: number, items())
    for expected in range(5):
        assert next(results) == expected
        assert len(read) == expected + ahead
    results.close()
    assert len(read) == 4 + ahead


def test_map_starts_no_other_item_when_it_is_closed(monkeypatch):
    closing, started = threading.Event(), []

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closing.set()
            super().shutdown(wait=wait)

    def wait(number: int) -> bool:
        started.append(number)
        return number == 0 or closing.wait(PATIENCE)

    monkeypatch.setattr(finding, "ThreadPoolExecutor", Executor)
    monkeypatch.setattr(resources, "processors", lambda: 1)
    results = map_in_threads(wait, range(20))
    assert next(results)
    results.close()
    assert started in ([0], [0, 1])


def test_map_raises_the_error_of_an_item():
    results = map_in_threads(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_files_give_the_same_as_one_file_after_the_other(tmp_path):
    for digit in (3, 4, 5):
        printed(digit).save(tmp_path / f"{digit}.png")
    sheet = Image.new("L", (200, 64), 240)
    sheet.paste(printed(3), (0, 0))
    sheet.paste(printed(7), (120, 0))
    sheet.save(tmp_path / "sheet.png")
    BLANK.save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    paths = 3 * [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]
    for split in (False, True):
        for path, found in zip(paths, preparation.find_in_files(paths, split=split), strict=True):
            alone = preparation.find_in_file(path, split=split)
            assert type(found) is type(alone)
            if isinstance(found, Found):
                assert len(found.digits) == len(alone.digits) == (2 if split and path.name == "sheet.png" else 1)
                for digit, same in zip(found.digits, alone.digits, strict=True):
                    both = isinstance(digit, Digit)
                    assert digit.prepared.tobytes() == same.prepared.tobytes() if both else str(digit) == str(same)
            else:
                assert str(found) == str(alone)
    for path, prepared in zip(paths, preparation.prepare_files(paths), strict=True):
        alone = preparation.prepare_file(path)
        assert str(prepared) == str(alone) if isinstance(alone, ImageError) else np.array_equal(prepared, alone)


# ---- Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_two_processors")
@pytest.mark.parametrize(
    ("memory", "size", "at_once", "patience"),
    [
        ("_decoding_memory", 1, False, 0.5),
        ("_decoding_memory", 6_000_000, True, PATIENCE),
        ("_content_memory", 1, False, 0.5),
        ("_content_memory", 6_000_000, True, PATIENCE),
    ],
)
def test_images_are_decoded_at_once_if_they_fit(tmp_path, monkeypatch, memory, size, at_once, patience):
    """Two images whose files or pixels do not fit into the memory together are decoded one after the other."""
    meeting, met, convert = threading.Barrier(2), [], reading.convert

    def meet(*arguments):
        with suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(patience))
        return convert(*arguments)

    monkeypatch.setattr(reading, "convert", meet)
    monkeypatch.setattr(reading, memory, reading._Memory(size))
    drawn().save(tmp_path / "seven.png")
    assert all(image.shape == (28, 28) for image in preparation.prepare_files([tmp_path / "seven.png"] * 2))
    assert len(met) == 2 * at_once


def test_image_that_takes_all_memory_is_read(tmp_path, monkeypatch):
    drawn().save(tmp_path / "seven.png")
    for memory in ("_content_memory", "_decoding_memory"):
        monkeypatch.setattr(reading, memory, reading._Memory(1))
    assert preparation.prepare_file(tmp_path / "seven.png").shape == (28, 28)


def test_memory_is_released_after_an_error(tmp_path, monkeypatch):
    drawn().save(tmp_path / "seven.jpg")
    (tmp_path / "damaged.jpg").write_bytes((tmp_path / "seven.jpg").read_bytes()[:-900])
    memories = [reading._Memory(1_000_000) for _ in range(2)]
    for name, memory in zip(("_content_memory", "_decoding_memory"), memories, strict=True):
        monkeypatch.setattr(reading, name, memory)
    for name in ("damaged.jpg", "missing.jpg", "seven.jpg"):
        preparation.prepare_file(tmp_path / name)
    assert [memory._free for memory in memories] == [1_000_000] * 2


def test_reservations_never_exceed_the_memory():
    memory, total, lock, peaks = reading._Memory(100), [0], threading.Lock(), []

    def take(amount: int) -> None:
        for _ in range(50):
            with memory.reserve(amount):
                with lock:
                    total[0] += min(amount, 100)
                    peaks.append(total[0])
                with lock:
                    total[0] -= min(amount, 100)

    threads = [threading.Thread(target=take, args=(amount,)) for amount in (10, 30, 60, 100, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peaks) == 250
    assert max(peaks) <= 100


@settings(max_examples=60)
@example(40, 50, False, 0)
@example(8, 64, True, 1)
@given(st.integers(4, 40), st.floats(1, 70), st.booleans(), st.integers(0, 3))
def test_narrow_images_are_searched_or_refused(side, ratio, split, seed):
    """No shape of an image is an internal error."""
    pixels = np.random.default_rng(seed).choice([0, 255], (side, int(side * ratio)), p=[0.02, 0.98]).astype(np.uint8)
    for image in (pixels, pixels.T):
        found = preparation.find(image, split=split)
        assert all(isinstance(each, Digit | NoDigitError) for each in found.digits)
