"""MNIST's archives in the data folder: verified by checksum, and downloaded or decompressed again if damaged."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import filelock

from mnist import files
from mnist.datasets.archives import Archive, decompress, md5, sha256
from mnist.datasets.mirrors import Mirrors
from mnist.datasets.splits import Notify


def read(archive: Archive, folder: Path, mirrors: Mirrors, notify: Notify) -> bytearray:
    """Return the verified decompressed content of an archive.

    The content comes from the decompressed file in the folder, otherwise from the archive in the folder, otherwise from
    a mirror. A downloaded archive is saved in the folder, as is newly decompressed content if possible.

    Raises:
        UnavailableError: if neither the folder nor any mirror has the archive.
        OSError: if the folder cannot be read, or a downloaded archive cannot be written to it.
    """
    path = folder / archive.decompressed_name
    content = _read_decompressed(path, archive, notify)
    if content is None:
        content = decompress(_read_or_download(archive, folder, mirrors, notify), archive)
        with contextlib.suppress(OSError):  # not essential: without the file, the next run decompresses again
            files.write_atomically(path, content)
    return content


def is_intact(path: Path, archive: Archive) -> bool:
    """Return True if a file has the content of the archive, or of the decompressed archive, depending on its name.

    Raises:
        OSError: if the file cannot be read.
    """
    read_file = _read_compressed if path.name == archive.name else _read_decompressed
    return read_file(path, archive, lambda line: None) is not None


def _read_or_download(archive: Archive, folder: Path, mirrors: Mirrors, notify: Notify) -> bytearray:
    """Return the verified compressed content of an archive. Download it into the folder if necessary."""
    path = folder / archive.name
    compressed = _read_compressed(path, archive, notify)
    if compressed is None:
        folder.mkdir(parents=True, exist_ok=True)
        # If several processes load the data at once, one of them downloads, and the others read its file afterwards.
        with filelock.FileLock(folder / ".lock"):
            compressed = _read_compressed(path, archive, lambda line: None)
            if compressed is None:
                compressed = mirrors.download(archive)
                files.write_atomically(path, compressed)
    return compressed


def _read_decompressed(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """Return the content of a decompressed file, or None if the file is missing or damaged."""
    return _read_verified(path, archive.size, sha256, archive.sha256, "creating it again", notify)


def _read_compressed(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """Return the content of an archive file, or None if the file is missing or damaged."""
    return _read_verified(path, archive.max_compressed_bytes, md5, archive.md5, "downloading it again", notify)


def _read_verified(
    path: Path, limit: int, digest: Callable[[bytearray], str], expected: str, remedy: str, notify: Notify
) -> bytearray | None:
    try:
        content = files.read(path, limit=limit)
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        notify(f"{error}; {remedy}")
        return None
    if digest(content) != expected:
        notify(f"{path} is damaged; {remedy}")
        return None
    return content
