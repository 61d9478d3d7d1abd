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
def test_the_interval_of_a_share_is_scipys_wilson_interval(count):
    expected = stats.binomtest(*count).proportion_ci(method="wilson")
    assert bounds(intervals.proportion(*count)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts)
def test_one_success_more_is_never_less_of_a_share(count):
    successes, n = count
    if successes < n:
        less, more = intervals.proportion(successes, n), intervals.proportion(successes + 1, n)
        assert all(getattr(more, part) >= getattr(less, part) for part in ("value", "low", "high"))


@given(counts, counts)
def test_every_interval_holds_its_figure(first, second):
    share, other = intervals.proportion(*first), intervals.proportion(*second)
    for estimate in (share, intervals.difference(share, other)):
        assert estimate.low <= estimate.value <= estimate.high


@given(pairs)
def test_the_interval_of_a_paired_difference_holds_it_and_turns_round_with_it(pair):
    lost, gained, count = pair
    one, other = intervals.paired_difference(lost, gained, count), intervals.paired_difference(gained, lost, count)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert (one.value, *bounds(one)) == pytest.approx((-other.value, -other.high, -other.low))


def test_the_interval_of_a_difference_is_that_of_newcombes_example():
    difference = intervals.difference(intervals.proportion(56, 70), intervals.proportion(48, 80))
    assert difference.value == pytest.approx(0.2)
    assert bounds(difference) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.2), (0.1, 0.1), (0.05, 0.4)])
def test_the_interval_of_a_paired_difference_holds_the_truth_about_95_times_in_100(p, q):
    count = 40
    covered = 0.0
    for lost, gained in product(range(count + 1), repeat=2):
        if lost + gained <= count:
            estimate = intervals.paired_difference(lost, gained, count)
            if estimate.low <= p - q <= estimate.high:
                covered += stats.multinomial.pmf([lost, gained, count - lost - gained], count, [p, q, 1 - p - q])
    assert 0.93 < covered < 0.98


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0))
    expected = stats.norm.interval(0.95, values.mean().item(), stats.sem(values.double().numpy()))
    assert bounds(intervals.mean(values)) == pytest.approx(expected)


def test_of_one_number_nothing_is_known_but_that_and_of_none_not_even_that():
    assert dataclasses.astuple(intervals.mean(torch.tensor([0.5]))) == (0.5, 0.0, 1.0, "")
    nothing = (intervals.mean(torch.tensor([])), intervals.proportion(0, 0), intervals.paired_difference(0, 0, 0))
    assert all(math.isnan(part) for estimate in nothing for part in (estimate.value, estimate.low, estimate.high))


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_mcnemars_p_value_is_scipys_of_the_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert intervals.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-6)


@given(confidences())
def test_the_calibration_error_is_the_mean_gap_of_the_bins(pair):
    bins = metrics.calibration_bins(*pair)
    expected = ((bins[:, 0] - bins[:, 1]).abs() * bins[:, 2]).sum() / bins[:, 2].sum()
    error = calibration_error(*pair, generator(0))
    assert error.value == pytest.approx(expected.item())
    assert 0 <= error.low <= error.value <= error.high


def test_the_calibration_error_of_one_who_knows_how_sure_to_be_is_near_0_and_of_a_braggart_is_not():
    confidence = torch.rand(20_000, generator=generator(0))
    right = torch.rand(20_000, generator=generator(1)) < confidence
    assert calibration_error(confidence, right, generator(2)).high < 0.03
    braggart = calibration_error(torch.ones(20_000), right, generator(2))
    assert braggart.value == pytest.approx(0.5, abs=0.02)
    assert 0 < braggart.high - braggart.low < 0.03


def test_of_no_images_there_is_no_calibration():
    nothing = torch.tensor([]), torch.tensor([], dtype=torch.bool)
    assert math.isnan(calibration_error(*nothing, generator(0)).value)
    assert len(metrics.calibration_bins(*nothing)) == 0
