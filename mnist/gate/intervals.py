"""95 % confidence intervals of measured values, and McNemar's test for two models on the same images.

``scripts/interval_coverage.py`` simulates how often each interval covers the true value.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from mnist.metrics import CALIBRATION_BINS

Z = NormalDist().inv_cdf(0.975)  # z-score of a two-sided 95 % interval

MAX_IMAGES_TO_DECIDE = 10_000_000  # messages do not suggest a larger test set

Counts = tuple[int, int, str]  # successes, number of trials, and subject of a proportion


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % confidence interval. All three are NaN if the value could not be measured."""

    value: float
    low: float
    high: float
    what: str = ""  # subject of the value, such as "digit 8" or "fog", if a criterion has several values
    images: int = 0  # number of images measured; 0 if more images would not narrow the interval


def exact(value: float, what: str = "") -> Estimate:
    """Return an estimate without uncertainty, for a value that was counted or timed, not sampled."""
    return Estimate(value, value, value, what)


# ---- Proportions -----------------------------------------------------------------------------------------------------


def proportion(successes: int, count: int, what: str = "") -> Estimate:
    """Return a proportion with its Wilson score interval, or NaN if the count is 0.

    Wilson, 1927, doi:10.1080/01621459.1927.10502953.
    """
    return _wilson(successes, count, what)


def lowest_of(proportions: Sequence[Counts]) -> list[Estimate]:
    """Return estimates of several proportions, of which the lowest is judged.

    The lower ends are those of Wilson score intervals. They need no correction for the selection: the lowest of them is
    at most the lower end for the truly lowest proportion, so it exceeds the true value no more often than the lower end
    of a single interval does. The upper ends are those of Clopper-Pearson intervals (1934,
    doi:10.1093/biomet/26.4.404), Bonferroni-corrected for the selection.
    """
    return [
        dataclasses.replace(_wilson(*counts), high=_exact_high(*counts[:2], len(proportions))) for counts in proportions
    ]


def highest_of(proportions: Sequence[Counts], tests: int | None = None) -> list[Estimate]:
    """Return estimates of several proportions, of which the highest is judged; see :func:`lowest_of`.

    Args:
        tests: number of proportions that these were selected from; by default, their own number.
    """
    tests = tests or len(proportions)
    return [
        dataclasses.replace(_wilson(*counts), low=1 - _exact_high(counts[1] - counts[0], counts[1], tests))
        for counts in proportions
    ]


def spread(proportions: Sequence[Counts]) -> Estimate:
    """Return the highest minus the lowest of independent proportions, or NaN if one is NaN or there are none.

    The upper end is the maximum of the upper ends of the Newcombe intervals for all pairs. The lower end is the highest
    lower end minus the lowest upper end of the proportions' Clopper-Pearson intervals, Bonferroni-corrected for the
    selection.
    """
    estimates = [_wilson(*counts) for counts in proportions]
    if not estimates or any(math.isnan(estimate.value) for estimate in estimates):
        return exact(math.nan)
    ordered = sorted(estimates, key=lambda estimate: estimate.value)
    worst, best = ordered[0], ordered[-1]
    what = f"{best.what} minus {worst.what.removeprefix('digit ')}"
    lows, highs = highest_of(proportions), lowest_of(proportions)  # corrected lower ends, corrected upper ends
    low = max(estimate.low for estimate in lows) - min(estimate.high for estimate in highs)
    high = max(difference(first, second).high for first in estimates for second in estimates)
    return Estimate(
        best.value - worst.value, max(0.0, low), high, what, images=sum(count for _, count, _ in proportions)
    )


def clustered_proportion(successes: Tensor, trials: Tensor, what: str = "") -> Estimate:
    """Return a proportion over clustered trials (correlated within each group), or NaN if there are no trials.

    The interval is the Wilson score interval for the effective number of trials: the number of independent trials that
    would give the proportion the same variance (Kish, 1965). The effective number is at most the number of trials, and
    equals the number of groups if the variance is estimated as 0.

    Args:
        successes: number of successes in each group, [G].
        trials: number of trials in each group, [G].
    """
    chosen = trials > 0
    successes, trials = successes[chosen].double(), trials[chosen].double()
    groups, total = len(trials), trials.sum().item()
    if groups == 0:
        return exact(math.nan, what)
    share = successes.sum().item() / total
    variance = ((successes - share * trials) ** 2).sum().item() / total**2 * groups / max(1, groups - 1)
    effective = share * (1 - share) / variance if variance > 0 else groups
    estimate = _wilson(share * min(effective, total), min(effective, total), what)
    return dataclasses.replace(estimate, value=share, images=round(total))


def difference(first: Estimate, second: Estimate, what: str = "") -> Estimate:
    """Return the difference of two independent proportions with its Newcombe interval (1998, method 10).

    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above, what, images=first.images)


def paired_difference(lost: int, gained: int, count: int, what: str = "", tests: int = 1) -> Estimate:
    """Return the share of images lost minus the share gained, with the Bonett-Price interval for paired data (2012).

    doi:10.3102/1076998611411915. Lost images are recognized only by the first model, gained images only by the
    second. The result is NaN if there are no images.

    Args:
        tests: number of differences of which the highest is judged; the lower end is Bonferroni-corrected for this.
    """
    if count == 0:
        return exact(math.nan, what)
    p, q = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    error = math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    value = (lost - gained) / count
    low, high = max(-1.0, p - q - _corrected_z(tests) * error), min(1.0, p - q + Z * error)
    return Estimate(value, min(value, low), max(value, high), what, images=count)


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, given the numbers of discordant images."""
    count = lost + gained
    tail = sum(math.comb(count, k) for k in range(min(lost, gained) + 1))
    return min(1.0, float(2 * tail / 2**count))


