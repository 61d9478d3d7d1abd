"""95 % confidence intervals of measured figures, and McNemar's test for two models on the same images."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from mnist.metrics import CALIBRATION_BINS

Z = NormalDist().inv_cdf(0.975)  # half the width of a normal 95 % interval, in standard errors
BOOTSTRAP_RESAMPLES = 500  # for the interval of the calibration error
RESAMPLES_PER_BATCH = 10  # computed at once


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % confidence interval. All three numbers are NaN if it could not be measured."""

    value: float
    low: float
    high: float
    what: str = ""  # subject of the figure, such as "digit 8" or "fog", if a criterion has several figures


def exact(value: float, what: str = "") -> Estimate:
    """Return an estimate without uncertainty, for a figure that was counted or timed, not sampled."""
    return Estimate(value, value, value, what)


def proportion(successes: int, count: int, what: str = "") -> Estimate:
    """Return a proportion with Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953); NaN for count 0."""
    if count == 0:
        return exact(math.nan, what)
    share, spread = successes / count, Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # With no or only successes, one end is exactly 0 or 1, which the formula gives only up to rounding.
    low, high = 0.0 if successes == 0 else middle - half, 1.0 if successes == count else middle + half
    return Estimate(share, low, high, what)


def difference(first: Estimate, second: Estimate, what: str = "") -> Estimate:
    """Return the difference of two independent proportions with Newcombe's interval (1998, method 10).

    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above, what)


def paired_difference(lost: int, gained: int, count: int, what: str = "") -> Estimate:
    """Return the share of images lost minus the share gained, with Bonett and Price's interval for paired data (2012).

    doi:10.3102/1076998611411915. Lost are the images that only the first model recognizes, gained those that only the
    second recognizes. NaN for no images.
    """
    if count == 0:
        return exact(math.nan, what)
    p, q = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    value = (lost - gained) / count
    return Estimate(value, min(value, max(-1.0, p - q - half)), max(value, min(1.0, p - q + half)), what)


def mean(values: Tensor) -> Estimate:
    """Return the mean of numbers in [0, 1], float [N], with a normal-approximation interval.

    The interval of a single number is [0, 1]. NaN for N = 0.
    """
    if len(values) < 2:
        return Estimate(*([values.item(), 0.0, 1.0] if len(values) else [math.nan] * 3))
    values = values.double()
    middle, half = values.mean().item(), Z * values.std().item() / math.sqrt(len(values))
    return Estimate(middle, max(0.0, middle - half), min(1.0, middle + half))


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, given the numbers of discordant images."""
    count = lost + gained
    tail = sum(math.comb(count, k) for k in range(min(lost, gained) + 1))
    return min(1.0, float(2 * tail / 2**count))


def calibration_error(confidence: Tensor, correct: Tensor, generator: torch.Generator) -> Estimate:
    """Return the expected calibration error over bins of equal mass (Nguyen and O'Connor, 2015, arXiv 1508.05154).

    The interval is the basic bootstrap interval. NaN for no images.

    Args:
        confidence: probability of the predicted class, float32 [N].
        correct: whether the prediction is correct, bool [N].
        generator: draws the resamples.
    """
    count = len(confidence)
    if count == 0:
        return exact(math.nan)
    excess = confidence.double() - correct.double()
    bins = torch.empty(count, dtype=torch.int64)
    for number, indices in enumerate(confidence.argsort(stable=True).tensor_split(CALIBRATION_BINS)):
        bins[indices] = number

    def error(sample: Tensor) -> Tensor:
        sums = torch.zeros(len(sample), CALIBRATION_BINS, dtype=torch.float64).scatter_add_(
            1, bins[sample], excess[sample]
        )
        return sums.abs().sum(1) / count

    value = error(torch.arange(count)[None]).item()
    resampled = torch.cat(
        [
            error(torch.randint(count, (RESAMPLES_PER_BATCH, count), generator=generator))
            for _ in range(BOOTSTRAP_RESAMPLES // RESAMPLES_PER_BATCH)
        ]
    )
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, min(value, max(0.0, 2 * value - high)), max(value, 2 * value - low))
