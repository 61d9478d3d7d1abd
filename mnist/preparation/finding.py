"""Find the digits in one source or in many files, with an error in place of each file that cannot be used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist import resources
from mnist.preparation import reading, search
from mnist.preparation.problems import ImageError, NoDigitError
from mnist.preparation.search import Digit

FILES_READ_AHEAD = 64  # files that are being read, or whose result waits for that of an earlier file

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Found:
    """The digits in one image, with an error in place of each shape that is not a digit."""

    digits: Sequence[Digit | NoDigitError]
    note: str  # what was left out, such as the other frames of an animation


def find(source: Any, *, split: bool) -> Found:
    """Find the only digit in a source that :func:`mnist.preparation.to_picture` reads, or all digits.

    Args:
        split: find all digits; otherwise, an image with several shapes has no digit.

    Raises:
        ImageError: if the source cannot be used.
        OSError: if a file cannot be read.
    """
    picture = reading.to_picture(source)
    try:
        return Found(search.find_digits(picture) if split else [search.find_digit(picture)], picture.note)
    except NoDigitError as error:
        return Found([error], picture.note)


def find_in_file(path: Path, *, split: bool) -> Found | ImageError:
    """Find digits in a file; return the error if it cannot be used, so that the work on other files continues."""
    try:
        return find(path, split=split)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"{path} cannot be read: {error.strerror or error}")


def find_in_files(paths: Iterable[Path], *, split: bool) -> Iterator[Found | ImageError]:
    """Find digits in files with a thread for each processor; yield the results in the order of the files.

    The paths are read lazily, ``FILES_READ_AHEAD`` ahead of the results.
    """
    return map_in_threads(partial(find_in_file, split=split), paths)


def prepare_file(path: Path) -> NDArray[np.uint8] | ImageError:
    """Read and prepare an image file; return uint8 [28, 28], or the error if that fails."""
    return _only_prepared(find_in_file(path, split=False))


def prepare_files(paths: Iterable[Path]) -> Iterator[NDArray[np.uint8] | ImageError]:
    """Yield for each file what :func:`prepare_file` returns, with a thread for each processor."""
    return map(_only_prepared, find_in_files(paths, split=False))


def _only_prepared(found: Found | ImageError) -> NDArray[np.uint8] | ImageError:
    if isinstance(found, ImageError):
        return found
    (digit,) = found.digits
    return digit.prepared if isinstance(digit, Digit) else digit


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Call a function for each item, with a thread for each processor; yield the results in the order of the items."""
    waiting: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(resources.processors())
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= FILES_READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
