"""Test the confidence intervals against SciPy, slow formulas, published examples and their coverage."""

import dataclasses
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import confidences, generator

from mnist import metrics
from mnist.gate import intervals
from mnist.gate.intervals import Estimate, calibration_error

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.integers(1, 10_000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda lost: st.tuples(st.just(lost), st.integers(0, n - lost), st.just(n)))
)
families = st.lists(counts, min_size=1, max_size=10).map(
    lambda rows: [(*row, f"digit {number}") for number, row in enumerate(rows)]
)


def bounds(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def covers(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


def wilson(share: float, count: float, z: float) -> list[float]:
    """Return the two proportions whose distance from the share is z standard errors."""
    quadratic = [1 + z**2 / count, -2 * share - z**2 / count, share**2]
    return sorted(np.clip(np.roots(quadratic).real, 0, 1))


# ---- Proportions -----------------------------------------------------------------------------------------------------


@given(counts)
def test_proportion_equals_scipy_wilson_interval(count):
    expected = stats.binomtest(*count).proportion_ci(method="wilson")
    assert intervals.proportion(*count).images == count[1]
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


@given(families)
def test_lowest_of_widens_only_the_upper_ends(family):
    for estimate, count in zip(intervals.lowest_of(family), family, strict=True):
        alone = intervals.proportion(*count)
        assert (estimate.value, estimate.low, estimate.what) == (alone.value, alone.low, alone.what)
        exact = stats.binomtest(*count[:2]).proportion_ci(1 - 0.05 / len(family), method="exact")
        wilson = stats.binomtest(*count[:2]).proportion_ci(1 - 0.05 / len(family), method="wilson")
        assert min(exact.high, wilson.high) - 1e-9 <= estimate.high <= max(exact.high, wilson.high) + 1e-9


@given(families, st.integers(1, 20))
def test_highest_of_mirrors_lowest_of(family, factor):
    """It is the lowest share of failures, seen from the other side; more tests widen the lower ends further."""
    failures = [(count - successes, count, what) for successes, count, what in family]
    highest, lowest = intervals.highest_of(family), intervals.lowest_of(failures)
    for one, other in zip(highest, lowest, strict=True):
        assert (one.value, *bounds(one)) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low), abs=1e-9)
    selected = intervals.highest_of(family, tests=len(family) * factor)
    assert all(more.low <= one.low and more.high == one.high for one, more in zip(highest, selected, strict=True))


