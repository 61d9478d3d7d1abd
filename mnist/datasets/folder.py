"""A folder of labelled images as a data set."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mnist import files
from mnist.datasets.splits import DATASET_NAMES, DIGITS, Dataset, DatasetError, Notify, Split, make_split
from mnist.shapes import IMAGE_SIDE

HELD_OUT_OF_256 = 51  # a file is held out if the first byte of its SHA-256 is less than this: about one in five


def load_folder(folder: Path, notify: Notify = lambda line: None) -> Dataset:
    """Load a folder of images, sorted by digit into the subfolders ``0`` to ``9``.

    If the folder has subfolders ``train`` and ``test``, each with these ten, they are the two splits. Otherwise about a
    fifth of the images is held out for testing. The SHA-256 of a file decides which, so the split is the same on every
    machine, does not depend on file names, and does not change for an image when others are added. There is one
    exception: if this rule puts all images of a class into one split, one image moves to the other split, and it may
    move back when images are added.

    Every image is prepared like the images of MNIST. Images that are identical after preparation are loaded once, so
    the two splits share no image.

    Raises:
        DatasetError: if a subfolder is missing, has too few images, or shares an image with another digit or split.
        ImageError: if a file is not an image, or no digit is found in it.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        descriptions = [str(folder / part) for part in ("train", "test")]
        train, test = (_read_classes(Path(part), notify) for part in descriptions)
        if shared := set(train) & set(test):
            raise DatasetError(f"{folder}: {len(shared):,} images are in both train and test (remove them from one)")
    else:
        descriptions = [f"{folder}, {part} part" for part in ("training", "held-out")]
        train, test = _hold_out(_read_classes(folder, notify), folder, notify)
    # Restore the ./ of a folder like ./mnist: without it, the name would be that of another data set.
    name = f".{os.sep}{folder}" if str(folder) in ("auto", *DATASET_NAMES) else str(folder)
    return Dataset(name, _make_split(train, descriptions[0]), _make_split(test, descriptions[1]))


@dataclass
class _Image:
    """A prepared image; several files may show it."""

    label: int
    digests: list[bytes]  # SHA-256 of each file that shows the image, sorted


_Images = dict[bytes, _Image]  # key: the pixels of the prepared image


def _read_classes(folder: Path, notify: Notify) -> _Images:
    """Read and prepare the images in the ten subfolders. The order of the result does not depend on file names."""
    from mnist import preparation

    paths: dict[Path, int] = {}
    for digit, name in enumerate(DIGITS):
        if not (folder / name).is_dir():
            raise DatasetError(f"{folder} has no folder {name} (there must be one for each digit, 0 to 9)")
        found = preparation.find_images(folder / name)
        if not found:
            raise DatasetError(f"{folder / name} contains no image (add at least two)")
        paths |= dict.fromkeys(found, digit)
    notify(f"preparing {len(paths):,} images of {folder}")
    images: _Images = {}
    for path, digit in paths.items():
        prepared = preparation.prepare_file(path)
        if isinstance(prepared, preparation.NoDigitError):
            raise preparation.NoDigitError(f"{path}: {prepared}")
        if isinstance(prepared, preparation.ImageError):
            raise prepared
        image = images.setdefault(prepared.tobytes(), _Image(digit, []))
        if image.label != digit:
            raise DatasetError(f"{path} shows the same image as a file of digit {image.label} (remove one of them)")
        image.digests.append(hashlib.sha256(files.read(path, preparation.MAX_IMAGE_FILE_BYTES)).digest())
        image.digests.sort()
    if duplicates := len(paths) - len(images):
        notify(f"{duplicates:,} of these images are duplicates and are ignored")
    return dict(sorted(images.items(), key=lambda item: (item[1].label, item[1].digests)))


def _hold_out(images: _Images, folder: Path, notify: Notify) -> tuple[_Images, _Images]:
    """Divide images into a training part and a held-out part; see :func:`load_folder`."""
    train: _Images = {}
    test: _Images = {}
    adjusted = []  # classes for which the hash rule leaves one part empty
    for digit, name in enumerate(DIGITS):
        of_class = {pixels: image for pixels, image in images.items() if image.label == digit}
        if len(of_class) < 2:
            raise DatasetError(f"{folder / name} contains only one image (add another one: one is needed for testing)")
        # An image is trained on if the rule puts any of its files into the training part.
        held_out = [pixels for pixels, image in of_class.items() if all(map(_is_held_out, image.digests))]
        if len(held_out) in (0, len(of_class)):
            adjusted.append(name)
            held_out = held_out[1:] or list(of_class)[:1]
        test |= {pixels: of_class.pop(pixels) for pixels in held_out}
        train |= of_class
    if adjusted:
        notify(
            f"class {', '.join(adjusted)}: the split by SHA-256 left one part empty, so one image was moved there "
            "(another one may be moved when images are added)"
        )
    return train, test


def _is_held_out(digest: bytes) -> bool:
    return digest[0] < HELD_OUT_OF_256


def _make_split(images: _Images, description: str) -> Split:
    pixels = np.frombuffer(bytearray(b"".join(images)), dtype=np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    labels = torch.tensor([image.label for image in images.values()])
    return make_split(torch.from_numpy(pixels), labels, description)
