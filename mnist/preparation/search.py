"""Find the digits in a picture."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist.preparation import clutter, components, ink, lines, placement, shape
from mnist.preparation.components import Box, Component
from mnist.preparation.copies import Copy
from mnist.preparation.ink import InkModel
from mnist.preparation.picture import Picture
from mnist.preparation.problems import NoDigitError, Reason

SEARCH_SIDES = (128, 256)  # pixels: longer sides of the searched copies; the second is used if the first fails
SPLIT_SIDES = (512,)  # pixels: the same if the picture may show many digits
MAX_IMAGE_ASPECT_RATIO = 64  # longer side of an image divided by its shorter side
MAX_BORDER_FRACTION = 0.1  # a component that covers more of the image's border is the edge of the paper
MAX_BORDER_FRACTION_OF_CROP = 0.5  # the same for an image that is cropped to the digit
MIN_INVERTED_CORNERS = 3  # if this many corners of the image are ink, the background was mistaken for ink
MIN_FLATTENED_SIDE = 64  # pixels: shorter side of an image that may show a shadow
MIN_BESIDE_PANEL = 0.25  # side of a shape beside a panel, as a fraction of the panel's side; smaller ones are labels

MAX_STRETCHED_SIDE = 40  # pixels: longer side of an image that may be a digit stretched to a square
MIN_STRETCHED_ASPECT_RATIO = 0.75  # shorter side of such a digit divided by its longer side
ASPECT_RATIOS = (0.8, 0.6)  # width of a digit divided by its height: the median and lower quartile of MNIST's digits

# Nothing looks like a digit. The picture may show the digit in another way: without the shadow, or on its own paper.
NO_SHAPE = (Reason.NOTHING_FOUND, Reason.TOO_MANY_COMPONENTS, Reason.NOT_DIGIT_SHAPED)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Digit:
    """A digit that was found in a picture."""

    prepared: NDArray[np.uint8]  # the digit as an image like MNIST's, [28, 28]
    box: Box  # bounding box in pixels of the original image, after its EXIF orientation is applied
    doubtful: bool = False  # True if it may be two touching digits
    narrower: Sequence[NDArray[np.uint8]] = ()  # the same digit at ``ASPECT_RATIOS``, if the image may be stretched
    halves: Sequence[NDArray[np.uint8]] = ()  # the left and the right half of a wide shape, which may be two digits


@dataclass(frozen=True)
class _Shape:
    """Components that form one digit, or something else."""

    copy: Copy
    parts: Sequence[Component]

    def extract(self) -> Digit:
        """Return the digit.

        Raises:
            NoDigitError: if the components do not have the shape of a digit.
        """
        detail = self.copy.detail(self.parts)
        shape.check(detail.mask, len(self.parts))
        drawn, box = shape.draw(detail.strength, detail.mask)
        original = self.copy.in_original(detail, box)
        doubtful = shape.may_be_two_digits(detail.mask[box.slices])
        ratios = ASPECT_RATIOS if _may_be_stretched(original, self.copy.picture) else ()
        return Digit(
            placement.fit(drawn),
            original,
            doubtful,
            narrower=[placement.fit(drawn, ratio) for ratio in ratios],
            halves=[placement.fit(half) for half in shape.halves(drawn)],
        )

    def extract_or_refuse(self) -> Digit | NoDigitError:
        try:
            return self.extract()
        except NoDigitError as error:
            return error


def _may_be_stretched(digit: Box, picture: Picture) -> bool:
    """Return True if a digit fills a small image and may therefore have been stretched, as in some data sets."""
    height, width = picture.height, picture.width
    return (
        not picture.is_ink
        and max(height, width) <= MAX_STRETCHED_SIDE
        and digit == Box(0, 0, height, width)
        and min(digit.height, digit.width) >= MIN_STRETCHED_ASPECT_RATIO * digit.side
    )


def find_digit(picture: Picture) -> Digit:
    """Find the only digit in a picture.

    Raises:
        NoDigitError: if the picture does not show exactly one digit.
    """
    errors = []
    for each in picture.interpretations:
        try:
            return _find_only_digit(each)
        except NoDigitError as error:  # noqa: PERF203  at most two iterations
            errors.append(error)
            if error.reason not in NO_SHAPE:
                raise
    raise errors[-1]


def _find_only_digit(picture: Picture) -> Digit:
    if picture.is_ink or min(picture.pixels.shape[:2]) < MIN_FLATTENED_SIDE:
        return _first_success(picture, SEARCH_SIDES, _extract_only)
    try:
        digit = _first_success(picture, SEARCH_SIDES, _extract_only)
    except NoDigitError as error:
        if error.reason not in NO_SHAPE:
            raise
        if flattened := _inside(_find_flattened(picture), picture):
            return flattened
        raise
    # A shape that touches the border may be a shadow.
    return _inside(digit, picture) or _inside(_find_flattened(picture), picture) or digit


def _find_flattened(picture: Picture) -> Digit | None:
    """Find the digit after evening out the illumination; return None if there is not exactly one."""
    try:
        return _first_success(ink.flatten(picture), SEARCH_SIDES[:1], _extract_only)
    except NoDigitError:
        return None


def _inside(digit: Digit | None, picture: Picture) -> Digit | None:
    """Return the digit, or None if it touches the border of the picture."""
    page = Box(1, 1, picture.height - 1, picture.width - 1)
    return digit if digit and page.contains(digit.box) else None


def find_digits(picture: Picture) -> list[Digit | NoDigitError]:
    """Find all shapes in a picture; return for each, in reading order, the digit or an error if it is not a digit.

    Raises:
        NoDigitError: if nothing stands out from the background.
    """
    *others, last = picture.interpretations
    for each in others:
        with contextlib.suppress(NoDigitError):
            found = _find_all_digits(each)
            if any(isinstance(shape, Digit) for shape in found):
                return found
    return _find_all_digits(last)


def _find_all_digits(picture: Picture) -> list[Digit | NoDigitError]:
    return _first_success(picture, SPLIT_SIDES, lambda shapes: [each.extract_or_refuse() for each in shapes])


def _extract_only(shapes: Sequence[_Shape]) -> Digit:
    if len(shapes) > 1:
        # The number of shapes is not reported, because the finer search with --split can find more.
        message = "several separate shapes found (use --split, or crop the image to one digit)"
        raise NoDigitError(Reason.SEVERAL_SHAPES, message)
    return shapes[0].extract()


def _first_success(picture: Picture, sides: Sequence[int], use: Callable[[Sequence[_Shape]], Result]) -> Result:
    """Search a picture in several ways; return the result of ``use`` for the first way that succeeds.

    Args:
        sides: longer sides of the copies that are searched, in pixels.
        use: function that takes the shapes that were found, in reading order.

    Raises:
        NoDigitError: if no way succeeds.
    """
    height, width = picture.pixels.shape[:2]
    if min(height, width) < max(shape.MIN_SIDE, max(height, width) // MAX_IMAGE_ASPECT_RATIO):
        message = f"no digit found (an image of {picture.width} x {picture.height} pixels is too small or narrow)"
        raise NoDigitError(Reason.TOO_SMALL, message)
    errors = []
    for side, model, max_border_fraction in _ways(picture, sides):
        try:
            return use(_find_shapes(Copy.of(picture, side, model), max_border_fraction))
        except NoDigitError as error:  # noqa: PERF203  a few iterations
            errors.append(error)
            if error.reason not in (Reason.NOTHING_FOUND, Reason.NOT_DIGIT_SHAPED):
                break
    raise next((error for error in errors if error.reason is not Reason.NOTHING_FOUND), errors[0])


def _ways(picture: Picture, sides: Sequence[int]) -> Iterator[tuple[int, Callable[..., InkModel], float]]:
    """Yield ways to search: the copy's longer side, the ink model, and a component's maximum share of the border."""
    if picture.is_ink:
        yield sides[0], ink.opacity, MAX_BORDER_FRACTION_OF_CROP
        return
    for side in sides:
        yield side, ink.on_page, MAX_BORDER_FRACTION
        if max(picture.pixels.shape[:2]) <= side:
            break
    # If the image is cropped tightly to the digit, the background may not be its dominant colour.
    yield sides[0], ink.in_crop, MAX_BORDER_FRACTION_OF_CROP


def _find_shapes(copy: Copy, max_border_fraction: float) -> list[_Shape]:
    """Return the shapes in a copy, including those in panels (filled rectangles), in reading order.

    Raises:
        NoDigitError: if there is no shape.
    """
    labels = components.label(copy.strength)
    found = components.find(copy.strength, labels)
    if lines.detach(labels, found):
        detached = labels < 0
        labels = components.label(np.where(detached, 0, copy.strength))
        labels[detached] = -1
        found = components.find(copy.strength, labels)
    copy = dataclasses.replace(copy, labels=labels)
    border = 2 * (sum(labels.shape) - 2)
    found = [component for component in found if component.n_border <= max_border_fraction * border]
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    inked = np.isin(corners, [each.label for each in found]).sum()
    if max_border_fraction < MAX_BORDER_FRACTION_OF_CROP and inked >= MIN_INVERTED_CORNERS:
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")  # the "ink" is the background of a close crop

    shapes, outside = [], found
    for component in found if not copy.picture.is_ink else ():
        if (panel := clutter.panel(labels, component)) and (inside := _find_in_panel(copy, panel)):
            shapes += inside
            least_side = MIN_BESIDE_PANEL * component.box.side
            outside = [each for each in outside if not component.box.contains(each.box) and each.box.side >= least_side]
    groups = components.group(clutter.remove(labels, outside))
    shapes += [_Shape(copy, parts) for parts in groups]
    if not shapes:
        raise NoDigitError(Reason.NOTHING_FOUND, "no digit found")
    order = components.reading_order([each.copy.area(each.parts) for each in shapes])
    return [shapes[index] for index in order]


def _find_in_panel(copy: Copy, panel: Box) -> list[_Shape]:
    """Return the shapes in a filled rectangle, such as a picture on a page; an empty list if there are none."""
    try:
        return _find_shapes(copy.cropped(panel, SEARCH_SIDES[0], ink.on_page), MAX_BORDER_FRACTION)
    except NoDigitError:
        return []