@pytest.mark.parametrize("count", [90, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_lowest_of_rarely_errs(count, share):
    """The probabilities that the lowest figure passes or blocks at the truth are at most about 2.5 %.

    For a false block, ten equal proportions are the worst case; for a false pass, a single low one is.
    """
    estimates = [intervals.lowest_of([(k, count, "")] * 10)[0] for k in range(count + 1)]
    below = sum(estimate.high < share for estimate in estimates)  # numbers of successes from 0 up
    above = sum(estimate.low > share for estimate in estimates)  # numbers of successes from the count down
    assert 1 - (1 - stats.binom.cdf(below - 1, count, share)) ** 10 < 0.026
    assert stats.binom.sf(count - above, count, share) < 0.04


def test_lower_end_of_spread_is_the_largest_of_all_pairs():
    family = [(990, 1000, "digit 0"), (950, 1000, "digit 1"), (800, 1000, "digit 2"), (9, 10, "digit 3")]
    exact = [stats.binomtest(*each[:2]).proportion_ci(1 - 0.05 / len(family), method="exact") for each in family]
    expected = max(first.low - second.high for first, second in product(exact, repeat=2))
    assert expected > 0.1
    assert intervals.spread(family).low == pytest.approx(expected, abs=1e-3)


def test_spread_equals_a_search_over_all_pairs():
    family = [(90, 100, "digit 0"), (99, 100, "digit 1"), (480, 500, "digit 2"), (9, 10, "digit 3")]
    found = intervals.spread(family)
    shares = {what: successes / count for successes, count, what in family}
    gaps = {(a, b): shares[a] - shares[b] for a, b in product(shares, repeat=2)}
    best, worst = max(gaps, key=gaps.get)
    assert found.value == pytest.approx(gaps[best, worst])
    assert found.what == f"{best} minus {worst.removeprefix('digit ')}"
    newcombe = [
        intervals.difference(intervals.proportion(*first), intervals.proportion(*second)).high
        for first, second in product(family, repeat=2)
    ]
    assert found.high == pytest.approx(max(newcombe))
    assert 0 <= found.low < found.value
    assert found.images == 710


@given(families)
def test_spread_contains_its_figure(family):
    found = intervals.spread(family)
    assert 0 <= found.low <= found.value <= found.high + 1e-12
    assert found == intervals.spread(family[::-1]) or found.value == pytest.approx(intervals.spread(family[::-1]).value)


@pytest.mark.parametrize("shares", [[0.97] * 10, [0.5] * 10, [0.99] * 9 + [0.9]], ids=["equal", "half", "one low"])
def test_spread_covers_the_truth_at_least_95_percent(shares):
    draws = np.random.default_rng(0).binomial(100, shares, size=(200, 10)).tolist()
    spreads = [intervals.spread([(successes, 100, "") for successes in draw]) for draw in draws]
    assert sum(covers(spread, max(shares) - min(shares)) for spread in spreads) >= 188


def test_spread_without_images_of_a_class_is_nan():
    few, nothing, many = (3, 5, "digit 0"), (0, 0, "digit 1"), (5, 5, "digit 2")
    for family in ([], [nothing], [nothing, many], [few, nothing, many], [many, few, nothing]):
        found = intervals.spread(family)
        assert all(math.isnan(part) for part in (found.value, *bounds(found)))


def test_difference_equals_newcombe_example():
    difference = intervals.difference(intervals.proportion(56, 70), intervals.proportion(48, 80))
    assert difference.value == pytest.approx(0.2)
    assert bounds(difference) == pytest.approx((0.0524, 0.3339), abs=5e-5)


# ---- Correlated trials -----------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=200, max_size=400))
def test_clustered_proportion_of_single_trials_is_wilson(trials):
    successes = torch.tensor(trials).long()
    found = intervals.clustered_proportion(successes, torch.ones_like(successes))
    expected = intervals.proportion(sum(trials), len(trials))
    assert found.value == expected.value
    assert bounds(found) == pytest.approx(bounds(expected), abs=2e-3)


@given(seed=st.integers(0, 99), repeats=st.integers(2, 8))
def test_clustered_proportion_gains_nothing_from_repeated_trials(seed, repeats):
    """If all trials of a group agree, a group counts as one trial, and groups without trials do not count."""
    successes = (torch.rand(300, generator=generator(seed)) < 0.9).long()
    once = intervals.clustered_proportion(successes, torch.ones_like(successes))
    empty = torch.zeros(50).long()
    many = torch.cat([successes * repeats, empty]), torch.cat([torch.full((300,), repeats), empty])
    assert bounds(intervals.clustered_proportion(*many)) == pytest.approx(bounds(once), abs=1e-9)


def test_clustered_proportion_of_independent_trials_counts_each():
    trials = (torch.rand(2000, 5, generator=generator(0)) < 0.8).long()
    found = intervals.clustered_proportion(trials.sum(1), torch.full((2000,), 5))
    independent, grouped = (intervals.proportion(round(found.value * n), n) for n in (10_000, 2000))
    assert found.high - found.low == pytest.approx(independent.high - independent.low, rel=0.05)
    assert found.high - found.low < 0.5 * (grouped.high - grouped.low)
    assert found.images == 10_000


def test_clustered_proportion_covers_95_percent():
    """Each group of 1 to 5 trials has its own probability of success, with a mean of 0.8."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        trials = rng.integers(1, 6, 200)
        successes = rng.binomial(trials, rng.beta(1.6, 0.4, 200))
        covered += covers(intervals.clustered_proportion(*map(torch.from_numpy, (successes, trials))), 0.8)
    assert 273 <= covered <= 297


@pytest.mark.parametrize(
    ("successes", "trials"),
    [
        ([3, 0, 2, 5], [5, 1, 2, 5]),
        ([1, 1, 0], [1, 2, 3]),
        ([2], [4]),
        ([3, 1], [4, 5]),
        ([0, 0], [3, 1]),
        ([2, 2], [2, 2]),
    ],
)
def test_clustered_proportion_equals_a_slow_formula(successes, trials):
    total, groups = sum(trials), len(trials)
    share = sum(successes) / total
    deviations = sum((k - share * n) ** 2 for k, n in zip(successes, trials, strict=True))
    variance = deviations / total**2 * (groups / (groups - 1) if groups > 1 else 1)
    effective = min(total, share * (1 - share) / variance) if variance > 0 else groups
    found = intervals.clustered_proportion(torch.tensor(successes), torch.tensor(trials), "what")
    assert bounds(found) == pytest.approx(wilson(share, effective, stats.norm.ppf(0.975)), abs=1e-9)
    assert (found.value, found.what, found.images) == (share, "what", total)


def test_clustered_proportion_without_trials_is_nan():
    assert math.isnan(intervals.clustered_proportion(torch.zeros(3), torch.zeros(3)).low)


# ---- Paired data -----------------------------------------------------------------------------------------------------


@given(pairs)
def test_paired_difference_is_antisymmetric(pair):
    """The interval contains the figure and lies within [-1, 1]."""
    lost, gained, count = pair
    one, other = intervals.paired_difference(lost, gained, count), intervals.paired_difference(gained, lost, count)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert (one.value, *bounds(one)) == pytest.approx((-other.value, -other.high, -other.low))


@given(lost=st.integers(0, 60), gained=st.integers(0, 60), same=st.integers(1, 400), tests=st.sampled_from([1, 2, 10]))
def test_paired_difference_equals_a_slow_formula(lost, gained, same, tests):
    """The interval is that of a mean of -1, 0 and 1, after one image lost and one gained are added.

    If the highest of several differences is judged, the lower end has Bonferroni's correction.
    """
    effects = np.repeat([1.0, -1.0, 0.0], [lost + 1, gained + 1, same])
    error = math.sqrt(effects.var() / len(effects))
    low = max(-1, effects.mean() - stats.norm.ppf(1 - 0.025 / tests) * error)
    high = min(1, effects.mean() + stats.norm.ppf(0.975) * error)
    found = intervals.paired_difference(lost, gained, lost + gained + same, tests=tests)
    assert bounds(found) == pytest.approx((min(low, found.value), max(high, found.value)))
    assert (found.value, found.images) == ((lost - gained) / found.images, lost + gained + same)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.2), (0.1, 0.1), (0.05, 0.4)])
def test_paired_difference_covers_95_percent(p, q):
    count = 40
    covered = 0.0
    for lost, gained in product(range(count + 1), repeat=2):
        if lost + gained <= count and covers(intervals.paired_difference(lost, gained, count), p - q):
            covered += stats.multinomial.pmf([lost, gained, count - lost - gained], count, [p, q, 1 - p - q])
    assert 0.93 < covered < 0.98


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_mcnemar_equals_scipy_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert intervals.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-6)


# ---- Confidences -----------------------------------------------------------------------------------------------------

fractions = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50).map(torch.tensor)


def test_mean_of_many_numbers_is_close_to_scipy_t_interval():
    values = torch.rand(2000, generator=generator(0))
    expected = stats.t.interval(0.95, 1999, values.double().mean().item(), stats.sem(values.double().numpy()))
    assert bounds(intervals.mean(values)) == pytest.approx(expected, abs=1e-3)


@given(fractions)
def test_mean_interval_contains_its_figure_within_0_and_1(values):
    found = intervals.mean(values)
    assert found.value == pytest.approx(values.double().mean().item())
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.images == len(values)


@pytest.mark.parametrize(
    ("count", "share"), [(10, 1.0), (100, 1.0), (100, 0.1)], ids=["ten", "many", "mostly close to 1"]
)
def test_mean_covers_the_truth_at_least_93_percent(count, share):
    """A share of the numbers is uniform, as the confidences of mistakes; the others are 0.99."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random((400, count)) < share, rng.random((400, count)), 0.99)
    truth = share * 0.5 + (1 - share) * 0.99
    assert sum(covers(intervals.mean(row), truth) for row in torch.from_numpy(values)) >= 372


@pytest.mark.parametrize(
    "values",
    [[0.2, 0.9, 0.4], [0.99] * 20 + [0.3], [1.0, 1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.75]],
    ids=lambda values: f"{len(values)} from {values[0]}",
)
def test_mean_interval_equals_a_slow_formula(values):
    """An end is that of a Wilson interval for the numbers and one more extreme, with a quantile of Student's t."""
    ends = []
    for end, extreme in enumerate((min(values), max(values))):
        longer = np.array([*values, extreme])
        n, middle, variance = len(longer), longer.mean(), longer.var(ddof=1)
        effective = n * middle * (1 - middle) / variance if variance > 0 else n
        ends.append(wilson(middle, effective, stats.t.ppf(0.975, n - 1))[end])
    middle = np.mean(values)
    found = intervals.mean(torch.tensor(values, dtype=torch.float64))
    assert bounds(found) == pytest.approx((min(ends[0], middle), max(ends[1], middle)), abs=1e-6)


def test_mean_of_one_number_has_the_widest_interval():
    assert bounds(intervals.mean(torch.tensor([0.5]))) == pytest.approx((0, 1), abs=0.01)


def test_estimates_of_nothing_are_nan():
    nothing = (
        intervals.mean(torch.tensor([])),
        intervals.proportion(0, 0),
        intervals.paired_difference(0, 0, 0),
        *intervals.lowest_of([(0, 0, "")]),
        *intervals.highest_of([(0, 0, "")]),
    )
    assert all(math.isnan(part) for estimate in nothing for part in (estimate.value, estimate.low, estimate.high))
    assert intervals.lowest_of([]) == intervals.highest_of([]) == []


@given(confidences())
def test_calibration_error_is_the_mean_gap_of_the_bins(pair):
    bins = metrics.calibration_bins(*pair)
    expected = ((bins[:, 0] - bins[:, 1]).abs() * bins[:, 2]).sum() / bins[:, 2].sum()
    error = calibration_error(*pair)
    assert error.value == pytest.approx(expected.item())
    assert 0 <= error.low <= error.value <= error.high


def test_calibration_error_detects_overconfidence():
    confidence = torch.rand(20_000, generator=generator(0))
    correct = torch.rand(20_000, generator=generator(1)) < confidence
    assert calibration_error(confidence, correct).high < 0.03
    overconfident = calibration_error(torch.ones(20_000), correct)
    assert overconfident.value == pytest.approx(0.5, abs=0.02)
    assert 0 < overconfident.high - overconfident.low < 0.04


@pytest.mark.parametrize("excess", [0.0, 0.2])
def test_calibration_error_covers_the_truth_95_percent(excess):
    """The true error is how much the confidences exceed the probabilities of a correct prediction."""
    covered = 0
    for seed in range(200):
        confidence = 0.5 + 0.5 * torch.rand(1000, generator=generator(seed))
        correct = torch.rand(1000, generator=generator(seed + 1000)) < confidence - excess
        covered += covers(calibration_error(confidence, correct), excess)
    assert covered >= 188


def test_calibration_interval_is_a_quantile_of_the_sampling_error():
    """The oracle draws the sampling error of each bin from a normal distribution."""
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.uniform(0.5, 1, 3000)).astype(np.float32)
    correct = rng.uniform(size=3000) < confidence
    variances = [(part * (1 - part)).sum() / 3000**2 for part in np.array_split(confidence, metrics.CALIBRATION_BINS)]
    errors = np.abs(rng.normal(0, np.sqrt(variances), (50_000, len(variances)))).sum(1)
    found = intervals.calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found.high - found.value == pytest.approx(np.quantile(errors, 0.975), rel=0.03)


@pytest.mark.parametrize("count", [1, 7, 40, 200])
def test_calibration_error_equals_a_slow_formula(count):
    rng = np.random.default_rng(count)
    confidence = np.sort(rng.uniform(0.3, 1, count))
    correct = rng.uniform(size=count) < confidence - 0.1
    value, variances = 0.0, []
    for indices in filter(len, np.array_split(np.arange(count), 15)):
        claimed, gaps = confidence[indices], confidence[indices] - correct[indices]
        value += abs(gaps.mean()) * len(indices) / count
        variances.append(max(gaps.var(), (claimed * (1 - claimed)).mean()) * len(indices) / count**2)
    # The absolute value of a normal variable has the mean sqrt(2 / pi) and the variance 1 - 2 / pi.
    half = stats.halfnorm.mean() * np.sqrt(variances).sum() + 1.959964 * math.sqrt(
        stats.halfnorm.var() * sum(variances)
    )
    found = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found.value == pytest.approx(value)
    assert bounds(found) == pytest.approx((max(0, value - half), min(1, value + half)), abs=1e-6)
    assert found.images == count


def test_calibration_error_of_no_images_is_nan():
    nothing = torch.tensor([]), torch.tensor([], dtype=torch.bool)
    assert math.isnan(calibration_error(*nothing).value)
    assert len(metrics.calibration_bins(*nothing)) == 0


# ---- Sample sizes ----------------------------------------------------------------------------------------------------


@given(share=st.floats(0.3, 0.97), distance=st.floats(0.002, 0.02), side=st.sampled_from([-1, 1]))
def test_images_to_decide_would_decide(share, distance, side):
    """With somewhat more images and the same share, the figure is decided; with a third, it is not."""
    bound, few = share + side * distance, 2000
    figure = dataclasses.replace(intervals.proportion(share * few, few), images=few)
    needed = intervals.images_to_decide(figure, bound)
    if covers(figure, bound):
        assert needed > few
        assert not covers(intervals.proportion(share * needed * 1.5, needed * 1.5), bound)
        assert covers(intervals.proportion(share * needed / 3, needed / 3), bound)


@pytest.mark.parametrize(
    "figure",
    [
        intervals.exact(0.5),
        Estimate(0.9, 0.8, 0.95, images=100),
        Estimate(0.5, math.nan, math.nan, images=100),
        Estimate(0.5, 0.4, math.nan, images=100),
    ],
)
def test_images_to_decide_is_unknown(figure):
    """No number of images decides an exact figure, or one that is equal to its bound."""
    assert intervals.images_to_decide(figure, 0.9) is None


@pytest.mark.parametrize(("images", "expected"), [(100_000, 10_000_000), (110_000, None), (10, 1_000)])
def test_images_to_decide_has_a_limit(images, expected):
    """A distance of a tenth of the interval needs a hundred times as many images."""
    figure = Estimate(0.5, 0.4, 0.6, images=images)
    for bound in (0.49, 0.51):
        assert intervals.images_to_decide(figure, bound) == expected
