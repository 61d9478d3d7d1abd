"""MNIST: load its four archives and parse the IDX format."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist.datasets import cache
from mnist.datasets.archives import MNIST as MNIST
from mnist.datasets.archives import Archive, Archives
from mnist.datasets.mirrors import Mirrors
from mnist.datasets.splits import Dataset, DatasetError, Notify, Split, make_split

MAX_IDX_DIMENSIONS = 8


def load_mnist(
    data_dir: Path, *, archives: Archives | None = None, mirror: str | None = None, notify: Notify = lambda line: None
) -> Dataset:
    """Load MNIST. Download it first if it is not in ``data_dir``.

    Args:
        archives: names and checksums of the files, by default those of MNIST.

    The other arguments, and the errors, are those of :func:`mnist.datasets.load`.
    """
    archives = archives or MNIST
    folder = data_dir / "MNIST" / "raw"
    mirrors = Mirrors(mirror, notify)

    def load_split(description: str, images: Archive, labels: Archive) -> Split:
        pixels, digits = (
            parse_idx(cache.read(archive, folder, mirrors, notify), archive.decompressed_name)
            for archive in (images, labels)
        )
        return make_split(pixels, digits, description)

    return Dataset(
        "mnist",
        load_split("MNIST training set", archives.train_images, archives.train_labels),
        load_split("MNIST test set", archives.test_images, archives.test_labels),
    )


def parse_idx(content: bytes | bytearray, name: str) -> Tensor:
    """Parse an IDX file of unsigned bytes into a uint8 tensor of the shape in the file's header.

    The format (Y. LeCun, "The MNIST database"): two zero bytes, the type (8: unsigned byte), the number of dimensions,
    the size of each dimension as a big-endian 32-bit integer, then the values in row-major order.

    Args:
        name: name of the file, for error messages.

    Raises:
        DatasetError: if it is not an IDX file of unsigned bytes, or is longer or shorter than its header says.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{name} is not an IDX file of unsigned bytes (wrong magic number)")
    if content[3] > MAX_IDX_DIMENSIONS:
        raise DatasetError(f"{name} declares {content[3]} dimensions, more than {MAX_IDX_DIMENSIONS}")
    header_bytes = 4 + 4 * content[3]
    if len(content) < header_bytes:
        raise DatasetError(f"{name} is truncated in its header")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header_bytes, 4)]
    if len(content) - header_bytes != math.prod(shape):
        raise DatasetError(
            f"{name} holds {len(content) - header_bytes:,} bytes of data, but its header says {math.prod(shape):,}"
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=header_bytes)
    try:
        values = values.reshape(shape)
    except ValueError as error:  # one dimension is 0 and the product of the others overflows
        raise DatasetError(f"{name} declares an impossible shape, {shape}") from error
    return torch.from_numpy(values if values.flags.writeable else values.copy())
