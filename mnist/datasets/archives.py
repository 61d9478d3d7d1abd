"""MNIST's four archives, and their checksums."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass

from mnist.datasets.splits import DatasetError


@dataclass(frozen=True)
class Archive:
    """One gzip-compressed IDX file.

    name: as on the mirrors; md5: of the archive, as published; sha256 and size: of what it decodes to, in bytes.
    """

    name: str
    md5: str
    sha256: str
    size: int

    @property
    def decoded_name(self) -> str:
        return self.name.removesuffix(".gz")


@dataclass(frozen=True)
class Archives:
    """The four archives of an MNIST-shaped data set."""

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


def largest(archive: Archive) -> int:
    """More bytes than its compressed form can have: gzip may make a file a little longer, but not much."""
    return archive.size + 2**16


def decompress(packed: bytearray, archive: Archive) -> bytearray:
    """The decoded content of an archive, verified."""
    content = gunzip(packed, archive.name, limit=archive.size + 1)
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise DatasetError(f"{archive.name} decodes to something else than it should (its SHA-256 differs)")
    return content


def gunzip(packed: bytes | bytearray, name: str, limit: int) -> bytearray:
    """At most ``limit`` bytes of what a gzip file unfolds to, however much that would be."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            return bytearray(file.read(limit))
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{name} cannot be decompressed: {error}") from error


def md5(content: bytes | bytearray) -> str:
    """Return the MD5 digest, hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
