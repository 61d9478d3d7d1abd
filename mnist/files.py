"""How bytes reach the disk: whole or not at all, and never over a name that somebody else has taken.

Reading is bounded, whatever lies there. Writing goes through the functions of ``os`` alone, so that a test can make
each of them fail in turn.
"""

import contextlib
import errno
import itertools
import json
import math
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist.errors import MnistError

PART = ".part"  # what a file is called that is being written, or that a process killed meanwhile has left behind

_BINARY = getattr(os, "O_BINARY", 0)  # Windows would otherwise translate line ends
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would otherwise be waited for
_ATTEMPTS = 50 if os.name == "nt" else 1  # of an operation that Windows refuses while the file is in use
_SECONDS_BETWEEN_ATTEMPTS = 0.01
_NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # to flush a folder: Windows and some disks


class TakenError(MnistError):
    """A name under which another file is already."""


class UnreadableError(MnistError):
    """A file that is none, or longer than anything of its kind."""


# What a user can do about an error of the operating system, by its number.
_HINTS = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EEXIST: "a file is where a folder should be",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
}


def explain(error: OSError) -> str:
    """Return the path, the cause and, if there is one, a hint what to do about an error of the operating system."""
    cause = error.strerror or str(error)
    path = f"{error.filename}: " if error.filename else ""
    hint = _HINTS.get(error.errno or 0)
    return f"{path}{cause}" + (f" ({hint})" if hint else "")


def check_writable(folder: Path) -> None:
    """Create a folder if it does not exist, and check that files can be created in it.

    Raises:
        OSError: if the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def read(path: Path, limit: int) -> bytearray:
    """The content of a regular file of at most ``limit`` bytes; of a longer one not more than that is ever held.

    Raises:
        UnreadableError: it is longer, or a folder, a pipe or a device, which may have no end.
        OSError: there is none, or it cannot be read.
    """
    if path.is_dir():  # which Windows cannot open
        raise UnreadableError(f"{path} is a folder, not a file")
    descriptor = _retry(os.open, path, os.O_RDONLY | _BINARY | _NO_WAIT)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{path} is a pipe or a device, not a file")
        content = bytearray(min(status.st_size, limit) + 1)  # one more than there should be: it may be growing
        size = 0
        while size < len(content) and (count := file.readinto(memoryview(content)[size:])):
            size += count
    if size > limit or status.st_size > limit:
        raise UnreadableError(
            f"{path} is {max(size, status.st_size):,} bytes long, more than the {limit:,} it may have"
        )
    del content[size:]
    return content


def write_atomically(path: Path, content: bytes | bytearray) -> None:
    """Write ``content`` to ``path`` so that, whenever this is killed, the path holds its old content or all of the new.

    Written beside the target, flushed to the device, then renamed over it.

    Raises:
        OSError: the folder is missing or read-only, the disk is full, ...; the target is as it was, unless all that
            failed was to make the rename outlast a power cut.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _retry(os.replace, beside, path)
        flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _retry(os.unlink, beside)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the caller knows
            error.filename2 = None
        raise


def write_new(path: Path, content: bytes | bytearray) -> bool:
    """Write ``content`` to ``path``, whole or not at all, where nothing is yet; False where the very same is there.

    Of any number of processes that write to one path at once, one does, and what another finds there is whole; only
    where a disk has no hard links the last may win. A process that is killed leaves at most a ``.part`` beside it.

    Raises:
        TakenError: something else is there.
        OSError: the folder is missing or cannot be written to; then nothing is left of the attempt.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        write_atomically(beside, content)
        if _put(beside, path):
            flush_folder(path.parent)
            return True
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the name that the caller knows
        raise
    finally:
        with contextlib.suppress(OSError):
            _retry(os.unlink, beside)
    if not _holds(path, content):
        raise TakenError(f"{path} is there already, and is another file (remove it, or choose another name)")
    return False


def _put(beside: Path, path: Path) -> bool:
    """Give a file the name ``path``, too, or return False where something has it already."""
    try:
        os.link(beside, path)  # unlike a rename, it is never made over another file
    except OSError:
        if os.path.lexists(path):
            return False
        _retry(os.replace, beside, path)  # the disk has no links, or what is wrong is wrong with this, too
    return True


def _holds(path: Path, content: bytes | bytearray) -> bool:
    try:
        return read(path, len(content)) == content
    except (FileNotFoundError, UnreadableError):  # a link to nothing; a folder, or longer
        return False


def take_name(path: Path) -> bool:
    """Create ``path`` as an empty file and return True, or return False where something has that name already.

    Of any number of processes that try at once, exactly one is told True.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666))
    except FileExistsError:
        return False
    return True


def numbered(stem: str) -> Iterator[str]:
    """Names to try one after the other until one can be taken: the stem, then with ``_2``, ``_3``, ... after it."""
    yield stem
    yield from (f"{stem}_{number}" for number in itertools.count(2))


def to_json(value: Any, indent: int | None = 2) -> bytes:
    """The value as a JSON file holds it, with null for every number that is not finite, which JSON does not have.

    Without an indent it is one line.
    """
    return (json.dumps(_finite_or_none(value), indent=indent, allow_nan=False) + "\n").encode()


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    return value


def _retry(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operation on a file; on Windows retry for half a second while another process or thread uses the file.

    Windows does not replace or remove a file, by any of its names, that somebody reads, and does not open one that is
    just being renamed.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(PermissionError):
            return operation(*arguments)
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    return operation(*arguments)


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk so that a rename in it survives a power cut, if the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
