"""A user's image, prepared as MNIST's digits were: ink on nothing, in a box of 20 x 20, centred by mass in 28 x 28."""

import functools
import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist import files
from mnist.errors import MnistError, first_line

SIDE = 28  # pixels of a prepared image
BOX = 20  # pixels that the digit's longer side takes of them
CENTRE = 14  # index of the pixel that its centre of mass lies in, down and to the right

LARGEST_FILE = 200_000_000  # bytes
UNREADABLE = (".heic", ".heif")  # photos that Pillow cannot read: refused, rather than passed over
LARGEST = 1024  # pixels: the longer side of an image that is looked at; larger ones are made smaller first
WORKING = 256  # pixels: the longer side that ink is looked for on at once

SMALLEST = 8  # pixels: the side of a picture, or the longer side of a digit in it
NARROWEST = 64  # times as long as wide: a picture in which no digit has room
FAINTEST = 0.08  # contrast of ink with its paper, where white with black is 1
CLEAREST = 6  # standard deviations of the noise that ink is above it
SPECK = 0.05  # of the largest piece's area: what is smaller is dirt
MOST_PIECES = 6  # of a digit, and most holes; none of 5,000 of MNIST's has more than 5 of either
FRAME = 0.1  # of the picture's edge: a piece that takes more of it is the end of the paper, no digit
PEN = 1.1  # half the width of a stroke, in pixels of a prepared image; nine in ten of MNIST's are wider

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


class ImageError(MnistError):
    """A file that is no image, or none that a digit could be looked for in."""


class NoDigitError(ImageError):
    """An image on which there is nothing, or too much, for one digit."""


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Pixels:
    """The image in a file of any kind that Pillow reads, float32 [H, W, 3] in [0, 1], at most 1024 pixels a side.

    It is turned as its EXIF data say. What is transparent gets the colour that its shape stands out from.

    Raises:
        ImageError: there is no such file, or it is no image, damaged, animated, or too large.
        OSError: it cannot be read.
    """
    try:
        content = files.read(path, LARGEST_FILE)
    except FileNotFoundError:
        raise ImageError(f"there is no image at {path}") from None
    except files.UnreadableError as error:
        raise ImageError(str(error)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                return to_pixels(image)
    except UnidentifiedImageError:
        raise ImageError(f"{path} is no image that can be read (save it as PNG or JPEG)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise ImageError(
            f"{path} has more than {limit:,} pixels (make it smaller: a thousand a side is plenty)"
        ) from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file, and document few
        raise ImageError(f"{path} is damaged: {first_line(error)}") from error


def find(path: Path) -> list[Path]:
    """The files in a folder and below it that are called like images, sorted; hidden ones are passed over."""
    _formats()  # makes the extensions known
    known = {*Image.registered_extensions(), *UNREADABLE}
    return [
        entry
        for entry in sorted(path.rglob("*"))
        if entry.suffix.lower() in known
        and entry.is_file()
        and not any(part.startswith(".") for part in entry.relative_to(path).parts)
    ]


@functools.cache
def _formats() -> list[str]:
    """The formats that Pillow reads by itself: for EPS it would have another program run what is in the file."""
    Image.init()
    return sorted({*Image.OPEN} - {"EPS"})


def prepare_file(path: Path) -> NDArray[np.uint8] | ImageError:
    """What :func:`prepare` makes of the image in a file, uint8 [28, 28], or why it makes nothing of it."""
    try:
        return prepare(read(path))
    except ImageError as error:
        return error
    except OSError as error:  # one that cannot be read is no reason to leave the others
        return ImageError(f"{path} cannot be read: {error.strerror or error}")


def to_pixels(image: Image.Image) -> Pixels:
    """An image that Pillow has opened, of any mode, as :func:`read` gives it.

    Raises:
        ImageError: it is an animation or has several pages.
    """
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a camera's, which holds the photo and a preview
        raise ImageError(f"it has {getattr(image, 'n_frames', 1)} frames or pages (save the one that is meant)")
    image.draft("RGB", (LARGEST, LARGEST))  # a JPEG is decoded no larger than it is needed
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR)
    if image.mode == "RGBA":
        image = _on_paper(image).convert("RGB")
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A greyscale image of more than 8 bits, from its darkest to its brightest: its own scale may be any."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageError("some of its pixels are not numbers")
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) * (255 / (high - low or 1))).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    """An RGBA image on a colour that its shape stands out from, be the shape in its tones or in its transparency."""
    alpha, tones = np.asarray(image.getchannel("A")), np.asarray(image.convert("L"))
    opaque = tones[alpha > 127]
    if not len(opaque):
        return Image.new("RGB", image.size)
    dark, light = np.percentile(opaque, [5, 95])
    middle = np.median(opaque)
    paper = int(middle) if light - dark > 64 else 255 if middle < 128 else 0
    return Image.alpha_composite(Image.new("RGBA", image.size, (paper, paper, paper, 255)), image)


