"""Read files up to a size limit, and write files atomically without overwriting other files.

The functions that write files call only ``os`` functions, so that a test can make each call fail in turn.
"""

import contextlib
import errno
import itertools
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist.errors import MnistError

MIN_FREE_BYTES = 4_000_000  # several times the size of a model, its checkpoints and its report
PART_SUFFIX = ".part"  # suffix of a temporary file during a write; a killed process leaves this file behind

_O_BINARY = getattr(os, "O_BINARY", 0)  # without it, Windows would translate line endings
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe would wait for a writer
_MAX_ATTEMPTS = 50 if os.name == "nt" else 1  # Windows refuses an operation while another process uses the file
_SECONDS_BETWEEN_ATTEMPTS = 0.01
# Windows and some file systems cannot flush a folder to disk, and report this with one of these errors.
_FLUSH_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


class TakenError(MnistError):
    """A path at which another file already exists."""


class UnreadableError(MnistError):
    """A path that is not a regular file, or a file that exceeds the size limit."""


# Hints on what to do about an operating-system error, keyed by error number.
_HINTS = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EEXIST: "a file is where a folder should be",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
}


def explain(error: OSError) -> str:
    """Describe an operating-system error: its path, its cause and, if there is one, a hint on what to do."""
    cause = error.strerror or str(error)
    path = f"{error.filename}: " if error.filename else ""
    hint = _HINTS.get(error.errno or 0)
    return f"{path}{cause}" + (f" ({hint})" if hint else "")


def is_onnx(path: Path) -> bool:
    """Return True if a path names an ONNX file."""
    return path.suffix.lower() == ".onnx"


def check_writable(folder: Path) -> None:
    """Create a folder if it does not exist, and check that ``MIN_FREE_BYTES`` can be written to it.

    Raises:
        OSError: if the folder cannot be created or written to, or its disk or the user's quota is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            _write_and_flush(file.fileno(), os.urandom(MIN_FREE_BYTES))  # a file system may compress zeros
    except OSError as error:
        error.filename = str(folder)  # callers must not see the name of the temporary file
        raise


def read(path: Path, limit: int) -> bytearray:
    """Return the content of a regular file.

    Args:
        limit: maximum size in bytes. At most one byte more is read, however long the file is.

    Raises:
        UnreadableError: if the file exceeds the limit, or is a folder, a pipe or a device (which may be endless).
        OSError: if the file is missing or cannot be read.
    """
    if path.is_dir():  # Windows cannot open a folder
        raise UnreadableError(f"{path} is a folder, not a file")
    descriptor = _retry(os.open, path, os.O_RDONLY | _O_BINARY | _O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{path} is a pipe or a device, not a file")
        # Read one byte more than expected, to notice a file that has grown in the meantime.
        content = bytearray(min(status.st_size, limit) + 1)
        size = 0
        while size < len(content) and (count := file.readinto(memoryview(content)[size:])):
            size += count
    if size > limit or status.st_size > limit:
        raise UnreadableError(f"{path} is {max(size, status.st_size):,} bytes long, more than the limit of {limit:,}")
    del content[size:]
    return content


def write_atomically(path: Path, content: bytes | bytearray) -> None:
    """Write a file atomically: even if the process is killed, the file has its old or its complete new content.

    The content is written to a temporary file in the same folder, flushed to the device, and renamed.

    Raises:
        OSError: if the file cannot be written, for example because the folder is missing or read-only, or the disk is
            full. The file is then unchanged, unless only the last step failed: flushing the folder, without which a
            power failure may undo the rename.
    """
    temporary = _temporary_path(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666)
        try:
            _write_and_flush(descriptor, content)
        finally:
            os.close(descriptor)
        _retry(os.replace, temporary, path)
        flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _retry(os.unlink, temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # the caller does not know the name of the temporary file
            error.filename2 = None
        raise


def _write_and_flush(descriptor: int, content: bytes | bytearray) -> None:
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
    os.fsync(descriptor)  # some file systems report a full disk only now


def write_new(path: Path, content: bytes | bytearray) -> bool:
    """Write a new file atomically and return True, or return False if a file with this content exists.

    If several processes write to one path at once, exactly one succeeds and the others find its complete file. On a
    file system without hard links, the last process may overwrite the files of the others. A process that is killed
    leaves at most a temporary file, ending in ``.part``, in the same folder.

    Raises:
        TakenError: if the path exists and is anything but a file with this content.
        OSError: if the folder is missing or cannot be written to. No file is left behind in this case.
    """
    temporary = _temporary_path(path)
    try:
        write_atomically(temporary, content)
        if _link_exclusive(temporary, path):
            flush_folder(path.parent)
            return True
    except OSError as error:
        error.filename = str(path)  # the caller does not know the name of the temporary file
        error.filename2 = None
        raise
    finally:
        with contextlib.suppress(OSError):
            _retry(os.unlink, temporary)
    if not _has_content(path, content):
        raise TakenError(f"{path} already exists and is another file (remove it, or choose another name)")
    return False


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}{PART_SUFFIX}")


def _link_exclusive(temporary: Path, path: Path) -> bool:
    """Make a complete file available as ``path``, or return False if ``path`` exists."""
    try:
        os.link(temporary, path)  # fails if the path exists; a rename would replace the file
    except OSError:
        if os.path.lexists(path):
            return False
        # Either the file system does not support hard links, or another fault makes the rename fail as well.
        _retry(os.replace, temporary, path)
    return True


def _has_content(path: Path, content: bytes | bytearray) -> bool:
    try:
        return read(path, len(content)) == content
    except (FileNotFoundError, UnreadableError):  # a dangling link; a folder, or a longer file
        return False


def reserve_name(path: Path) -> bool:
    """Create an empty file and return True, or return False if the path exists.

    If several processes try at once, exactly one gets True.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666))
    except FileExistsError:
        return False
    return True


def numbered(stem: str) -> Iterator[str]:
    """Yield names to try until one is free: the stem, then the stem followed by ``_2``, ``_3``, and so on."""
    yield stem
    yield from (f"{stem}_{number}" for number in itertools.count(2))


def to_json(value: Any, indent: int | None = 2) -> bytes:
    """Serialize a value as JSON text, with null for NaN and infinity, which JSON does not support.

    Args:
        indent: number of spaces, or None to write everything on one line.
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
    """Call an operation on a file; on Windows, retry for half a second while another process or thread uses the file.

    Windows cannot replace or remove a file while it is being read through any of its hard links, and cannot open a file
    while it is being renamed.
    """
    for _ in range(_MAX_ATTEMPTS - 1):
        with contextlib.suppress(PermissionError):
            return operation(*arguments)
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    return operation(*arguments)


def flush_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, if the operating system supports this."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _FLUSH_UNSUPPORTED:
            raise
