"""Hypothesis strategies: images, affine parameters, predictions, intact and corrupted IDX files.

The module also writes the files that several tests need: tiny data sets and printed digits.
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mnist.architecture import ARCHITECTURES
from mnist.datasets.archives import Archive, Archives
from mnist.transforms import Affine

PATIENCE = 600  # seconds: timeout of operations that take a few seconds on an idle machine; only a deadlock exceeds it

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

seeds = st.integers(0, 2**32 - 1)
architectures = st.sampled_from(sorted(ARCHITECTURES))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


generators = st.builds(generator, seeds)


@st.composite
def uint8_images(draw, min_batch: int = 0, max_batch: int = 8, side: int = 28) -> Tensor:
    """Draw images, uint8 [B, 1, side, side]: noise, all black, all white, or sparse noise."""
    count = draw(st.integers(min_batch, max_batch))
    kind = draw(st.sampled_from(["noise", "black", "white", "sparse"]))
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    if kind == "white":
        images += 255
    elif kind != "black":
        g = draw(generators)
        noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=g)
        mask = torch.rand(images.shape, generator=g) < (1.0 if kind == "noise" else 0.15)
        images = noise * mask
    return images


@st.composite
def normalized_images(draw, min_batch: int = 0, max_batch: int = 8) -> Tensor:
    """Draw images, float32 [B, 1, 28, 28], of very different scales, contiguous or channels-last."""
    count = draw(st.integers(min_batch, max_batch))
    scale = draw(st.sampled_from([0.0, 1e-6, 1.0, 3.0, 1e3]))
    images = torch.randn(count, 1, 28, 28, generator=draw(generators)) * scale
    return images.to(memory_format=draw(st.sampled_from([torch.contiguous_format, torch.channels_last])))


@st.composite
def affine_parameters(draw, count: int) -> Affine:
    """Draw any rotations, shifts by up to the image's side, scales from 0.5 to 2, and no shears or shears up to 45°."""
    unit = torch.rand(count, 5, generator=draw(generators)) * 2 - 1
    shear = draw(st.sampled_from([None, unit[:, 4] * 45]))
    return Affine(unit[:, 0] * 180, unit[:, 1:3] * 28, 2 ** unit[:, 3], shear)


strengths = st.tuples(st.floats(0, 180), st.floats(0, 28), st.floats(0, 0.9))


@st.composite
def labels_and_predictions(draw, classes: int = 10, min_size: int = 0) -> tuple[Tensor, Tensor]:
    """Draw labels and predictions, int64 [N] each. Some classes may be missing; there may be only one."""
    present = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True))
    pairs = draw(st.lists(st.tuples(st.sampled_from(present), st.integers(0, classes - 1)), min_size=min_size))
    table = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    return table[:, 0], table[:, 1]


# ---- IDX files -------------------------------------------------------------------------------------------------------


