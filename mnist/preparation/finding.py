"""Find the digits in one image or in many files; a file that cannot be used gives an error instead of digits."""

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

FILES_READ_AHEAD = 64  # maximum number of files that are being read, or have been read before an earlier one

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Found:
    """The digits in one image; for a shape that is not a digit, there is an error instead."""

    digits: Sequence[Digit | NoDigitError]
    note: str  # what was left out, such as the other frames of an animation


def find(source: Any, *, split: bool) -> Found:
    """Find one digit, or all digits, in a source that :func:`mnist.preparation.to_picture` reads.

    Args:
        split: if True, find all digits; otherwise find the only digit, and return an error if there are several shapes.

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
    """Find digits in a file; return an error, instead of raising it, if the file cannot be used."""
    try:
        return find(path, split=split)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"{path} cannot be read: {error.strerror or error}")


def find_in_files(paths: Iterable[Path], *, split: bool) -> Iterator[Found | ImageError]:
    """Find digits in files, with one thread per processor; yield the results in the order of the files.

    The paths are consumed lazily, at most ``FILES_READ_AHEAD`` ahead of the results.
    """
    return map_in_threads(partial(find_in_file, split=split), paths)


def prepare_file(path: Path) -> NDArray[np.uint8] | ImageError:
    """Read and prepare an image file; return the image, uint8 [28, 28], or an error if the file cannot be used."""
    return _only_prepared(find_in_file(path, split=False))


def prepare_files(paths: Iterable[Path]) -> Iterator[NDArray[np.uint8] | ImageError]:
    """Call :func:`prepare_file` for each file, with one thread per processor; yield the results in order."""
    return map(_only_prepared, find_in_files(paths, split=False))


def _only_prepared(found: Found | ImageError) -> NDArray[np.uint8] | ImageError:
    if isinstance(found, ImageError):
        return found
    (digit,) = found.digits
    return digit.prepared if isinstance(digit, Digit) else digit


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Call a function for each item, with one thread per processor; yield the results in the order of the items."""
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
