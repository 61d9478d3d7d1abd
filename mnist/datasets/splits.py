"""A data set in memory: labelled images, divided into a training split and a test split."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist.datasets import fingerprints
from mnist.datasets.fingerprints import Digests
from mnist.errors import MnistError
from mnist.shapes import CLASSES, DIGITS, IMAGE_SIDE

# The data sets that torchvision downloads: our name, and torchvision's name of the class and of the folder.
TORCHVISION_DATASETS = {
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist-digits": "EMNIST",
    "qmnist": "QMNIST",
}
DATASET_NAMES = ("mnist", "subset", *TORCHVISION_DATASETS)  # any other data set is a folder of images

# For each data set, the data sets whose training images may include some of its test images. All of them are made from
# NIST's Special Database 19. QMNIST's training set digitizes the same digits as MNIST's. EMNIST divides the digits
# differently into training and test sets.
TRAIN_TEST_OVERLAP: dict[str, frozenset[str]] = {
    "subset": frozenset({"mnist", "qmnist", "emnist-digits"}),
    "mnist": frozenset({"emnist-digits"}),
    "qmnist": frozenset({"emnist-digits"}),
    "emnist-digits": frozenset({"mnist", "subset", "qmnist"}),
}
SHARED_TRAINING_IMAGES = frozenset(TRAIN_TEST_OVERLAP)  # data sets that may share training images

# Data sets that share byte-identical images. The other data sets digitized the same handwriting again.
BYTE_IDENTICAL = frozenset({"mnist", "subset"})

Notify = Callable[[str], None]  # called with one line about progress or a problem


class DatasetError(MnistError):
    """Data that is damaged, contradictory or of an unknown kind."""


class UnavailableError(DatasetError):
    """A data set that is neither on disk nor available for download."""


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return the name of a class for use in a sentence: ``digit 3`` for a digit, otherwise the plain name."""
    return f"digit {label}" if tuple(classes) == DIGITS else classes[label]


@dataclass(frozen=True)
class Split:
    """Labelled images."""

    images: Tensor  # uint8 [N, 1, 28, 28]
    labels: Tensor  # int64 [N]
    description: str  # shown next to every value measured on these images
    classes: tuple[str, ...] = DIGITS  # name of each label

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digests(self) -> Digests:
        """The digest of each image, uint64 [N]; see :func:`mnist.datasets.fingerprints.digests`."""
        return fingerprints.digests(self.images)


@dataclass(frozen=True)
class Dataset:
    """Images for training, and test images that training never sees."""

    name: str  # argument of :func:`mnist.datasets.load`
    train: Split
    test: Split
    validation: int = 0  # size of `test` if it was split off the training images; 0: `test` is a test set

    @property
    def kind(self) -> str:
        """The name by which a gate policy refers to the data set: its own name, or ``folder`` for any folder."""
        return self.name if self.name in DATASET_NAMES else "folder"

    @property
    def published(self) -> bool:
        """True if the data set cannot change: its files are verified by their checksums."""
        return self.name in DATASET_NAMES and not self.validation

    def overlapping_names(self) -> frozenset[str]:
        """Return the names of the data sets whose training images may include some of the test images."""
        names = TRAIN_TEST_OVERLAP.get(self.name, frozenset())
        if not self.validation:
            return names
        return names | (SHARED_TRAINING_IMAGES if self.name in SHARED_TRAINING_IMAGES else {self.name})

    def byte_identical_names(self) -> frozenset[str]:
        """Return the names of the data sets that share byte-identical images with this one."""
        return BYTE_IDENTICAL if self.name in BYTE_IDENTICAL else frozenset({self.name})

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all images and labels, as a hexadecimal string."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()

    def with_validation(self, count: int) -> "Dataset":
        """Return a data set of the training images only: the last ``count`` for validation, the others for training.

        Raises:
            DatasetError: if :func:`divide` raises it.
        """
        train, validation = divide(self.train, count)
        return Dataset(self.name, train, validation, validation=count)


def divide(split: Split, count: int) -> tuple[Split, Split]:
    """Divide a split into its first images and its last ``count`` images.

    If the images are sorted by class, as in the offline subset and in folders, the second part consists of the last
    images of each class, in the same proportions as the split.

    Raises:
        DatasetError: if a part is empty, or has no image of some class.
    """
    source = split.description.removesuffix(f", {len(split):,} images")
    if not 0 < count < len(split):
        raise DatasetError(
            f"{source}: the number of validation images must be between 1 and {len(split) - 1:,}, not {count:,}"
        )
    first, last = f"first {len(split) - count:,} images", f"last {count:,} images"
    images, labels = split.images, split.labels
    if bool((labels.diff() >= 0).all()):
        order = _spread_classes(labels)
        images, labels = images[order], labels[order]
        first, last = f"first of each class, {len(split) - count:,} images", f"last of each class, {count:,} images"
    parts = (
        Split(images[:-count], labels[:-count], f"{source}, {first}", split.classes),
        Split(images[-count:], labels[-count:], f"{source}, {last}", split.classes),
    )
    for part in parts:
        if missing := sorted(set(range(CLASSES)) - set(part.labels.unique().tolist())):
            name = class_name(missing[0], split.classes)
            raise DatasetError(f"{part.description}: no image of {name} (choose another number of validation images)")
    return parts


def _spread_classes(labels: Tensor) -> Tensor:
    """Return an order, int64 [N], that spreads the images of each class evenly, and keeps the order in each class."""
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        of_class = labels == label
        count = int(of_class.sum())
        position[of_class] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return position.argsort(stable=True)


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
