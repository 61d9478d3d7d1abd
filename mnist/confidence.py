"""The confidence threshold, below which a prediction is "not sure"."""

from mnist.errors import MnistError

UNCALIBRATED_THRESHOLD = 0.9  # of a model for which no threshold was determined


class ThresholdError(MnistError, ValueError):
    """Confidence threshold that is not a probability."""


def check(threshold: float | None) -> float | None:
    """Return the user's confidence threshold; None: the threshold that training determined.

    Raises:
        ThresholdError: if it is not between 0 and 1, or NaN.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ThresholdError(f"the minimum confidence must be between 0 and 1, not {threshold}")
    return threshold
