"""Test the confidence intervals against SciPy, published examples and their coverage."""

import dataclasses
import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import confidences, generator

from mnist import metrics
from mnist.gate import intervals
from mnist.gate.intervals import calibration_error

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.integers(1, 10_000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda lost: st.tuples(st.just(lost), st.integers(0, n - lost), st.just(n)))
)


def bounds(estimate: intervals.Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


@given(counts)
def test_proportion_equals_scipy_wilson_interval(count):
    expected = stats.binomtest(*count).proportion_ci(method="wilson")
    assert bounds(intervals.proportion(*count)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts)
def test_proportion_grows_with_successes(count):
    successes, n = count
    if successes < n:
        less, more = intervals.proportion(successes, n), intervals.proportion(successes + 1, n)
        assert all(getattr(more, part) >= getattr(less, part) for part in ("value", "low", "high"))


@given(counts, counts)
def test_interval_contains_its_figure(first, second):
    share, other = intervals.proportion(*first), intervals.proportion(*second)
    for estimate in (share, intervals.difference(share, other)):
        assert estimate.low <= estimate.value <= estimate.high


@given(pairs)
def test_paired_difference_is_antisymmetric(pair):
    """The interval contains the figure and lies within [-1, 1]."""
    lost, gained, count = pair
    one, other = intervals.paired_difference(lost, gained, count), intervals.paired_difference(gained, lost, count)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert (one.value, *bounds(one)) == pytest.approx((-other.value, -other.high, -other.low))


def test_difference_equals_newcombe_example():
    difference = intervals.difference(intervals.proportion(56, 70), intervals.proportion(48, 80))
    assert difference.value == pytest.approx(0.2)
    assert bounds(difference) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.2), (0.1, 0.1), (0.05, 0.4)])
def test_paired_difference_covers_95_percent(p, q):
    count = 40
    covered = 0.0
    for lost, gained in product(range(count + 1), repeat=2):
        if lost + gained <= count:
            estimate = intervals.paired_difference(lost, gained, count)
            if estimate.low <= p - q <= estimate.high:
                covered += stats.multinomial.pmf([lost, gained, count - lost - gained], count, [p, q, 1 - p - q])
    assert 0.93 < covered < 0.98


def test_mean_equals_scipy_normal_interval():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0))
    expected = stats.norm.interval(0.95, values.mean().item(), stats.sem(values.double().numpy()))
    assert bounds(intervals.mean(values)) == pytest.approx(expected)


def test_estimate_of_one_number_and_of_none():
    """One number has the interval [0, 1]; without numbers everything is NaN."""
    assert dataclasses.astuple(intervals.mean(torch.tensor([0.5]))) == (0.5, 0.0, 1.0, "")
    nothing = (intervals.mean(torch.tensor([])), intervals.proportion(0, 0), intervals.paired_difference(0, 0, 0))
    assert all(math.isnan(part) for estimate in nothing for part in (estimate.value, estimate.low, estimate.high))


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_mcnemar_equals_scipy_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert intervals.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-6)


@given(confidences())
def test_calibration_error_is_the_mean_gap_of_the_bins(pair):
    bins = metrics.calibration_bins(*pair)
    expected = ((bins[:, 0] - bins[:, 1]).abs() * bins[:, 2]).sum() / bins[:, 2].sum()
    error = calibration_error(*pair, generator(0))
    assert error.value == pytest.approx(expected.item())
    assert 0 <= error.low <= error.value <= error.high


def test_calibration_error_detects_overconfidence():
    confidence = torch.rand(20_000, generator=generator(0))
    correct = torch.rand(20_000, generator=generator(1)) < confidence
    assert calibration_error(confidence, correct, generator(2)).high < 0.03
    overconfident = calibration_error(torch.ones(20_000), correct, generator(2))
    assert overconfident.value == pytest.approx(0.5, abs=0.02)
    assert 0 < overconfident.high - overconfident.low < 0.03


def test_calibration_error_of_no_images_is_nan():
    nothing = torch.tensor([]), torch.tensor([], dtype=torch.bool)
    assert math.isnan(calibration_error(*nothing, generator(0)).value)
    assert len(metrics.calibration_bins(*nothing)) == 0
