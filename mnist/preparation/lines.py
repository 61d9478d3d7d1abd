"""Detach lines from the digit that they touch: writing lines, squared paper, a line through the digit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist.preparation.components import Component, Labels, Mask
from mnist.preparation.placement import half_width

MIN_SIDE = 16  # pixels: longer side of a component in which lines are looked for
MIN_COVER = 0.9  # share of a line's length that is ink
MAX_SLOPE = 0.02  # of a level or an upright line
MAX_THICKNESS = 0.04  # of a line, as a fraction of its length; one pixel is added
MIN_EXTENT = 0.12  # of a line beyond the digit, on both sides, as a fraction of its length
MIN_REST = 0.05  # of the rest, which is the digit, as a fraction of the component's area
MAX_RELATIVE_THICKNESS = 0.6  # of a sloping line, as a fraction of the thickness of the digit's strokes
N_DIRECTIONS = 32  # in which the most distant pixels of a component are looked for


def detach(labels: Labels, components: Sequence[Component]) -> bool:
    """Give the label -1 to the pixels of straight lines that are joined to a digit.

    Such a line extends beyond the rest of its component on both sides.

    Args:
        labels: int [H, W], which hold the label of each component.
        components: largest first.

    Returns:
        True if a line was found.
    """
    found = False
    for component in components:
        if component.box.side < MIN_SIDE:
            continue
        mask = component.mask(labels)
        lines = _level_and_upright(mask)
        if lines is None:
            lines = _longest(mask)
        if lines is not None:
            labels[component.box.slices][lines] = -1
            found = True
    return found


def _level_and_upright(mask: Mask) -> Mask | None:
    """Return the pixels of all lines along the sides of a component's box, over its whole width or height."""
    level, rows = _level_lines(mask)
    upright, columns = (array.T for array in _level_lines(mask.T))
    if not rows.any() and not columns.any():
        return None
    rest = mask & ~level & ~upright & ~(rows[:, None] & columns)
    if rest.sum() < MIN_REST * mask.sum():
        return None
    extends = [_extends(np.flatnonzero(rest.any(axis)), mask.shape[1 - axis]) for axis in (0, 1)]
    if not (extends[0] and level.any()) and not (extends[1] and upright.any()):
        return None
    return (level & extends[0]) | (upright & extends[1]) | (rows[:, None] & columns & all(extends) & mask)


def _level_lines(mask: Mask) -> tuple[Mask, Mask]:
    """Find thin lines, almost level, over the whole width of a component.

    Returns:
        Their pixels without those of crossing strokes, bool [H, W]; and the rows that they are in, bool [H].
    """
    slack = max(1, int(MAX_SLOPE * mask.shape[1] + 0.5))
    covered = ndimage.maximum_filter1d(mask, 2 * slack + 1, axis=0, mode="constant").mean(1) >= MIN_COVER
    lines, rows = np.zeros_like(mask), np.zeros(len(mask), dtype=bool)
    if not covered.any():
        return lines, rows
    for (band,) in ndimage.find_objects(ndimage.label(covered)[0]):
        counts = mask[band].sum(0)
        thickness = _upper_median(counts)
        if thickness <= MAX_THICKNESS * mask.shape[1] + 1:
            lines[band] = mask[band] & (counts <= thickness + 1)
            rows[band] = True
    return lines, rows


def _longest(mask: Mask) -> Mask | None:
    """Return the pixels of a straight line between the two most distant pixels of a component, if there is one."""
    y, x = np.nonzero(mask)
    angles = np.arange(N_DIRECTIONS) * (np.pi / N_DIRECTIONS)
    along = np.outer(x, np.cos(angles)) + np.outer(y, np.sin(angles))
    longest = np.ptp(along, axis=0).argmax()
    first, last = along[:, longest].argmin(), along[:, longest].argmax()
    across, down = float(x[last] - x[first]), float(y[last] - y[first])
    length = float(np.hypot(across, down))
    # Positions along the line between the two pixels, and distances from it.
    position = ((x - x[first]) * across + (y - y[first]) * down) / length
    distance = np.abs((x - x[first]) * down - (y - y[first]) * across) / length
    band = distance <= MAX_THICKNESS * length / 2 + 1
    bins = np.floor(position + 0.5).astype(np.int64)
    inside = (bins >= 0) & (bins <= length)
    counts = np.bincount(bins[band & inside], minlength=int(length) + 1)
    thickness = _upper_median(counts)
    if np.mean(counts > 0) < MIN_COVER or thickness > MAX_THICKNESS * length + 1:
        return None
    on_line = band & (counts[bins.clip(0, len(counts) - 1)] <= thickness + 1)
    rest = position[~on_line]
    if len(rest) < MIN_REST * len(x) or not _extends(rest, length):
        return None
    line = np.zeros_like(mask)
    line[y[on_line], x[on_line]] = True
    # The stem of a four also extends beyond the rest, but is as thick as the other strokes.
    return line if thickness <= MAX_RELATIVE_THICKNESS * (2 * half_width(mask & ~line) + 0.5) else None


def _upper_median(counts: NDArray[np.int64]) -> int:
    return int(np.sort(counts)[len(counts) // 2])


def _extends(rest: NDArray[np.int64] | NDArray[np.float64], length: float) -> bool:
    """Return True if a line of that length extends on both sides beyond the positions of the rest."""
    return bool(min(rest.min(), length - 1 - rest.max()) >= MIN_EXTENT * length)
