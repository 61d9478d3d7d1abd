"""Names and checksums of MNIST's archives, and functions to decompress and verify them."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass

from mnist.datasets.splits import DatasetError


@dataclass(frozen=True)
class Archive:
    """A gzip-compressed IDX file."""

    name: str  # file name, as on the mirrors
    md5: str  # published MD5 digest of the compressed file, hexadecimal
    sha256: str  # SHA-256 of the decompressed content, hexadecimal
    size: int  # size of the decompressed content, in bytes

    @property
    def decompressed_name(self) -> str:
        """The name of the file with the decompressed content."""
        return self.name.removesuffix(".gz")

    @property
    def max_compressed_bytes(self) -> int:
        """An upper bound on the compressed size: gzip can make a file slightly longer, but by much less than 64 KiB."""
        return self.size + 2**16


@dataclass(frozen=True)
class Archives:
    """The four archives of an MNIST-like data set."""

    train_images: Archive
    train_labels: Archive
    test_images: Archive
    test_labels: Archive


MNIST = Archives(
    train_images=Archive(
        "train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    train_labels=Archive(
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    test_images=Archive(
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    test_labels=Archive(
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
)


def decompress(compressed: bytes | bytearray, archive: Archive) -> bytearray:
    """Return the decompressed content of an archive.

    Raises:
        DatasetError: if it cannot be decompressed, or the SHA-256 of its content is not the expected one.
    """
    content = gunzip(compressed, archive.name, limit=archive.size + 1)
    if sha256(content) != archive.sha256:
        raise DatasetError(f"{archive.name} has unexpected content (its SHA-256 differs)")
    return content


def gunzip(compressed: bytes | bytearray, name: str, limit: int) -> bytearray:
    """Decompress a gzip file; return at most the first ``limit`` bytes of its decompressed content.

    Args:
        name: name of the file, for error messages.

    Raises:
        DatasetError: if it is not a gzip file, or is damaged.
    """
    try:
        with gzip.open(io.BytesIO(compressed)) as file:
            return bytearray(file.read(limit))
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{name} cannot be decompressed: {error}") from error


def md5(content: bytes | bytearray) -> str:
    """Return the MD5 digest as a hexadecimal string."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content: bytes | bytearray) -> str:
    """Return the SHA-256 digest as a hexadecimal string."""
    return hashlib.sha256(content).hexdigest()
