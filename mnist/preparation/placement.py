"""Place the ink of a digit in a 28 x 28 pixel image, as in MNIST."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist.preparation.components import Box, Mask
from mnist.preparation.ink import Pixels
from mnist.shapes import IMAGE_SIDE

BOX_SIDE = 20  # pixels: longer side of the digit in the 28 x 28 image
CENTRE = 14  # row and column of the digit's centre of mass in the 28 x 28 image
FULL_INK_RANK = 0.9  # quantile of a small digit's ink strengths that is scaled to 1
SMALL_SIDE = 2 * BOX_SIDE  # pixels: maximum of the longer side of a small digit
MIN_STROKE_HALF_WIDTH = 1.1  # pixels of the 28 x 28 image; 9 out of 10 MNIST digits have wider strokes
MIN_SMALL_STROKE_HALF_WIDTH = 0.8  # the same for small digits, whose grey levels make strokes look thinner


def draw(strength: Pixels, mask: Mask, side: int) -> Pixels:
    """Return the ink of a digit, float32 [H, W] in [0, 1], with strokes at least as wide as MNIST's.

    Args:
        strength: ink strength of each pixel, float32 [H, W].
        mask: pixels of the digit, bool [H, W].
        side: longer side of the digit, in pixels.
    """
    if side > SMALL_SIDE:
        nearby = ndimage.binary_dilation(mask, iterations=2)
        ink: Pixels = np.where(nearby, (2 * strength - 0.5).clip(0, 1), 0)
        missing = MIN_STROKE_HALF_WIDTH * side / BOX_SIDE - half_width(mask)
        return _widen(ink, mask, missing) if missing > 0 else ink
    # The grey levels describe the shape of a small digit. Only strokes drawn with a pen of one pixel are widened.
    # The strongest ink is scaled to 1, so that blurred holes stay open.
    inside = np.sort(strength[mask])
    scale = max(1.0, float(inside[int(FULL_INK_RANK * (len(inside) - 1))]))
    ink = np.where(ndimage.binary_dilation(mask), (strength / np.float32(scale)).clip(0, 1), 0)
    factor = -(-2 * SMALL_SIDE // side)
    height, width = (factor * length for length in ink.shape)
    enlarged = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    unit, half_stroke = factor * side / BOX_SIDE, half_width(enlarged > 0.5)
    if half_stroke >= MIN_SMALL_STROKE_HALF_WIDTH * unit:
        return ink
    return _widen(enlarged, enlarged > 0.5, MIN_STROKE_HALF_WIDTH * unit - half_stroke)


def half_width(mask: Mask) -> float:
    """Estimate half the stroke width: about twice the mean distance of the pixels to the edge."""
    if not mask.any():
        return 0
    return 2 * float(ndimage.distance_transform_edt(mask)[mask].mean()) - 1.5


def _widen(ink: Pixels, mask: Mask, margin: float) -> Pixels:
    """Widen the ink by adding all pixels at a distance of at most ``margin`` from the mask, with a soft edge."""
    if not mask.any():
        return ink
    distance: Pixels = ndimage.distance_transform_edt(~mask).astype(np.float32)
    widened: Pixels = (margin + 0.5 - distance).clip(0, 1)
    return np.maximum(ink, widened)


def fit(ink: Pixels, aspect_ratio: float | None = None) -> NDArray[np.uint8]:
    """Fit ink, float32 [H, W] in [0, 1], into an image like MNIST's, uint8 [28, 28].

    The ink is cropped, resized to a longer side of 20 pixels with its aspect ratio unchanged, and placed so that its
    centre of mass is at pixel (14, 14), to the nearest whole pixel (Y. LeCun, C. Cortes, C. Burges, "The MNIST
    database"). The resampling filter is a triangle with a half-width of one output pixel, Pillow's BILINEAR. The result
    is all zeros if there is no ink.

    Args:
        ink: the digit.
        aspect_ratio: the digit's width divided by its height in the result; by default, that of the ink.
    """
    prepared = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    if not ink.any():
        return prepared
    cropped = ink[box_of(ink > 0).slices]
    shape = (1, aspect_ratio) if aspect_ratio else cropped.shape
    height, width = (max(1, int(side * BOX_SIDE / max(shape) + 0.5)) for side in shape)
    resized = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BILINEAR))
    top, left = _centred_start(resized.sum(1)), _centred_start(resized.sum(0))
    # Values often lie exactly between two levels. Adding 1e-3 rounds them up, here and on the drawing page.
    prepared[top : top + height, left : left + width] = np.clip(resized, 0, 1) * 255 + np.float32(0.5 + 1e-3)
    return prepared


def box_of(mask: Mask) -> Box:
    """Return the bounding box of the True values of a mask; at least one value must be True."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _centred_start(mass: Pixels) -> int:
    """Given the mass of each row (or column) of a digit, return the first row (or column) that centres it."""
    centre = float(mass @ np.arange(len(mass))) / float(mass.sum())
    # The centre of a symmetric drawing often lies exactly between two pixels. Adding 1e-4 rounds it up.
    return min(max(0, int(np.floor(CENTRE - centre + 0.5 + 1e-4))), IMAGE_SIDE - len(mass))
