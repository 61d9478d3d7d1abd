"""Errors of pictures that cannot be used, with a code for each reason."""

import enum

from mnist.errors import MnistError


class Reason(enum.Enum):
    """Why no digit was found, or none for sure; the values are the codes that ``mnist predict --json`` prints."""

    NOTHING_FOUND = "nothing-found"  # nothing stands out from the background
    TOO_SMALL = "too-small"  # the picture is too small or too narrow
    TOO_MANY_COMPONENTS = "too-many-components"  # more connected components or holes than a digit has
    NOT_DIGIT_SHAPED = "not-digit-shaped"  # wider than any digit, or a digit that is joined to a frame
    MAY_BE_TWO_DIGITS = "may-be-two-digits"  # a shape that could be two digits that touch; it is predicted as one
    SEVERAL_SHAPES = "several-shapes"  # several digits, or a digit and something else


class ImageError(MnistError):
    """A file that is not an image, or an image that cannot be searched for a digit."""


class NoDigitError(ImageError):
    """An image that does not show exactly one digit."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["NoDigitError"], tuple[Reason, str]]:
        return NoDigitError, (self.reason, str(self))
