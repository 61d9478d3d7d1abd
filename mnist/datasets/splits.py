"""A data set in memory: labelled images, divided into a training split and a test split."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mnist.errors import MnistError
from mnist.shapes import CLASSES, IMAGE_SIDE

DIGITS = tuple("0123456789")

# The data sets that torchvision downloads: our name for each, and the name of torchvision's class and of its folder.
TORCHVISION_DATASETS = {
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist-digits": "EMNIST",
    "qmnist": "QMNIST",
}
DATASET_NAMES = ("mnist", "subset", *TORCHVISION_DATASETS)  # any other data set is a folder of images

# For each data set, the data sets whose training images may include some of its test images. All of them are made from
# NIST's Special Database 19; QMNIST has the same training set as MNIST, and EMNIST divides the images differently.
TRAIN_TEST_OVERLAP = {
    "subset": {"mnist", "qmnist", "emnist-digits"},
    "mnist": {"emnist-digits"},
    "qmnist": {"emnist-digits"},
    "emnist-digits": {"mnist", "subset", "qmnist"},
}

# Data sets with the same images, byte by byte; the others above digitized them again.
BYTE_IDENTICAL = frozenset({"mnist", "subset"})

Notify = Callable[[str], None]  # called with one line about progress or a problem


class DatasetError(MnistError):
    """Data that is damaged, contradictory or of an unknown kind."""


class UnavailableError(DatasetError):
    """Data set that is neither on disk nor available for download."""


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return what to call a class in a sentence: ``digit 3`` for a digit, otherwise just the name of the class."""
    return f"digit {label}" if tuple(classes) == DIGITS else classes[label]


@dataclass(frozen=True)
class Split:
    """Labelled images."""

    images: Tensor  # uint8 [N, 1, 28, 28]
    labels: Tensor  # int64 [N]
    description: str  # shown next to every figure measured on these images
    classes: tuple[str, ...] = DIGITS  # name of each label

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Images to train on, and images to test on, which training never sees."""

    name: str  # as :func:`mnist.datasets.load` takes it
    train: Split
    test: Split

    @property
    def kind(self) -> str:
        """The name by which a gate policy refers to the data set: its own name, or ``folder`` for any folder."""
        return self.name if self.name in DATASET_NAMES else "folder"

    def fingerprint(self) -> str:
        """Return the SHA-256 (hexadecimal) of all images and labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()


def make_split(images: Tensor, labels: Tensor, description: str, classes: tuple[str, ...] = DIGITS) -> Split:
    """Combine images, uint8 [N, 28, 28], and labels [N] into a split. The number of images is added to the description.

    Raises:
        DatasetError: if there are no images, their size is wrong, or labels are missing, surplus or out of range.
    """
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
        raise DatasetError(
            f"{description}: expected images of {IMAGE_SIDE} x {IMAGE_SIDE} pixels, got shape {list(images.shape)}"
        )
    if labels.shape != images.shape[:1]:
        raise DatasetError(f"{description}: {len(images):,} images, but labels of shape {list(labels.shape)}")
    if len(labels) == 0:
        raise DatasetError(f"{description}: no images")
    for label in (int(labels.min()), int(labels.max())):
        if label not in range(CLASSES):
            raise DatasetError(f"{description}: a label is {label}, but labels must be from 0 to {CLASSES - 1}")
    return Split(images.unsqueeze(1), labels.long(), f"{description}, {len(images):,} images", classes)
