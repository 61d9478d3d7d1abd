"""Separate a digit from clutter beside or around it: frames, lines, dots and dirt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mnist.preparation.components import Box, Component, Labels, Mask

MIN_FRAMED_SIDE = 0.15  # side of a component in a frame, as a fraction of the frame's; smaller ones are dirt in a zero
MAX_LINE_THICKNESS = 1 / 6  # thickness of a straight line, as a fraction of its length
MIN_LINE_FILL = 0.6  # ``ellipse_fill`` of a straight line; an arc has a smaller one
MAX_LEVEL_ANGLE = 35  # degrees from the horizontal; a steeper line can be a one
MIN_BLOB_FILL = 0.9  # ``ellipse_fill`` of a dot
MAX_BLOB_ASPECT_RATIO = 2
MAX_STROKE_GAP = 0.15  # gap between a separate stroke and its digit, as a fraction of the digit's longer side
MAX_STROKE_LENGTH = 1.1  # length of a separate level stroke, as a fraction of the digit's longer side
MIN_RULE_LENGTH = 1.4  # length of a steep line that is not part of a digit, as a fraction of the digit's longer side
MIN_MAIN_AREA = 0.3  # if another component's area is at least this fraction of a steep line's, the line is not a one
MAX_BLOB_SIDE = 0.35  # side of a dot that belongs to a digit, as a fraction of the digit's longer side
MIN_PANEL_SIDE = 16  # pixels: shorter side of a panel, a filled rectangle that is searched like a picture
MIN_PANEL_FILL = 0.5  # fraction of a panel's area that is ink; the digit in it is not ink
MIN_PANEL_EDGE = 0.95  # fraction of a panel's outermost pixels that are ink
PANEL_EDGE = 2  # pixels: width of the soft edge of a panel
MIN_COMPONENT_AREA = 0.05  # area of a component, as a fraction of the largest component's; smaller ones are dirt


@dataclass(frozen=True)
class _Form:
    """The ellipse and the rectangle that have the same variances as the pixel positions of a component."""

    length: float  # longer side of the rectangle, in pixels
    thickness: float  # shorter side of the rectangle, in pixels
    angle: float  # angle between the longer side and the horizontal, in degrees, 0 to 90
    ellipse_fill: float  # area of the component divided by that of the ellipse: 1 for a disc, 0.95 for a square

    @property
    def is_line(self) -> bool:
        return self.thickness <= MAX_LINE_THICKNESS * self.length and self.ellipse_fill >= MIN_LINE_FILL

    @property
    def is_blob(self) -> bool:
        return self.length <= MAX_BLOB_ASPECT_RATIO * self.thickness and self.ellipse_fill >= MIN_BLOB_FILL

    @property
    def is_steep(self) -> bool:
        return self.is_line and self.angle > MAX_LEVEL_ANGLE


def _form(mask: Mask) -> _Form:
    rows, columns = np.nonzero(mask)
    (across, mixed), (_, down) = np.cov(columns, rows, bias=True).tolist() if len(rows) > 1 else ((0, 0), (0, 0))
    # The variance within a pixel is 1 / 12. A rectangle of length n has a variance of n² / 12, an ellipse of n² / 16.
    mean, half = (across + down) / 2 + 1 / 12, math.hypot((across - down) / 2, mixed)
    length, thickness = (math.sqrt(12 * max(1 / 12, variance)) for variance in (mean + half, mean - half))
    angle = abs(math.degrees(math.atan2(2 * mixed, across - down) / 2))
    return _Form(length, thickness, angle, len(rows) * 3 / (math.pi * length * thickness))


def remove(labels: Labels, components: Sequence[Component]) -> list[Component]:
    """Return the components that can belong to a digit: all but frames, ruled lines, dots and dirt.

    Args:
        labels: the component label of each pixel, int [H, W].
        components: the components, largest first.
    """
    kept = _remove_frames(labels, components)
    forms = {component.label: _form(component.mask(labels)) for component in kept}
    main = _main(kept, forms)
    if not main:
        return []
    if not forms[main.label].is_blob:
        kept = [each for each in kept if each is main or not _is_beside(each.box, forms[each.label], main.box)]
    largest = max(component.area for component in kept)
    return [component for component in kept if component.area >= MIN_COMPONENT_AREA * largest]


def _remove_frames(labels: Labels, components: Sequence[Component]) -> list[Component]:
    """Remove frames, circles and axes around other components, and everything outside them, such as tick labels."""
    kept = list(components)
    for frame in sorted(components, key=lambda component: -component.box.side):
        inside = [other for other in kept if other is not frame and _encloses(labels, frame, other)]
        if any(_is_framed(labels, frame, other) for other in inside):
            kept = inside
    return kept


def _is_framed(labels: Labels, frame: Component, other: Component) -> bool:
    """Return True if a component in a frame can be a digit rather than dirt or the dot in a printed zero."""
    if other.box.side < MIN_FRAMED_SIDE * frame.box.side or other.area < MIN_COMPONENT_AREA * frame.area:
        return False
    return other.box.side > MAX_BLOB_SIDE * frame.box.side or not _form(other.mask(labels)).is_blob


def _encloses(labels: Labels, frame: Component, other: Component) -> bool:
    return frame.box.contains(other.box) and not (labels[other.box.slices] == frame.label).any()


def _main(components: Sequence[Component], forms: Mapping[int, _Form]) -> Component | None:
    """Return the component that is most likely to be a digit, or the largest part of a digit."""
    by_area = sorted(components, key=lambda component: -component.area)
    ones = [component for component in by_area if forms[component.label].is_steep]
    others = [each for each in by_area if not forms[each.label].is_line and not forms[each.label].is_blob]
    if ones and not (others and others[0].area >= MIN_MAIN_AREA * ones[0].area):
        return ones[0]
    return next(iter(others or by_area), None)


def _is_beside(box: Box, form: _Form, main: Box) -> bool:
    """Return True if a component is not part of the digit but, for example, an underline, a ruled line or a dot."""
    far = max(box.gap(main)) > MAX_STROKE_GAP * main.side
    if form.is_steep:
        return form.length > MIN_RULE_LENGTH * main.side
    if form.is_line:
        # Separate level strokes of a digit (of 4, 5 and 7) are in the upper three quarters of the digit.
        low = box.top > main.bottom - main.height / 4
        return far or low or form.length > MAX_STROKE_LENGTH * main.side
    return form.is_blob and (far or box.side > MAX_BLOB_SIDE * main.side)


def panel(labels: Labels, component: Component) -> Box | None:
    """Return the interior of a filled rectangle (it may show a digit in the page's colour); None for other shapes."""
    if min(component.box.height, component.box.width) < MIN_PANEL_SIDE or component.area < MIN_PANEL_FILL * (
        component.box.height * component.box.width
    ):
        return None
    mask = component.mask(labels)
    # Exclude ticks and other marks that are joined to the rectangle.
    rows, columns = np.flatnonzero(mask.mean(1) > 0.5), np.flatnonzero(mask.mean(0) > 0.5)
    if not rows.size or not columns.size:
        return None
    box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    edges = np.concatenate([mask[box.top, box.left : box.right], mask[box.bottom - 1, box.left : box.right]])
    edges = np.concatenate([edges, mask[box.top : box.bottom, box.left], mask[box.top : box.bottom, box.right - 1]])
    if min(box.height, box.width) < MIN_PANEL_SIDE or edges.mean() < MIN_PANEL_EDGE:
        return None
    top, left = component.box.top + PANEL_EDGE, component.box.left + PANEL_EDGE
    return Box(top + box.top, left + box.left, top + box.bottom - 2 * PANEL_EDGE, left + box.right - 2 * PANEL_EDGE)
