"""The confidence threshold, below which a prediction is reported as "not sure"."""

from mnist.errors import MnistError

UNCALIBRATED_THRESHOLD = 0.9  # for models whose training did not determine a threshold


class ThresholdError(MnistError, ValueError):
    """A confidence threshold that is not between 0 and 1."""


def check(threshold: float | None) -> float | None:
    """Check a confidence threshold and return it. None stands for the threshold that training determined.

    Raises:
        ThresholdError: if the threshold is not between 0 and 1, or is NaN.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ThresholdError(f"the minimum confidence must be between 0 and 1, not {threshold}")
    return threshold
