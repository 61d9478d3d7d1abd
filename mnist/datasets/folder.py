"""A folder of labelled images as a data set."""

import hashlib
import itertools
import operator
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mnist import files
from mnist.datasets.splits import DATASET_NAMES, Dataset, DatasetError, Notify, Split, make_split
from mnist.errors import MnistError
from mnist.shapes import DIGITS, IMAGE_SIDE

HELD_OUT_OF_256 = 51  # a file is held out if the first byte of its SHA-256 is less than this: about one in five
UNREADABLE = bytes(32)  # stands for the SHA-256 of a file that cannot be read
NAMES_SHOWN = 3  # number of unusable files that a message names for each reason


def load_folder(folder: Path, notify: Notify = lambda line: None, *, skip_unusable: float = 0.0) -> Dataset:
    """Load a folder of images, sorted by digit into the subfolders ``0`` to ``9``.

    If the folder has subfolders ``train`` and ``test``, each with these ten, they are the two splits. Otherwise about a
    fifth of the images is held out for testing. The SHA-256 of a file decides whether it is held out, so the
    split is the same on every machine and does not depend on file names, and an image stays in its split when others
    are added or left out. There is one exception: if this rule puts all images of a class into one split, one image
    moves to the other split, and it may move back when images are added.

    Every image is preprocessed like the images of MNIST. Images that are identical afterwards are loaded once, so
    the two splits share no image.

    Args:
        skip_unusable: share of the images that may be left out because they are unusable, from 0 to 1. An image is
            unusable if it cannot be read, if it does not show one digit, or if a file of another digit shows the same
            image.

    Raises:
        DatasetError: if a subfolder is missing, has too few images, or shares an image with another split, or if too
            many images are unusable.
    """
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    parts = [_read_classes(part, notify) for part in ([folder / "train", folder / "test"] if divided else [folder])]
    _check_unusable(folder, parts, skip_unusable, notify)
    descriptions = [str(part.folder) + _without(len(part.unusable)) for part in parts]
    if divided:
        train, test = (part.images for part in parts)
        if shared := {image.pixels for image in train if image.pixels} & {image.pixels for image in test}:
            raise DatasetError(f"{folder}: {len(shared):,} images are in both train and test (remove them from one)")
    else:
        train, test = _hold_out(parts[0].images, folder, notify)
        descriptions = [f"{descriptions[0]}, {split} split" for split in ("training", "test")]
    # Restore the ./ of a folder like ./mnist: without it, the name would be that of another data set.
    name = f".{os.sep}{folder}" if str(folder) in ("auto", *DATASET_NAMES) else str(folder)
    return Dataset(name, _make_split(train, descriptions[0]), _make_split(test, descriptions[1]))


@dataclass(frozen=True)
class _Image:
    """A distinct image in a folder; several files may contain it."""

    label: int
    digests: list[bytes]  # SHA-256 of each file that shows the image, sorted
    pixels: bytes | None  # pixels of the preprocessed image; None: the image is unusable


@dataclass(frozen=True)
class _Part:
    """The images in the ten subfolders of a folder."""

    folder: Path
    images: list[_Image]  # distinct images, including unusable ones, sorted by label and digests
    unusable: dict[Path, str]  # reason for each unusable file
    files: int  # number of image files


def _read_classes(folder: Path, notify: Notify) -> _Part:
    """Read and preprocess the images in the ten subfolders. The order of the images does not depend on file names."""
    from mnist import preparation

    digits = _find_images(folder)
    notify(f"preparing {len(digits):,} images in {folder}")
    unusable: dict[Path, str] = {}
    same: dict[bytes, list[Path]] = {}  # files, keyed by the pixels of the preprocessed image
    for path, prepared in zip(digits, preparation.prepare_files(digits), strict=True):
        if isinstance(prepared, preparation.ImageError):
            unusable[path] = _reason(path, prepared)
        else:
            same.setdefault(prepared.tobytes(), []).append(path)
    for paths in same.values():
        labels = {digits[path] for path in paths}
        for path in paths if len(labels) > 1 else ():
            others = ", ".join(map(str, sorted(labels - {digits[path]})))
            unusable[path] = f"shows the same image as a file of digit {others}"
    images = [
        _Image(digits[paths[0]], sorted(map(_digest, paths)), pixels)
        for pixels, paths in same.items()
        if paths[0] not in unusable
    ]
    if duplicates := len(digits) - len(unusable) - len(images):
        notify(f"{duplicates:,} of these images are duplicates and are ignored")
    # Include unusable images in the split, so that removing or repairing them moves no other image.
    contents = {(digits[path], _digest(path)) for path in unusable}
    images += [_Image(digit, [digest], None) for digit, digest in contents if digest != UNREADABLE]
    images.sort(key=lambda image: (image.label, image.digests))
    return _Part(folder, images, unusable, len(digits))


