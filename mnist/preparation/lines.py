"""Detach lines from the digit that they touch: writing lines, grid lines, a line through the digit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist.preparation.components import Component, Labels, Mask
from mnist.preparation.placement import half_width

MIN_SIDE = 16  # pixels: longer side of a component that is searched for lines
MIN_COVER = 0.9  # fraction of a line's length that is ink
MAX_SLOPE = 0.02  # slope of a level line, or of an upright line relative to the vertical
MAX_THICKNESS = 0.04  # thickness of a line, as a fraction of its length; one pixel is added
MIN_EXTENT = 0.12  # length by which a line extends beyond the digit on each side, as a fraction of its length
MIN_REST = 0.05  # area of the remainder (the digit), as a fraction of the component's area
MAX_RELATIVE_THICKNESS = 0.6  # thickness of a sloping line, as a fraction of the digit's stroke width
N_DIRECTIONS = 32  # number of directions in which a component's most distant pixels are searched for


def detach(labels: Labels, components: Sequence[Component]) -> bool:
    """Assign the label -1 to the pixels of straight lines that are joined to a digit.

    Such a line extends beyond the rest of its component on both sides.

    Args:
        labels: the component label of each pixel, int [H, W]; modified in place.
        components: the components, largest first.

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
    """Return the pixels of the level and upright lines that span a component and can be detached, or None."""
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
    """Find thin, almost level lines that span the whole width of a component.

    Returns:
        The pixels of the lines, excluding those of crossing strokes, bool [H, W]; and the rows that the lines occupy,
        bool [H].
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
    """Return the pixels of a straight line between a component's two most distant pixels, or None if there is none."""
    y, x = np.nonzero(mask)
    angles = np.arange(N_DIRECTIONS) * (np.pi / N_DIRECTIONS)
    along = np.outer(x, np.cos(angles)) + np.outer(y, np.sin(angles))
    longest = np.ptp(along, axis=0).argmax()
    first, last = along[:, longest].argmin(), along[:, longest].argmax()
    across, down = float(x[last] - x[first]), float(y[last] - y[first])
    length = float(np.hypot(across, down))
    # For each pixel, compute its position along the line between the two pixels and its distance from that line.
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
    # The stem of a four also extends beyond the rest of the digit, but is as thick as the other strokes.
    return line if thickness <= MAX_RELATIVE_THICKNESS * (2 * half_width(mask & ~line) + 0.5) else None


def _upper_median(counts: NDArray[np.int64]) -> int:
    return int(np.sort(counts)[len(counts) // 2])


def _extends(rest: NDArray[np.int64] | NDArray[np.float64], length: float) -> bool:
    """Return True if a line of this length extends beyond the other pixels, given by their positions, on both sides."""
    return bool(min(rest.min(), length - 1 - rest.max()) >= MIN_EXTENT * length)
