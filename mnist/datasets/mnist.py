"""MNIST itself: four archives, fetched, verified by their checksums and parsed."""

import contextlib
import hashlib
import math
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from mnist import files
from mnist.datasets.archives import MNIST as MNIST
from mnist.datasets.archives import Archive, Archives, decompress, largest, md5
from mnist.datasets.mirrors import Mirrors
from mnist.datasets.splits import (
    Dataset,
    DatasetError,
    Notify,
    Split,
    make_split,
)

MOST_DIMENSIONS = 8  # of an IDX file


def load_mnist(
    data_dir: Path, *, archives: Archives | None = None, mirror: str | None = None, notify: Notify = lambda line: None
) -> Dataset:
    """MNIST from ``data_dir``, or from a mirror into it; arguments and errors are those of :func:`load`."""
    archives = archives or MNIST
    folder = data_dir / "MNIST" / "raw"
    mirrors = Mirrors(mirror, notify)

    def split(what: str, images: Archive, labels: Archive) -> Split:
        contents = [(archive.decoded_name, _obtain(archive, folder, mirrors, notify)) for archive in (images, labels)]
        pixels, digits = (parse_idx(content, name) for name, content in contents)
        return make_split(pixels, digits, what)

    return Dataset(
        "mnist",
        split("MNIST training set", archives.train_images, archives.train_labels),
        split("MNIST test set", archives.test_images, archives.test_labels),
    )


def is_intact(path: Path, archive: Archive) -> bool:
    """Whether the file is ``archive``, or what that decodes to, whichever it is named like.

    Raises:
        OSError: it cannot be read.
    """
    read = _read_archive if path.name == archive.name else _read_verified
    return read(path, archive, lambda line: None) is not None


def _obtain(archive: Archive, folder: Path, mirrors: "Mirrors", notify: Notify) -> bytearray:
    """The decoded content of ``archive``, verified; made from the archive, or fetched, where it is not there."""
    decoded = folder / archive.decoded_name
    content = _read_verified(decoded, archive, notify)
    if content is None:
        content = decompress(_archived(archive, folder, mirrors, notify), archive)
        with contextlib.suppress(OSError):  # it only spares the next run the decoding
            files.write_atomically(decoded, content)
    return content


def _read_verified(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """The decoded file's content, or None where it is missing or not what it should be."""
    try:
        content = files.read(path, archive.size)
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        notify(f"{error}; making it again")
        return None
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        notify(f"{path} is damaged; making it again")
        return None
    return content


def _archived(archive: Archive, folder: Path, mirrors: "Mirrors", notify: Notify) -> bytearray:
    """The archive's own bytes, verified: from ``folder``, or fetched into it."""
    path = folder / archive.name
    packed = _read_archive(path, archive, notify)
    if packed is None:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):  # of several processes one fetches, and the others find it done
            packed = _read_archive(path, archive, lambda line: None)
            if packed is None:
                packed = mirrors.fetch(archive)
                files.write_atomically(path, packed)
    return packed


def _read_archive(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """The archive in that file, or None where it is missing or not what it should be."""
    try:
        packed = files.read(path, largest(archive))
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        notify(f"{error}; fetching it again")
        return None
    if md5(packed) != archive.md5:
        notify(f"{path} is damaged; fetching it again")
        return None
    return packed


def parse_idx(content: bytes | bytearray, name: str) -> Tensor:
    """An IDX file of unsigned bytes as a uint8 tensor of the shape that its header declares.

    The format (Y. LeCun, "The MNIST database"): two zero bytes, the type (8: unsigned byte), the number of dimensions,
    each dimension as a big-endian 32-bit integer, then the values, the last dimension running fastest.

    Raises:
        DatasetError: it is something else, or longer or shorter than its header says.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{name} is not an IDX file of unsigned bytes (wrong magic number)")
    if content[3] > MOST_DIMENSIONS:
        raise DatasetError(f"{name} declares {content[3]} dimensions, more than {MOST_DIMENSIONS}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DatasetError(f"{name} is truncated in its header")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise DatasetError(
            f"{name} holds {len(content) - header:,} bytes of data where its header says {math.prod(shape):,}"
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    try:
        values = values.reshape(shape)
    except ValueError as error:  # nothing in one dimension, and in the others more than can be counted
        raise DatasetError(f"{name} declares an impossible shape, {shape}") from error
    return torch.from_numpy(values if values.flags.writeable else values.copy())