def _corrected_z(tests: int) -> float:
    """Return ``Z`` with the Bonferroni correction for a number of tests."""
    return NormalDist().inv_cdf(1 - 0.025 / max(1, tests))


def _exact_high(successes: int, count: int, tests: int) -> float:
    """Return the upper end of the Bonferroni-corrected Clopper-Pearson interval, or NaN if the count is 0."""
    from scipy.special import betaincinv

    if successes == count:
        return 1.0 if count else math.nan
    return float(betaincinv(successes + 1, count - successes, 1 - 0.025 / max(1, tests)))


def _wilson(successes: float, count: float, what: str = "", z: float = Z) -> Estimate:
    if count == 0:
        return exact(math.nan, what)
    share, width = successes / count, z**2 / count
    middle = (share + width / 2) / (1 + width)
    half = math.sqrt(share * (1 - share) * width + width**2 / 4) / (1 + width)
    # If no trial or every trial succeeds, one end is exactly 0 or 1, which the formula gives only up to rounding.
    low, high = 0.0 if successes == 0 else middle - half, 1.0 if successes == count else middle + half
    return Estimate(share, low, high, what, images=round(count))


# ---- Confidences -----------------------------------------------------------------------------------------------------


def mean(values: Tensor) -> Estimate:
    """Return the mean of numbers in [0, 1], float [N], with an interval for skewed distributions, or NaN if N is 0.

    The ends are those of a Wilson score interval with the quantile of Student's t distribution, for the number of
    independent trials whose proportion would have the same variance as the mean. The lowest number counts twice for the
    lower end, and the highest for the upper end, because a sample can lack rare values that determine the mean of a
    skewed distribution. The interval of a single number is [0, 1].
    """
    if len(values) == 0:
        return exact(math.nan)
    if len(values) == 1:
        return Estimate(values.item(), 0.0, 1.0, images=1)
    values = values.double()
    low, high = (_mean_interval(torch.cat([values, extreme[None]])) for extreme in values.aminmax())
    middle = values.mean().item()
    return Estimate(middle, min(low.low, middle), max(high.high, middle), images=len(values))


def _mean_interval(values: Tensor) -> Estimate:
    from scipy.special import stdtrit

    middle, variance = values.mean().item(), values.var().item()
    effective = len(values) * middle * (1 - middle) / variance if variance > 0 else len(values)
    return _wilson(middle * effective, effective, z=float(stdtrit(len(values) - 1, 0.975)))


def calibration_error(confidence: Tensor, correct: Tensor) -> Estimate:
    """Return the expected calibration error over equal-mass bins (Nguyen and O'Connor, 2015, arXiv 1508.05154).

    The error is the sum over the bins of the absolute difference of mean confidence and accuracy, weighted by the bin's
    share of the images. Sampling changes it by at most the sum of the absolute sampling errors of the bins. The
    interval extends to both sides by the 97.5 % quantile of that sum, in a normal approximation. The error is NaN if
    there are no images.

    Args:
        confidence: probability of the predicted class, float32 [N].
        correct: whether the prediction is correct, bool [N].
    """
    count = len(confidence)
    if count == 0:
        return exact(math.nan)
    confidence, correct = confidence.double(), correct.double()
    value, variances = 0.0, []
    for indices in confidence.argsort(stable=True).tensor_split(CALIBRATION_BINS):
        if len(indices) == 0:
            continue
        claimed, excess = confidence[indices], confidence[indices] - correct[indices]
        value += abs(excess.sum().item()) / count
        # The sample variance of a bin without mistakes is too small: use at least the variance of a calibrated model.
        variance = max(excess.var(unbiased=False).item(), (claimed * (1 - claimed)).mean().item())
        variances.append(variance * len(indices) / count**2)
    expected = math.sqrt(2 / math.pi) * sum(map(math.sqrt, variances))
    half = expected + Z * math.sqrt((1 - 2 / math.pi) * sum(variances))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), images=count)


# ---- Sample sizes ----------------------------------------------------------------------------------------------------


def images_to_decide(figure: Estimate, bound: float) -> int | None:
    """Return about how many images are needed to decide whether a value is beyond its bound (two significant digits).

    The width of an interval is inversely proportional to the square root of the number of images. Return None if no
    number of images is sufficient, or only an unrealistic number.
    """
    distance = abs(figure.value - bound)
    half = figure.value - figure.low if figure.value > bound else figure.high - figure.value
    if distance == 0 or not figure.images or not math.isfinite(half):
        return None
    needed = float(f"{figure.images * max(1.1, (half / distance) ** 2):.1e}")
    return int(needed) if needed <= MAX_IMAGES_TO_DECIDE else None
