"""Reduced copies of a picture for the search, and cut-outs of digits at a higher resolution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist.preparation import components
from mnist.preparation.components import Box, Component, Labels, Mask
from mnist.preparation.ink import InkModel, Pixels
from mnist.preparation.picture import Picture

MIN_DETAIL_SIDE = 64  # pixels: longer side of a digit at the resolution at which its shape is extracted
MARGIN = 0.05  # margin around a digit, as a fraction of its longer side; 3 pixels of the copy are added


@dataclass(frozen=True)
class Detail:
    """A cut-out of a picture that shows one digit."""

    strength: Pixels  # ink strength, [H, W]
    mask: Mask  # pixels of the digit, [H, W]
    top: int  # first row of the cut-out within the copied region, in pixels of the picture
    left: int  # first column of the cut-out within the copied region, in pixels of the picture
    factor: int  # the cut-out is reduced by this factor


@dataclass(frozen=True)
class Copy:
    """A reduced copy of a region of a picture, with the ink strength of its pixels."""

    picture: Picture
    region: Box  # copied region, in pixels of the picture
    factor: int  # the copy is reduced by this factor
    model: InkModel
    strength: Pixels  # ink strength, [H, W]
    labels: Labels = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))  # component labels, [H, W]

    @classmethod
    def of(
        cls, picture: Picture, max_side: int, model_of: Callable[..., InkModel], region: Box | None = None
    ) -> "Copy":
        """Copy a region of a picture (default: all of it), reduced to a longer side of at most ``max_side`` pixels.

        Raises:
            NoDigitError: if ``model_of`` finds no ink.
        """
        region = region or Box(0, 0, *picture.pixels.shape[:2])
        factor = -(-region.side // max_side)
        pixels = picture.pixels[region.slices]
        whole = Box(0, 0, region.height, region.width)
        reduced, positions = _reduce(pixels, whole, factor), _positions(pixels, whole, factor)
        model = model_of(reduced, *positions)
        return cls(picture, region, factor, model, model.strength(reduced, *positions))

    def cropped(self, box: Box, max_side: int, model_of: Callable[..., InkModel]) -> "Copy":
        """Copy a part of this copy's region; the box is in the copy's pixels."""
        return Copy.of(self.picture, max_side, model_of, self._in_picture(box))

    def area(self, parts: Sequence[Component]) -> Box:
        """Return the bounding box of components, in pixel coordinates of the picture."""
        return self._in_picture(components.bounding_box([part.box for part in parts]))

    def detail(self, parts: Sequence[Component]) -> Detail:
        """Return the digit that consists of these components, at a sufficient resolution."""
        box = components.bounding_box([part.box for part in parts])
        area = box.expand(int(MARGIN * box.side) + 3, *self.labels.shape)
        labels = self.labels[area.slices]
        mask = np.isin(labels, [part.label for part in parts])
        top, left = area.top * self.factor, area.left * self.factor
        factor = max(1, box.side * self.factor // MIN_DETAIL_SIDE)
        if factor >= self.factor:
            return Detail(self.strength[area.slices], mask, top, left, self.factor)
        pixels = self.picture.pixels[self.region.slices]
        bottom, right = (
            min(end * self.factor, length)
            for end, length in zip((area.bottom, area.right), pixels.shape[:2], strict=True)
        )
        part = Box(top, left, bottom, right)
        strength = self.model.strength(_reduce(pixels, part, factor), *_positions(pixels, part, factor))
        # Ink belongs to the digit if it lies within or next to the digit's pixels in the copy.
        near = ndimage.binary_dilation(mask, np.ones((3, 3))) & ((labels == 0) | mask)
        rows, columns = (np.arange(length) * factor // self.factor for length in strength.shape)
        return Detail(strength, near[rows][:, columns] & (strength > components.WEAK_INK), top, left, factor)

    def in_original(self, detail: Detail, box: Box) -> Box:
        """Convert a box in a cut-out to pixels of the original image."""
        original, (height, width) = self.picture, self.picture.pixels.shape[:2]
        down, across = original.height / height, original.width / width
        top, left = self.region.top + detail.top, self.region.left + detail.left
        return Box(
            round((top + box.top * detail.factor) * down),
            round((left + box.left * detail.factor) * across),
            min(original.height, round((top + box.bottom * detail.factor) * down)),
            min(original.width, round((left + box.right * detail.factor) * across)),
        )

    def _in_picture(self, box: Box) -> Box:
        top, left, bottom, right = (edge * self.factor for edge in box)
        return Box(
            self.region.top + top,
            self.region.left + left,
            min(self.region.bottom, self.region.top + bottom),
            min(self.region.right, self.region.left + right),
        )


def _reduce(pixels: NDArray[np.uint8], box: Box, factor: int) -> NDArray[np.uint8]:
    """Crop an image to a box and reduce it by a factor; return uint8 [H, W, channels]."""
    part = pixels[box.slices]
    if factor == 1:
        return part
    single = part.shape[2] == 1
    reduced = np.asarray(Image.fromarray(np.ascontiguousarray(part[..., 0] if single else part)).reduce(factor))
    return reduced[..., None] if single else reduced


def _positions(pixels: NDArray[np.uint8], box: Box, factor: int) -> tuple[Pixels, Pixels]:
    """Return the row and column positions of the result of :func:`_reduce`, as :class:`InkModel` expects them."""
    height, width = pixels.shape[:2]
    scale = np.float32(max(height, width))
    rows = np.arange(box.top, box.bottom, factor, dtype=np.float32) + np.float32((factor - height) / 2)
    columns = np.arange(box.left, box.right, factor, dtype=np.float32) + np.float32((factor - width) / 2)
    return rows / scale, columns / scale
