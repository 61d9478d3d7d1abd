"""Images with labels, in a part to train on and a part to measure on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mnist.errors import MnistError

DIGITS = tuple("0123456789")
TORCHVISION = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist-digits": "EMNIST", "qmnist": "QMNIST"}
NAMED = ("mnist", "subset", *TORCHVISION)  # besides these, any folder of images

# Whose training images some of their test images may be: all are made of NIST's Special Database 19. QMNIST's training
# set is MNIST's, and EMNIST was divided anew.
MAY_BE_OF = {
    "subset": {"mnist", "qmnist", "emnist-digits"},
    "mnist": {"emnist-digits"},
    "qmnist": {"emnist-digits"},
    "emnist-digits": {"mnist", "subset", "qmnist"},
}
Notify = Callable[[str], None]


class DatasetError(MnistError):
    """Data that is damaged, contradictory or of an unknown kind."""


class NoAnswerError(DatasetError):
    """MNIST is not on disk, and no mirror has it."""


def class_name(label: int, classes: Sequence[str]) -> str:
    """What to call a class where its name stands alone: ``digit 3``, but ``Sneaker``."""
    return f"digit {label}" if tuple(classes) == DIGITS else classes[label]


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, 1, 28, 28], their labels, int64 [N], and what they are, to be shown beside every figure.

    classes: the name of each label.
    """

    images: Tensor
    labels: Tensor
    description: str
    classes: tuple[str, ...] = DIGITS

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Images to train on, and images to measure on that training never sees. Its name is what :func:`load` is given."""

    name: str
    train: Split
    test: Split

    @property
    def kind(self) -> str:
        """Its name, but ``folder`` for any folder: what a policy knows it by."""
        return self.name if self.name in NAMED else "folder"

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of every image and label."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()


def make_split(images: Tensor, labels: Tensor, what: str, classes: tuple[str, ...] = DIGITS) -> Split:
    """Images [N, 28, 28], uint8, and labels [N] as a split, if they fit together."""
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DatasetError(f"{what}: expected images of 28 x 28 pixels, got shape {list(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DatasetError(f"{what}: {len(images):,} images, but labels of shape {list(labels.shape)}")
    if len(labels) == 0:
        raise DatasetError(f"{what}: no images")
    for label in (int(labels.min()), int(labels.max())):
        if label not in range(10):
            raise DatasetError(f"{what}: a label is {label}, beyond the digits 0 to 9")
    return Split(images.unsqueeze(1), labels.long(), f"{what}, {len(images):,} images", classes)
