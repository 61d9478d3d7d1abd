"""A folder of labelled images."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mnist import files
from mnist.datasets.splits import DIGITS, NAMED, Dataset, DatasetError, Notify, Split, make_split

HELD_OUT_OF_256 = 51  # values of a digest's first byte by which an image of a folder is held out: about a fifth


def load_folder(folder: Path, notify: Notify = lambda line: None) -> Dataset:
    """Load a folder of labelled images: those in its subfolders ``0`` to ``9`` are images of that digit.

    If the folder has subfolders ``train`` and ``test``, each with these ten, they are the two parts. Otherwise about a
    fifth of the files is held out. The SHA-256 of a file decides, so that the choice is the same on every machine,
    whatever the files are called, and an added image moves no other one. The exception is a class in which all images
    would be in one part: there one image goes to the other part, and may return when images are added.

    Every image is prepared as MNIST was. Images that are the same after that count once, and never in both parts.

    Raises:
        DatasetError: if a folder is missing or empty, or two digits share an image.
        ImageError: if a file is not an image, or no digit is found in it.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names = [str(folder / part) for part in ("train", "test")]
        train, test = (_read_classes(Path(name), notify) for name in names)
        if shared := set(train) & set(test):
            raise DatasetError(f"{folder}: {len(shared)} images of test are in train, too")
    else:
        names = [f"{folder}, {part} part" for part in ("training", "held-out")]
        train, test = _hold_out(_read_classes(folder, notify), folder, notify)
    # ./mnist must not become mnist, which is the name of another data set.
    called = f".{os.sep}{folder}" if str(folder) in ("auto", *NAMED) else str(folder)
    return Dataset(called, _stack(train, names[0]), _stack(test, names[1]))


@dataclass
class _Image:
    """The label of a prepared image, and the SHA-256 of each file that gives it, in ascending order."""

    label: int
    digests: list[bytes]


_Images = dict[bytes, _Image]  # by the 784 bytes of the prepared image


def _read_classes(folder: Path, notify: Notify) -> _Images:
    """Read and prepare the images in the ten folders; their order does not depend on the files' names."""
    from mnist import preparation

    paths: dict[Path, int] = {}
    for digit, name in enumerate(DIGITS):
        if not (folder / name).is_dir():
            raise DatasetError(f"{folder} has no folder {name} (there must be one for each digit, 0 to 9)")
        inside = preparation.find(folder / name)
        if not inside:
            raise DatasetError(f"{folder / name} holds no image")
        paths |= dict.fromkeys(inside, digit)
    notify(f"preparing {len(paths):,} images of {folder}")
    found: _Images = {}
    for path, digit in paths.items():
        prepared = preparation.prepare_file(path)
        if isinstance(prepared, preparation.NoDigitError):
            raise preparation.NoDigitError(f"{path}: {prepared}")
        if isinstance(prepared, preparation.ImageError):
            raise prepared
        image = found.setdefault(prepared.tobytes(), _Image(digit, []))
        if image.label != digit:
            raise DatasetError(f"{path} is also among the images of digit {image.label}")
        image.digests.append(hashlib.sha256(files.read(path, preparation.LARGEST_FILE)).digest())
        image.digests.sort()
    if again := len(paths) - len(found):
        notify(f"{again:,} of them are there more than once, and count once")
    return dict(sorted(found.items(), key=lambda item: (item[1].label, item[1].digests)))


def _hold_out(found: _Images, folder: Path, notify: Notify) -> tuple[_Images, _Images]:
    """Divide images into a part to train on and a part to measure on; see :func:`load_folder`."""
    train: _Images = {}
    test: _Images = {}
    forced = []  # classes of which the hash leaves a part empty
    for digit, name in enumerate(DIGITS):
        mine = {pixels: image for pixels, image in found.items() if image.label == digit}
        if len(mine) < 2:
            raise DatasetError(f"{folder / name} holds one image: there must be another one to measure on")
        # If one of the files with the same image is to train on, the image is: it cannot measure anything then.
        held_out = [pixels for pixels, image in mine.items() if all(map(_is_held_out, image.digests))]
        if len(held_out) in (0, len(mine)):
            forced.append(name)
            held_out = held_out[1:] or list(mine)[:1]
        test |= {pixels: mine.pop(pixels) for pixels in held_out}
        train |= mine
    if forced:
        notify(
            f"class {', '.join(forced)}: all images would be in one part, so that one is in the other; when images are "
            "added, it may move"
        )
    return train, test


def _is_held_out(digest: bytes) -> bool:
    return digest[0] < HELD_OUT_OF_256


def _stack(found: _Images, what: str) -> Split:
    pixels = np.frombuffer(bytearray(b"".join(found)), dtype=np.uint8).reshape(-1, 28, 28)
    return make_split(torch.from_numpy(pixels), torch.tensor([image.label for image in found.values()]), what)
