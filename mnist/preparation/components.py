"""Find connected components of ink, and group those that form one digit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist.preparation.ink import Pixels

WEAK_INK, STRONG_INK = 0.3, 0.5  # hysteresis: minimum strength of a component's pixels, and of its strongest pixel
MAX_EXAMINED_COMPONENTS = 1000  # only the largest components are examined; a picture with more is a texture
MIN_TALL_HEIGHT = 0.6  # height of a possible complete digit, as a fraction of the tallest component's height
MAX_PART_GAP = 0.45  # gap between two parts of a digit, as a fraction of the larger part's longer side
MIN_PART_OVERLAP = 0.5  # columns shared by two tall parts side by side, as a fraction of the narrower part's width
MAX_TALL_PART_GAP = 0.1  # gap between two tall parts, one above the other, as a fraction of the greatest height

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


class Box(NamedTuple):
    """A rectangle in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def side(self) -> int:
        """The longer side."""
        return max(self.height, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The slices that select the box in an array [H, W, ...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def contains(self, other: "Box") -> bool:
        return (
            self.top <= other.top
            and self.left <= other.left
            and self.bottom >= other.bottom
            and self.right >= other.right
        )

    def gap(self, other: "Box") -> tuple[int, int]:
        """Return the vertical and the horizontal distance to another box; negative values are overlaps."""
        return (
            max(self.top, other.top) - min(self.bottom, other.bottom),
            max(self.left, other.left) - min(self.right, other.right),
        )

    def expand(self, margin: int, height: int, width: int) -> "Box":
        """Return the box with a margin on each side, clipped to an image of this height and width."""
        return Box(
            max(0, self.top - margin),
            max(0, self.left - margin),
            min(height, self.bottom + margin),
            min(width, self.right + margin),
        )


@dataclass(frozen=True)
class Component:
    """A connected component of ink."""

    label: int  # value of the component's pixels in the label array
    box: Box
    area: int  # number of pixels
    n_border: int  # number of pixels on the border of the label array

    def mask(self, labels: Labels) -> Mask:
        """Return the mask of the component within its box, bool [height, width]."""
        mask: Mask = labels[self.box.slices] == self.label
        return mask


def bounding_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that contains all boxes."""
    return Box(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )


def label(strength: Pixels) -> Labels:
    """Label the connected regions of at least weak ink with numbers from 1, int32 [H, W]; other pixels are 0."""
    labels: Labels = ndimage.label(strength > WEAK_INK, np.ones((3, 3)))[0]
    return labels


def find(strength: Pixels, labels: Labels) -> list[Component]:
    """Return the labelled regions that contain strong ink, largest first. Labels below 1 are not regions."""
    count = int(labels.max(initial=0))
    areas = np.bincount(labels.clip(0).ravel(), minlength=count + 1)
    strong = np.zeros(count + 1, dtype=bool)
    strong[labels[strength > STRONG_INK].clip(0)] = True
    strong[0] = False
    border = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]]).clip(0)
    n_border = np.bincount(border, minlength=count + 1)
    chosen = np.flatnonzero(strong)
    chosen = chosen[np.argsort(-areas[chosen], kind="stable")][:MAX_EXAMINED_COMPONENTS]
    slices = ndimage.find_objects(labels.clip(0))
    return [
        Component(
            int(number),
            Box(rows.start, columns.start, rows.stop, columns.stop),
            int(areas[number]),
            int(n_border[number]),
        )
        for number in chosen
        for rows, columns in [slices[number - 1]]
    ]


def group(components: Sequence[Component]) -> list[list[Component]]:
    """Group the components that form one digit."""
    tallest = max((component.box.height for component in components), default=0)
    groups: list[list[Component]] = []
    for component in components:
        joined = [component]
        others = []
        for existing in groups:
            if any(_form_one_digit(component.box, part.box, tallest) for part in existing):
                joined += existing
            else:
                others.append(existing)
        groups = [*others, joined]
    return groups


def _form_one_digit(first: Box, second: Box, tallest: int) -> bool:
    """Return True if two components are parts of one digit, judged by their boxes."""
    below, beside = first.gap(second)
    if min(first.height, second.height) > MIN_TALL_HEIGHT * tallest:
        if -below > min(first.height, second.height) / 2:  # side by side
            return -beside >= MIN_PART_OVERLAP * min(first.width, second.width)
        return beside < 0 and below <= MAX_TALL_PART_GAP * tallest
    return max(below, beside) <= MAX_PART_GAP * max(first.side, second.side)


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Return the indices of boxes in reading order: line by line, each line from left to right.

    From left to right, a box continues the line whose last box is at the same height: the centre of one of these two
    boxes is within the vertical range of the other. A line may therefore rise or fall.
    """
    centres = [(box.top + box.bottom) / 2 for box in boxes]
    lines: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda index: boxes[index].left):
        distances = [abs(centres[line[-1]] - centres[index]) for line in lines]
        distance, nearest = min(zip(distances, lines, strict=True), default=(math.inf, []))
        if nearest and distance < max(boxes[nearest[-1]].height, boxes[index].height) / 2:
            nearest.append(index)
        else:
            lines.append([index])
    lines.sort(key=lambda line: sum(centres[index] for index in line) / len(line))
    return [index for line in lines for index in line]
