"""Measure the ink strength of each pixel of a picture: 0 for background, 1 for ink."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from mnist.preparation.picture import Picture
from mnist.preparation.problems import NoDigitError, Reason

MIN_CONTRAST = 0.08  # distance between the colours of ink and background; black and white are sqrt(channels) apart
MIN_SIGNAL_TO_NOISE = 6  # contrast of the ink, in standard deviations of the noise
MAX_CLEAN_DIFFERENCE = 1 / 255  # median difference from the background; images with a larger one are smoothed
BACKGROUND_SAMPLES = 24  # pixels on the longer side of the copy to which the background is fitted
FLATTENING_SIDE = 64  # pixels: approximate longer side of the copy from which the illumination is estimated
MEDIAN_SIDE = 21  # pixels of that copy: window size of the median filter
SMOOTHING = 1 / 320  # sigma of the Gaussian filter for images that are not clean, as a fraction of the longer side
MIN_CLASS_SEPARATION = 0.8  # fraction of the pixels' variance that the two classes, ink and background, explain

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class InkModel:
    """A model of ink strength as a function of a pixel's colour and position: 0 for background, 1 for ink.

    Positions are measured from the centre of the picture, in units of its longer side.
    """

    direction: Pixels  # [channels], from background to ink; its length is the inverse of the contrast
    background: Sequence[float]  # coefficients (of 1, x, y, x², xy, y²) of the background's strength, to be subtracted
    smoothing: float  # sigma of the Gaussian filter, in units of the picture's longer side; 0: no smoothing

    def strength(self, pixels: NDArray[np.uint8], rows: Pixels, columns: Pixels) -> Pixels:
        """Return the ink strength, float32 [H, W], of pixels, uint8 [H, W, channels], at these positions."""
        c, x, y, xx, xy, yy = self.background
        across = (c + x * columns + xx * columns**2)[None]
        down = (y * rows + yy * rows**2)[:, None]
        strength: Pixels = pixels @ (self.direction / np.float32(255)) - (across + down + xy * rows[:, None] * columns)
        if self.smoothing and len(columns) > 1:
            strength = ndimage.gaussian_filter(strength, self.smoothing / float(columns[1] - columns[0]))
        return strength


def opacity(pixels: NDArray[np.uint8], *_: Pixels) -> InkModel:
    """Return the ink model of a picture whose pixels are the opacity of ink: the most opaque pixels are ink.

    Raises:
        NoDigitError: if all pixels are transparent.
    """
    if not pixels.any():
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")
    return InkModel(np.array([255 / pixels.max()], dtype=np.float32), [0] * 6, smoothing=0)


def on_page(pixels: NDArray[np.uint8], rows: Pixels, columns: Pixels) -> InkModel:
    """Return the ink model of a picture, uint8 [H, W, channels], whose most frequent colour is the background.

    The background may change slowly across the picture. Ink is what differs from the background along the dominant
    direction in colour space.

    Raises:
        NoDigitError: if nothing differs clearly from the background.
    """
    values = pixels.astype(np.float32) / np.float32(255)
    coefficients = _fit_background(values, rows, columns)
    difference = values - _polynomial(coefficients, rows, columns)
    clean = _median(np.abs(difference[::2, ::2])) < MAX_CLEAN_DIFFERENCE
    if not clean:
        sigma = SMOOTHING * max(pixels.shape[:2])
        difference = ndimage.gaussian_filter(difference, (sigma, sigma, 0))
    distance = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    # The threshold is half the largest distance, ignoring a few outliers: 0.1 % of the pixels and 4 more.
    rank = distance.size - 1 - distance.size // 1000 - 4
    threshold = np.partition(distance.ravel(), rank)[rank] / 2
    inked = difference[distance > threshold]
    # Sum only the differences that point in the direction of the majority, not those in the opposite direction.
    direction = inked[inked @ inked.sum(0) > 0].sum(0)
    direction /= max(float(np.linalg.norm(direction)), 1e-9)
    strength = difference @ direction
    ink = strength[strength > threshold]
    contrast = _median(ink) if len(ink) else 0.0
    # 1.4826 times the median absolute deviation estimates the standard deviation of a normal distribution.
    noise = 1.4826 * _median(np.abs(strength[::2, ::2]))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL_TO_NOISE * noise):
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")
    direction /= contrast
    return InkModel(direction, (coefficients @ direction).tolist(), 0 if clean else SMOOTHING)


def in_crop(pixels: NDArray[np.uint8], *_: Pixels) -> InkModel:
    """Return the ink model of a picture, uint8 [H, W, channels], that is cropped to the digit.

    Otsu's method, along the principal axis of the colours, divides the pixels into two classes: ink and background. The
    background is the class of all corners or, if the corners differ, the class of most border pixels.

    Raises:
        NoDigitError: if the pixels do not form two classes, or if the classes are too similar.
    """
    colours = pixels.reshape(-1, pixels.shape[-1]) / 255.0
    mean = colours.mean(0)
    centred = colours - mean
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    values = (centred @ axis).reshape(pixels.shape[:2])
    ordered = np.sort(values.ravel())
    # Compute the variance between the two classes for each possible size of the lower class.
    counts = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)[:-1]
    between = sums**2 / counts + sums**2 / (ordered.size - counts)  # the sum of all values is 0
    split = int(between.argmax())
    threshold = (ordered[split] + ordered[split + 1]) / 2
    low, high = float(ordered[: split + 1].mean()), float(ordered[split + 1 :].mean())
    if high - low < MIN_CONTRAST or between[split] < MIN_CLASS_SEPARATION * float(ordered @ ordered):
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")
    edge = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    dark_corners = int((values[[0, 0, -1, -1], [0, -1, 0, -1]] <= threshold).sum())
    dark_background = dark_corners == 4 or (dark_corners > 0 and bool((edge <= threshold).mean() >= 0.5))
    background, ink = (low, high) if dark_background else (high, low)
    direction = (axis / (ink - background)).astype(np.float32)
    constant = float(mean @ direction) + background / (ink - background)
    return InkModel(direction, [constant, 0, 0, 0, 0, 0], smoothing=0)


def flatten(picture: Picture) -> Picture:
    """Return a picture with a uniform grey background, even across shadow edges.

    The background is estimated by a wide median filter, because a digit's strokes cover less than half of its window.
    """
    height, width = picture.pixels.shape[:2]
    image = Image.fromarray(picture.pixels)
    small = image.reduce(max(1, max(height, width) // FLATTENING_SIDE)).filter(ImageFilter.MedianFilter(MEDIAN_SIDE))
    background = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), dtype=np.int16)
    flat = 128 + (picture.pixels.astype(np.int16) - background) // 2
    return dataclasses.replace(picture, pixels=flat.clip(0, 255).astype(np.uint8))


def _median(values: Pixels) -> float:
    """Return the upper median; faster than ``np.median``."""
    middle = values.size // 2
    return float(np.partition(values, middle, axis=None)[middle])


def _terms(rows: Pixels, columns: Pixels) -> Pixels:
    """Return the terms 1, x, y, x², xy, y² of a polynomial at each pixel, float32 [6, H * W]."""
    y, x = (values.ravel() for values in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _polynomial(coefficients: Pixels, rows: Pixels, columns: Pixels) -> Pixels:
    """Evaluate a polynomial in each channel; return [H, W, channels], or [channels] if it is constant."""
    if not coefficients[1:].any():
        constant: Pixels = coefficients[0]
        return constant
    return (_terms(rows, columns).T @ coefficients).reshape(len(rows), len(columns), -1)


def _fit_background(pixels: Pixels, rows: Pixels, columns: Pixels) -> Pixels:
    """Fit a quadratic polynomial to most pixels in each channel; return its coefficients, [6, channels]."""
    step = max(1, max(pixels.shape[:2]) // BACKGROUND_SAMPLES)
    down, across = (slice(min(step, side) // 2, None, step) for side in pixels.shape[:2])
    values = np.ascontiguousarray(pixels[down, across].reshape(-1, pixels.shape[-1]).T)  # reductions are faster
    terms = _terms(rows[down], columns[across])
    coefficients = np.zeros((6, len(values)), dtype=np.float32)
    coefficients[0] = np.median(values, axis=1)
    residual = np.abs(values - coefficients[0][:, None]).max(0)
    ridge = np.eye(6, dtype=np.float32) * np.float32(1e-3)  # in case the pixels do not determine the polynomial
    # Fit a constant, then a linear and a quadratic polynomial. Each time, exclude pixels that are far from the previous
    # fit, because they are not background.
    for count in (1, 3, 3, 6, 6, 6):
        inliers = residual <= max(2.5 * _median(residual), 0.02)
        basis, target = terms[:count, inliers], values[:, inliers]
        if (target == target[:, :1]).all():  # the background has one colour
            coefficients[0] = target[:, 0]
            break
        coefficients[:count] = np.linalg.solve(basis @ basis.T + ridge[:count, :count], basis @ target.T)
        residual = np.abs(values - coefficients[:count].T @ terms[:count]).max(0)
    return coefficients
