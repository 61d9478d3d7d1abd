"""Convert Pillow images of any mode to 8-bit pixels on an opaque background, or to the opacity of ink."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist.preparation.problems import ImageError

MAX_READ_SIDE = 1024  # pixels: an image whose longer side is larger is reduced by an integer factor when it is read
ROWS_PER_STRIP = 64  # images with more than 8 bits are converted in strips to save memory
MAX_INKED_SHARE = 0.5  # share of opaque pixels up to which they are more likely ink than paper
MIN_OPAQUE_CONTRAST = 64  # grey levels: if the opaque pixels differ by more, they show both a digit and its paper


@dataclass(frozen=True)
class Picture:
    """The input of the search for digits."""

    pixels: NDArray[np.uint8]  # [H, W, 3]; or [H, W, 1]: the opacity of ink on a transparent background
    width: int  # width of the original image after its EXIF orientation is applied, in pixels
    height: int  # height of the original image after its EXIF orientation is applied, in pixels
    note: str = ""  # describes what was not read, such as the other frames of an animation
    on_paper: "Picture | None" = None  # if the pixels are opacity: the same image on a background of its median grey

    @property
    def is_ink(self) -> bool:
        """True if the pixels are the opacity of ink; the background is then known."""
        return bool(self.pixels.shape[2] == 1)

    @property
    def interpretations(self) -> "Sequence[Picture]":
        """The pictures to search in turn, until a digit is found.

        A digit that is drawn on a transparent background covers less than half of the image. A larger opaque part is
        more likely the paper, such as a window.
        """
        if self.on_paper is None:
            return (self,)
        opaque = float((2 * self.pixels.astype(int) > self.pixels.max()).mean())
        return (self.on_paper, self) if opaque > MAX_INKED_SHARE else (self, self.on_paper)


def convert(image: Image.Image, note: str = "") -> Picture:
    """Convert a decoded image, and reduce it to a longer side of at most ``MAX_READ_SIDE`` pixels.

    If all opaque pixels of an image with transparency have about the same grey level, the picture is the alpha channel.
    Otherwise, they show both the digit and its paper, and the background is filled with their median grey level.

    Raises:
        ImageError: if there are no pixels, or if a pixel is NaN or infinite.
    """
    width, height = image.size
    if not (width and height):
        raise ImageError("the image has no pixels")
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    # Greyscale is reduced before it is converted to RGB, which takes three times the memory.
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    factor = -(-max(image.size) // MAX_READ_SIDE)
    if factor > 1:
        image = image.reduce((min(factor, image.width), min(factor, image.height)))
    if mode == "RGBA":
        opacity = np.asarray(image.getchannel("A"))
        greys = np.asarray(image.convert("L"))[2 * opacity.astype(int) > opacity.max()]
        if not greys.size:
            return Picture(opacity[..., None], width, height, note)
        background = Image.new("RGBA", image.size, (*[int(np.median(greys))] * 3, 255))
        on_paper = Picture(np.asarray(Image.alpha_composite(background, image).convert("RGB")), width, height, note)
        if opacity.all() or np.ptp(np.percentile(greys, [1, 99])) > MIN_OPAQUE_CONTRAST:
            return on_paper
        return Picture(opacity[..., None], width, height, note, on_paper)
    return Picture(np.asarray(image.convert("RGB")), width, height, note)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a greyscale image with more than 8 bits; its darkest value becomes 0 and its brightest 255."""
    strips = [(top, min(top + ROWS_PER_STRIP, image.height)) for top in range(0, image.height, ROWS_PER_STRIP)]

    def read_strip(top: int, bottom: int) -> NDArray[np.float32]:
        return np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.float32)

    extremes = np.array([[values.min(), values.max()] for values in itertools.starmap(read_strip, strips)])
    if not np.isfinite(extremes).all():
        raise ImageError("some pixels are NaN or infinite")
    low, high = float(extremes.min()), float(extremes.max())  # float64, because the difference can overflow float32
    levels = np.empty((image.height, image.width), dtype=np.uint8)
    for top, bottom in strips:
        levels[top:bottom] = (read_strip(top, bottom).astype(np.float64) - low) * (255 / (high - low or 1))
    return Image.fromarray(levels)