def _find_images(folder: Path) -> dict[Path, int]:
    """Return the digit of each image file in the ten subfolders."""
    from mnist import preparation

    digits: dict[Path, int] = {}
    for digit, name in enumerate(DIGITS):
        if not (folder / name).is_dir():
            raise DatasetError(f"{folder} has no folder {name} (there must be one for each digit, 0 to 9)")
        found = preparation.find_images(folder / name)
        if not found:
            raise DatasetError(f"{folder / name} contains no image (add at least two)")
        digits |= dict.fromkeys(found, digit)
    return digits


def _digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, or ``UNREADABLE``."""
    from mnist import preparation

    try:
        return hashlib.sha256(files.read(path, preparation.MAX_IMAGE_FILE_BYTES)).digest()
    except (OSError, files.UnreadableError):
        return UNREADABLE


def _reason(path: Path, error: MnistError) -> str:
    """Return the reason why an image is unusable, without path and details, so that images can be counted by reason."""
    return re.split(r" \(|: ", str(error).replace(str(path), "").lstrip(": "))[0]


def _check_unusable(folder: Path, parts: Sequence[_Part], allowed: float, notify: Notify) -> None:
    """Report the unusable images by reason, or raise an error if their share is larger than ``allowed``."""
    names: dict[str, list[str]] = {}
    for part in parts:
        for path, reason in part.unusable.items():
            names.setdefault(reason, []).append(path.relative_to(folder).as_posix())
    if not names:
        return
    listing = "; ".join(
        f"{reason}: {len(those):,} ({', '.join(those[:NAMES_SHOWN])}{', ...' if len(those) > NAMES_SHOWN else ''})"
        for reason, those in sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    unusable, total = sum(map(len, names.values())), sum(part.files for part in parts)
    if unusable / total > allowed:
        limit = f", more than {100 * allowed:.4g}%" if allowed else ""
        raise DatasetError(
            f"{folder}: {unusable:,} of {total:,} images are unusable{limit}: {listing} "
            "(correct or remove them, or leave them out with --skip-unusable SHARE)"
        )
    notify(f"{unusable:,} of {total:,} images in {folder} are unusable and are left out: {listing}")


def _without(unusable: int) -> str:
    return f" without {unusable:,} unusable image{'s' * (unusable > 1)}" if unusable else ""


def _hold_out(images: list[_Image], folder: Path, notify: Notify) -> tuple[list[_Image], list[_Image]]:
    """Divide images into a training split and a test split; see :func:`load_folder`."""
    train: list[_Image] = []
    test: list[_Image] = []
    adjusted = []  # classes for which the rule leaves one split empty
    for digit, name in enumerate(DIGITS):
        of_class = [image for image in images if image.label == digit]
        if len(of_class) < 2:
            raise DatasetError(
                f"{folder / name} contains only one image (add another image: one is needed for testing)"
            )
        # An image is used for training if the rule puts any of its files into the training split.
        held_out = [all(map(_is_held_out, image.digests)) for image in of_class]
        if len(set(held_out)) == 1:
            adjusted.append(name)
            held_out[0] = not held_out[0]
        test += itertools.compress(of_class, held_out)
        train += itertools.compress(of_class, map(operator.not_, held_out))
    if adjusted:
        notify(
            f"class {', '.join(adjusted)}: the division by SHA-256 left one split empty, so one image was moved to it "
            "(another image may be moved when images are added)"
        )
    return train, test


def _is_held_out(digest: bytes) -> bool:
    return digest[0] < HELD_OUT_OF_256


def _make_split(images: Sequence[_Image], description: str) -> Split:
    """Combine the usable images into a split.

    Raises:
        DatasetError: if no image of a class is usable.
    """
    labels = [image.label for image in images if image.pixels]
    if missing := sorted({*range(len(DIGITS))} - set(labels)):
        raise DatasetError(f"{description}: no usable image of digit {missing[0]} (add or correct images)")
    content = bytearray(b"".join(image.pixels for image in images if image.pixels))
    pixels = np.frombuffer(content, dtype=np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    return make_split(torch.from_numpy(pixels), torch.tensor(labels), description)