def idx_bytes(values: Tensor) -> bytes:
    """Return the content of the IDX file of a uint8 tensor."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.numpy().tobytes()


@st.composite
def idx_tensors(draw) -> Tensor:
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw(generators))


@st.composite
def corrupted_idx(draw) -> bytes:
    """Draw an IDX file that is truncated or extended, or has a wrong byte in its header."""
    content = idx_bytes(draw(idx_tensors()))
    damage = draw(st.sampled_from(["truncated", "extended", "magic", "dimensions"]))
    if damage == "truncated":
        return content[: draw(st.integers(0, len(content) - 1))]
    if damage == "extended":
        return content + draw(st.binary(min_size=1, max_size=9))
    at = draw(st.integers(0, 2) if damage == "magic" else st.integers(4, 7))
    return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]


def archive(name: str, content: bytes) -> tuple[Archive, bytes]:
    """Compress a file; return the description of the archive, and its content."""
    packed = gzip.compress(content, mtime=0)
    md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    return Archive(name, md5, hashlib.sha256(content).hexdigest(), len(content)), packed


def archives_of(contents: list[bytes]) -> tuple[Archives, dict[str, bytes]]:
    """Compress four files under the names of MNIST; return the descriptions, and the archives by name."""
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    names = [f"{part}-ubyte.gz" for part in parts]
    described = [archive(name, content) for name, content in zip(names, contents, strict=True)]
    return Archives(*(known for known, _ in described)), {known.name: packed for known, packed in described}


def tiny_mnist(train: int = 20, test: int = 10) -> list[bytes]:
    """Return the contents of four IDX files like those of MNIST, but small and with noise instead of digits."""
    g = generator(0)
    contents = []
    for count in (train, test):
        contents.append(idx_bytes(torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=g)))
        contents.append(idx_bytes((torch.arange(count) % 10).to(torch.uint8)))
    return contents


# ---- Data sets as torchvision stores them ----------------------------------------------------------------------------


def idx_of_integers(values: Tensor) -> bytes:
    """Return the content of the IDX file of a tensor of 32-bit integers."""
    header = bytes([0, 0, 12, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.numpy().astype(">i4").tobytes()


def raw_files(kind: str, contents: list[bytes], split: str = "digits") -> dict[str, bytes]:
    """Return the files of a torchvision data set by name, with the contents of :func:`tiny_mnist`.

    Args:
        kind: name of torchvision's class.
        split: EMNIST's split, which is a part of its file names.
    """
    if kind in ("FashionMNIST", "KMNIST"):
        names = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    elif kind == "EMNIST":
        names = [
            f"emnist-{split}-{part}-{what}-ubyte"
            for part in ("train", "test")
            for what in ("images-idx3", "labels-idx1")
        ]
    else:
        names = [
            f"qmnist-{part}-{what}" for part in ("train", "test") for what in ("images-idx3-ubyte", "labels-idx2-int")
        ]
        contents = [content if number % 2 == 0 else _with_writers(content) for number, content in enumerate(contents)]
    return dict(zip(names, contents, strict=True))


def _with_writers(labels: bytes) -> bytes:
    """Convert labels to QMNIST's format: the digit, and seven columns about the writer."""
    digits = torch.tensor(list(labels[8:]), dtype=torch.int32)
    return idx_of_integers(torch.stack([digits, *(digits * 1000 + column for column in range(7))], 1))


def write_raw(data_dir: Path, kind: str, contents: list[bytes] | None = None, split: str = "digits") -> Path:
    """Write the files of a torchvision data set where torchvision looks for them; return their folder."""
    folder = data_dir / kind / "raw"
    folder.mkdir(parents=True)
    for name, content in raw_files(kind, contents or tiny_mnist(), split).items():
        (folder / name).write_bytes(content)
    return folder


# ---- Drawn digits ----------------------------------------------------------------------------------------------------


SEVEN = [(60, 50), (140, 50), (90, 160)]  # corners (x, y) of a stroke, in an image of 200 x 200 pixels


def drawn(ink=0, paper=255, mode="L", width=16, size=(200, 200)) -> Image.Image:
    image = Image.new(mode, size, paper)
    ImageDraw.Draw(image).line(SEVEN, fill=ink, width=width, joint="curve")
    return image


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the sum of absolute differences of two prepared images, divided by the smaller sum of their pixels."""
    difference = np.abs(first.astype(int) - second).sum()
    return difference / max(1, min(first.astype(int).sum(), second.astype(int).sum()))


# ---- Printed digits --------------------------------------------------------------------------------------------------


def printed(digit: int, degrees: float = 0) -> Image.Image:
    """Draw a printed digit, dark on light, 64 x 64 pixels, rotated counterclockwise by ``degrees``."""
    image = Image.new("L", (64, 64), 240)
    ImageDraw.Draw(image).text((32, 32), str(digit), fill=20, font=ImageFont.load_default(44), anchor="mm")
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=240)


def write_printed(folder: Path, each: int, first: int = 0) -> Path:
    """Write ``each`` images per digit into folders 0 to 9, numbered from ``first``; the number sets the rotation."""
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + each):
            printed(digit, 4 * number - 8).save(folder / str(digit) / f"{number}.png")
    return folder


@st.composite
def confidences(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw confidences, with ties, and for each whether the prediction is correct."""
    pairs = draw(
        st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]), st.booleans()), min_size=1, max_size=80)
    )
    return torch.tensor([confidence for confidence, _ in pairs]), torch.tensor([correct for _, correct in pairs])


def mistakes_from(threshold: float, confidence: torch.Tensor, correct: torch.Tensor) -> float:
    """Return the error rate of the predictions with at least this confidence, or 0 if there are none."""
    wrong = ~correct[confidence.double() >= threshold]
    return wrong.double().mean().item() if len(wrong) else 0.0
