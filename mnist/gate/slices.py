"""Slices: the test images that are extreme in stroke thickness, slant or size.

A slice can reveal a weakness that the overall accuracy hides. Morpho-MNIST (Castro et al., 2019, arXiv 1809.10780)
measures similar properties of digits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SLICE_SHARE = 0.025  # size of a slice, as a share of all images
MIN_SLICE_IMAGES = 100

_SMALLEST_SUM = 1e-6  # avoids a division by 0 for a blank image


@dataclass(frozen=True)
class Slice:
    """The number of images of a slice that a model recognizes."""

    name: str  # such as "thickest strokes"
    images: int
    right: int  # number of recognized images


def measure(pixels: Tensor, correct: Tensor) -> Iterator[Slice]:
    """Yield the results for each slice.

    Args:
        pixels: as in :func:`extremes`.
        correct: whether each image was recognized, bool [N].
    """
    for name, chosen in extremes(pixels):
        yield Slice(name, len(chosen), int(correct[chosen.cpu()].sum()))


def extremes(pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each slice and the indices of its images, int64 [K].

    A slice consists of the 2.5 % of the images (at least 100) with the lowest or highest values of a measure.

    Args:
        pixels: white digits on black, float32 [N, 1, 28, 28] in [0, 1].
    """
    count = min(len(pixels), max(MIN_SLICE_IMAGES, round(SLICE_SHARE * len(pixels))))
    for lowest, highest, values in (
        ("thinnest strokes", "thickest strokes", stroke_thickness(pixels)),
        ("leaning left", "leaning right", slant(pixels)),
        ("smallest digits", "largest digits", size(pixels)),
    ):
        order = values.argsort(stable=True)
        yield lowest, order[:count]
        yield highest, order[len(order) - count :]


def stroke_thickness(pixels: Tensor) -> Tensor:
    """Return the mean width of the strokes in pixels, float32 [N].

    A stroke of width w and length l has an area of w l and two edges of length l. The area is the sum of the pixels,
    and the length of the edges is their total variation.
    """
    padded = F.pad(pixels[:, 0], (1, 1, 1, 1))
    right = padded[:, 1:, 1:] - padded[:, 1:, :-1]
    down = padded[:, 1:, 1:] - padded[:, :-1, 1:]
    edges = torch.hypot(right, down).sum((1, 2))
    return 2 * pixels.sum((1, 2, 3)) / edges.clamp(min=_SMALLEST_SUM)


def slant(pixels: Tensor) -> Tensor:
    """Return the slant of the strokes to the right, in pixels per row from bottom to top, float32 [N]."""
    _, covariance, down = _second_moments(pixels)
    return -covariance / down.clamp(min=_SMALLEST_SUM)


def size(pixels: Tensor) -> Tensor:
    """Return the root-mean-square distance of the white pixels from their centre of mass in pixels, float32 [N]."""
    right, _, down = _second_moments(pixels)
    return (right + down).clamp(min=0).sqrt()


def _second_moments(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the variance of x (to the right), the covariance of x and y (down), and the variance of y.

    Each pixel is weighted by its brightness.
    """
    mass = pixels[:, 0]
    y, x = (torch.arange(length, device=pixels.device) - (length - 1) / 2 for length in mass.shape[1:])
    rows, columns, weighted_rows = mass.sum(2), mass.sum(1), mass @ x
    total = rows.sum(1).clamp(min=_SMALLEST_SUM)
    mean_x, mean_y = columns @ x / total, rows @ y / total
    return (
        columns @ (x * x) / total - mean_x**2,
        weighted_rows @ y / total - mean_x * mean_y,
        rows @ (y * y) / total - mean_y**2,
    )
