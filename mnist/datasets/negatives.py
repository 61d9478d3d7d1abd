"""Negatives: images that show no digit, for which a network is trained to predict equal probabilities."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist.datasets.splits import DatasetError, Notify
from mnist.datasets.torchvision_datasets import load_emnist_letters
from mnist.shapes import IMAGE_SIDE

EMNIST_LETTERS = "emnist-letters"
LIKE_DIGITS = "BGILOQSZ"  # letters that look like a digit in lower or upper case: b, g, I, l, O, q, S, Z


@dataclass(frozen=True)
class Negatives:
    """Images that show no digit."""

    name: str  # argument of :func:`load_negatives`
    images: Tensor  # uint8 [N, 1, 28, 28], preprocessed like images of digits
    description: str

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all images, as a hexadecimal string."""
        return hashlib.sha256(self.images.numpy().data).hexdigest()


def load_negatives(name: str, data_dir: Path, notify: Notify = lambda line: None) -> Negatives:
    """Load images that show no digit.

    Args:
        name: ``emnist-letters`` (all letters except those that look like digits), or the path of a folder, whose
            subfolders are also searched. Images that are unreadable or do not show a single digit-like shape are left
            out, because ``predict`` reports no digit for them either.
        data_dir: folder for downloaded files.
        notify: is called with one line for each download, and with the number of images in the folder and the
            number of those left out.

    Raises:
        DatasetError: if the data are damaged, or the folder has no usable image.
        UnavailableError: if the letters are neither on disk nor available for download.
        OSError: if a folder cannot be read.
    """
    if name == EMNIST_LETTERS:
        images, letters = load_emnist_letters(data_dir, notify)
        excluded = torch.tensor([ord(letter) - ord("A") + 1 for letter in LIKE_DIGITS])
        images = images[~torch.isin(letters, excluded)]
        return _make(name, images, "EMNIST letters that do not look like digits")
    if not Path(name).is_dir():
        raise DatasetError(f"there is no folder at {name} (--negatives takes {EMNIST_LETTERS} or a folder)")
    return _make(name, _read_folder(Path(name), notify), name)


def _make(name: str, images: Tensor, description: str) -> Negatives:
    if not len(images):
        raise DatasetError(f"{name} has no usable image (add images that show no digit)")
    return Negatives(name, images.unsqueeze(1), f"{description}, {len(images):,} images")


def _read_folder(folder: Path, notify: Notify) -> Tensor:
    """Return a folder's distinct images, preprocessed like digits, uint8 [N, 28, 28], sorted by content."""
    from mnist import preparation

    paths = preparation.find_images(folder)
    notify(f"preparing {len(paths):,} images in {folder}")
    prepared = list(preparation.prepare_files(paths))
    contents = sorted({image.tobytes() for image in prepared if not isinstance(image, preparation.ImageError)})
    if unusable := sum(isinstance(image, preparation.ImageError) for image in prepared):
        notify(f"{unusable:,} of {len(paths):,} images in {folder} are left out (unreadable, or not one shape)")
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(contents)), np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE))