# ---- Preparation -----------------------------------------------------------------------------------------------------


def prepare(pixels: Pixels) -> NDArray[np.uint8]:
    """An image, float32 [H, W, channels] in [0, 1], as MNIST would have it: uint8 [28, 28].

    Dark on light or light on dark, in any colours, lit unevenly: see :func:`find_ink` and :func:`fit`.

    Raises:
        NoDigitError: there is nothing, or too much, for one digit.
    """
    return fit(find_ink(pixels))


def find_ink(pixels: Pixels) -> Pixels:
    """How much ink there is in each pixel, float32 [H, W] in [0, 1], of an image, float32 [H, W, channels] in [0, 1].

    Paper is what most of the picture is: a colour that changes slowly across it. Ink is what differs from that, in the
    one direction of colour that it differs in most. Specks and what runs along the edge are left out, and what was
    drawn with a thin pen gets the width of MNIST's.

    Raises:
        NoDigitError: there is nothing, or too much, for one digit.
    """
    if min(pixels.shape[:2]) < max(SMALLEST, max(pixels.shape[:2]) // NARROWEST):
        raise NoDigitError(f"no digit found (an image of {pixels.shape[1]} x {pixels.shape[0]} pixels is too small)")
    if max(pixels.shape[:2]) > WORKING:  # found on a small version, and then looked at closely
        small = _reduced(pixels)
        scale = max(pixels.shape[:2]) // max(small.shape[:2])
        box = _box(_pieces(_strength(small) > 0.5))
        pixels = _reduced(pixels[_around([edge * scale for edge in box], margin=scale * max(_sides(box)) // 2)])
    strength = _strength(pixels)
    pieces = _pieces(strength > 0.5)
    box = _box(pieces)
    side = max(_sides(box))
    if side < SMALLEST:
        raise NoDigitError("no digit found")
    around = _around(box, margin=side // BOX + 2)
    strength, pieces = strength[around], pieces[around]
    ink: Pixels
    if side <= 2 * BOX:  # its greys are all there is of its shape: they stay
        ink = np.where(ndimage.binary_dilation(pieces), strength.clip(0, 1), 0)
    else:
        ink = np.where(ndimage.binary_dilation(pieces, iterations=2), (2 * strength - 0.5).clip(0, 1), 0)
        ink = np.maximum(ink, _widened(pieces, side))
    return ink


def _reduced(pixels: Pixels) -> Pixels:
    """The picture made smaller by a whole number, to at most 256 pixels a side."""
    factor = -(-max(pixels.shape[:2]) // WORKING)
    whole = pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]
    parts = [whole[down::factor, right::factor] for down in range(factor) for right in range(factor)]
    blocks: Pixels = np.mean(parts, axis=0)
    return blocks


def _strength(pixels: Pixels) -> Pixels:
    """How far each pixel is from paper, float32 [H, W]: 0 where there is none, about 1 where there is ink."""
    blur = max(pixels.shape[:2]) / 320  # pixels: hardly any of a small image
    excess = ndimage.gaussian_filter(pixels - _paper(pixels), (blur, blur, 0))
    distance = np.sqrt(np.einsum("ijk,ijk->ij", excess, excess))
    least = distance.size - 1 - distance.size // 1000 - 4
    clear = np.partition(distance.ravel(), least)[least] / 2  # half of what but a few pixels are below
    direction = excess[distance > clear]
    direction = direction[direction @ direction.sum(0) > 0].sum(0)  # that of most, and not of what is opposite
    strength: Pixels = excess @ (direction / max(float(np.linalg.norm(direction)), 1e-9))
    inked = strength[strength > clear]
    level = float(np.median(inked)) if len(inked) else 0.0
    noise = 1.4826 * float(np.median(np.abs(strength[::2, ::2])))  # of a normal distribution, by its median
    if level < max(FAINTEST, CLEAREST * noise):
        raise NoDigitError("no digit found")
    return strength / np.float32(level)


def _paper(pixels: Pixels) -> Pixels:
    """The picture without what is on it: in each channel a surface of the second degree, fitted to most pixels."""
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // 48)
    down, across = ((np.arange(side, dtype=np.float32) - side / 2) / max(height, width) for side in (height, width))
    y, x = np.meshgrid(down, across, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    some, values = (a[step // 2 :: step, step // 2 :: step].reshape(-1, a.shape[-1]) for a in (terms, pixels))
    off = np.abs(values - np.median(values, axis=0)).max(1)
    for degree in (1, 3, 3, 6, 6, 6):  # terms: a level, a slope, a bow; whoever is far off is no paper
        kept = off <= max(2.5 * float(np.median(off)), 0.02)
        basis = some[:, :degree]
        surface = np.linalg.lstsq(basis[kept].T @ basis[kept], basis[kept].T @ values[kept], rcond=None)[0]
        off = np.abs(values - basis @ surface).max(1)
    paper: Pixels = (terms @ surface).astype(np.float32)
    return paper


def _pieces(inked: Mask) -> Mask:
    """Those pieces of ink, bool [H, W], that make up the digit."""
    labels, count = ndimage.label(inked, np.ones((3, 3)))
    area = np.bincount(labels.ravel(), minlength=count + 1)
    edge = np.ones_like(inked)
    edge[1:-1, 1:-1] = False
    chosen = np.bincount(labels[edge], minlength=count + 1) <= FRAME * edge.sum()
    chosen[0] = False
    if not chosen.any():
        raise NoDigitError("no digit found")
    chosen &= area >= SPECK * area[chosen].max()
    pieces: Mask = chosen[labels]
    holes = int(ndimage.label(~pieces)[1]) - 1
    if chosen.sum() > MOST_PIECES or holes > MOST_PIECES:
        raise NoDigitError("no digit found (too many marks for one)")
    _refuse_several(labels, chosen)
    return pieces


def _refuse_several(labels: NDArray[np.int32], chosen: Mask) -> None:
    """Refuse pieces side by side that are all as tall as a digit."""
    found = ndimage.find_objects(labels)
    boxes = [found[number - 1] for number in np.flatnonzero(chosen)]
    tallest = max(rows.stop - rows.start for rows, _ in boxes)
    tall = sorted((c.start, c.stop) for r, c in boxes if r.stop - r.start > 0.6 * tallest)
    if any(start >= stop for (_, stop), (start, _) in itertools.pairwise(tall)):
        raise NoDigitError("more than one digit found (cut the image down to one)")


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is in it; bottom and right are the first that are not."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _sides(box: Sequence[int]) -> tuple[int, int]:
    top, bottom, left, right = box
    return bottom - top, right - left


def _around(box: Sequence[int], margin: int) -> tuple[slice, slice]:
    """What is in the box, and so much on each side of it."""
    top, bottom, left, right = box
    return slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)


def _widened(pieces: Mask, side: int) -> Pixels:
    """Strokes, bool [H, W], at least as wide as a pen of MNIST's would draw a digit of that side."""
    depth = ndimage.distance_transform_edt(pieces)
    half_width = 2 * float(depth[pieces].mean()) - 0.5  # a stroke is half as deep on average as in its middle
    more = max(0.0, PEN * side / BOX - half_width)
    # Where nothing is to be added this is a half inside, which is what ink is there at the least.
    wide: Pixels = (more + 0.5 - ndimage.distance_transform_edt(~pieces)).clip(0, 1).astype(np.float32)
    return wide


def fit(ink: Pixels) -> NDArray[np.uint8]:
    """Ink, float32 [H, W] in [0, 1], as an image like MNIST's: uint8 [28, 28].

    What is inked is cut out, resized with its aspect kept until its longer side is 20 pixels, and placed so that its
    centre of mass is at pixel (14, 14), to the nearest whole pixel (Y. LeCun, C. Cortes, C. Burges, "The MNIST
    database"). Resizing weighs pixels by a triangle that is as wide as an output pixel either way, as Pillow's BILINEAR
    does. Without any ink the image is blank.
    """
    prepared = np.zeros((SIDE, SIDE), dtype=np.uint8)
    if not ink.any():
        return prepared
    top, bottom, left, right = _box(ink > 0)
    cut = ink[top:bottom, left:right]
    scale = BOX / max(cut.shape)
    height, width = (max(1, int(side * scale + 0.5)) for side in cut.shape)
    small = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR))
    top, left = _place(small.sum(1)), _place(small.sum(0))
    prepared[top : top + height, left : left + width] = np.clip(small, 0, 1) * 255 + 0.5
    return prepared


def _place(mass: Pixels) -> int:
    """Where along an axis the first of these pixels comes, for their centre of mass to be at the centre."""
    centre = float(mass @ np.arange(len(mass))) / float(mass.sum())
    # A little more than a half: halves are common, where a drawing is symmetric, and must not be left to rounding.
    return min(max(0, int(np.floor(CENTRE - centre + 0.5 + 1e-4))), SIDE - len(mass))
