"""Errors for pictures that cannot be used, with a code for each reason."""

import enum

from mnist.errors import MnistError


class Reason(enum.Enum):
    """The reason why no digit was found, or why a prediction is doubtful; ``mnist predict --json`` prints the value."""

    NOTHING_FOUND = "nothing-found"  # nothing stands out from the background
    TOO_SMALL = "too-small"  # the picture is too small or too narrow
    TOO_MANY_COMPONENTS = "too-many-components"  # more connected components or holes than a digit has
    NOT_DIGIT_SHAPED = "not-digit-shaped"  # wider than any digit, for example a digit that is joined to a frame
    MAY_BE_TWO_DIGITS = "may-be-two-digits"  # may be two touching digits; it is predicted as one digit
    SEVERAL_SHAPES = "several-shapes"  # several digits, or a digit and something else


class ImageError(MnistError):
    """A source that is not an image, or an image that cannot be searched for a digit."""


class NoDigitError(ImageError):
    """An image that does not show exactly one digit."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["NoDigitError"], tuple[Reason, str]]:
        return NoDigitError, (self.reason, str(self))
