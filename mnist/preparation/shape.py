"""Check that connected components have the shape of a digit, and draw the ink of the digit."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist.preparation import placement
from mnist.preparation.components import STRONG_INK, Box, Mask
from mnist.preparation.ink import Pixels
from mnist.preparation.problems import NoDigitError, Reason

MIN_SIDE = 8  # pixels: minimum for the longer side of a digit and for the shorter side of an image
MAX_ASPECT_RATIO = 1.8  # width of a digit divided by its height
MAX_COMPONENTS = 6  # maximum number of components, and of holes, in a digit; 5,000 MNIST digits have at most 5 of each
MIN_HOLE_AREA = 0.01  # area of a hole in the digit, as a fraction of the ink's area; smaller holes are noise
MIN_PAIR_ASPECT_RATIO = 1.0  # width of two touching digits, divided by their height
MIN_PAIR_HEIGHT = 0.85  # height of each of two touching digits, as a fraction of the total height
MAX_JOINT_HEIGHT = 0.6  # height of the stroke that joins two touching digits, as a fraction of the total height
MIN_JOINT_DISTANCE = 0.15  # distance of that stroke from the top and the bottom, as a fraction of the total height
MIN_PAIR_HOLE_AREA = 0.03  # area of each of two holes side by side, as a fraction of the ink's area
MIN_PAIR_HOLE_OVERLAP = 0.5  # rows shared by two holes side by side, as a fraction of the smaller hole's height
MIN_CUT_ASPECT_RATIO = 0.8  # width of a shape that is cut in two, divided by its height
MIN_HALF_WIDTH = 0.3  # width of the narrower half, as a fraction of the total width
MIN_HALF_HEIGHT = 0.7  # height of each half, as a fraction of the total height


def check(mask: Mask, n_components: int) -> None:
    """Check the number of components, the number of holes and the bounding box of a mask, bool [H, W].

    Raises:
        NoDigitError: if the shape cannot be a digit.
    """
    # Every background region except one counts as a hole, even if it touches the border. A page that is divided by the
    # lines of squared paper therefore has many holes.
    hole_areas = np.bincount(ndimage.label(~mask)[0].ravel())[1:]
    holes = int((hole_areas >= MIN_HOLE_AREA * mask.sum()).sum()) - 1
    if n_components > MAX_COMPONENTS or holes > MAX_COMPONENTS:
        raise NoDigitError(Reason.TOO_MANY_COMPONENTS, "no digit found (too many marks for one digit)")
    if not mask.any() or (box := placement.box_of(mask)).side < MIN_SIDE:
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")
    if box.width > MAX_ASPECT_RATIO * box.height:
        raise NoDigitError(Reason.NOT_DIGIT_SHAPED, "no digit found (the shape is too wide for a digit)")


def draw(strength: Pixels, mask: Mask) -> tuple[Pixels, Box]:
    """Return the ink of a digit, as :func:`placement.draw` does, and the digit's bounding box.

    Args:
        strength: ink strength of each pixel, float32 [H, W].
        mask: pixels of the digit, bool [H, W].
    """
    box = placement.box_of(mask)
    area = box.expand(box.side // placement.BOX_SIDE + 2, *mask.shape)
    return placement.draw(strength[area.slices], mask[area.slices], box.side), box


def may_be_two_digits(mask: Mask) -> bool:
    """Return True if a mask, bool [H, W], may show two digits.

    This is the case if one stroke joins two parts that are both about as tall as the mask, or if two holes are side by
    side, as in 66.
    """
    return _has_joint(mask) or _has_holes_side_by_side(mask)


def _has_joint(mask: Mask) -> bool:
    """Return True if one stroke joins two parts that are both about as tall as the mask."""
    height, width = mask.shape
    if width < MIN_PAIR_ASPECT_RATIO * height:
        return False
    counts = mask.sum(0)
    top, bottom = mask.argmax(0), height - mask[::-1].argmax(0)
    middle = (top + bottom) / (2 * height)
    joint = (counts > 0) & (bottom - top == counts) & (counts <= MAX_JOINT_HEIGHT * height)  # one short stroke
    joint &= (middle > MIN_JOINT_DISTANCE) & (middle < 1 - MIN_JOINT_DISTANCE)  # not the bottom of an open zero
    for column in np.flatnonzero(joint[width // 4 : width - width // 4]) + width // 4:
        sides = [(top[part].min(), bottom[part].max()) for part in _inked(counts, column)]
        if min(low - high for high, low in sides) >= MIN_PAIR_HEIGHT * height:
            return True
    return False


def _inked(counts: NDArray[np.int64], column: int) -> list[NDArray[np.int64]]:
    """Return the columns with ink to the left and to the right of a column."""
    inked = np.flatnonzero(counts)
    return [inked[inked < column], inked[inked > column]]


def _has_holes_side_by_side(mask: Mask) -> bool:
    """Return True if two holes share half of the smaller one's rows; the holes of an 8 are one above the other."""
    regions, _ = ndimage.label(~mask)
    areas = np.bincount(regions.ravel())[1:]
    inside = Box(1, 1, mask.shape[0] - 1, mask.shape[1] - 1)  # regions that touch the edge are not holes
    holes = [
        rows
        for area, (rows, columns) in zip(areas, ndimage.find_objects(regions), strict=True)
        if area >= MIN_PAIR_HOLE_AREA * mask.sum()
        and inside.contains(Box(rows.start, columns.start, rows.stop, columns.stop))
    ]
    return any(
        min(one.stop, other.stop) - max(one.start, other.start)
        >= MIN_PAIR_HOLE_OVERLAP * min(one.stop - one.start, other.stop - other.start)
        for one, other in itertools.combinations(holes, 2)
    )


def halves(ink: Pixels) -> Sequence[Pixels]:
    """Cut a wide shape in two where its strokes cover the fewest pixels.

    Args:
        ink: ink of the shape, float32 [H, W] in [0, 1].

    Returns:
        The ink of the left and of the right half, or an empty sequence if the shape is too narrow for two digits or if
        one half is much shorter than the shape.
    """
    mask = ink > STRONG_INK
    box = placement.box_of(mask)
    if box.width < MIN_CUT_ASPECT_RATIO * box.height:
        return ()
    counts, margin = mask.sum(0), int(MIN_HALF_WIDTH * box.width)
    column = min(  # of several columns with equally few pixels, the one nearest to the middle
        range(box.left + margin, box.right - margin),
        key=lambda column: (counts[column], abs(2 * column + 1 - box.left - box.right)),
    )
    pair = [slice(0, column), slice(column + 1, None)]
    if any(np.ptp(np.flatnonzero(mask[:, half].any(1))) + 1 < MIN_HALF_HEIGHT * box.height for half in pair):
        return ()
    return [ink[:, half] for half in pair]
