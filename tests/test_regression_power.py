"""Test the simulation of models that are worse than their baseline, and that of the confidence intervals."""

import interval_coverage
import pytest
import regression_power

from mnist.gate.criteria import BY_NAME


def test_simulate_blocks_large_losses_and_no_equal_models():
    blocked, warned, _ = regression_power.simulate(0.0, images=10_000, repetitions=20)
    assert blocked <= 0.1
    assert blocked + warned <= 1
    assert regression_power.simulate(0.02, images=10_000, repetitions=20)[0] == 1


def test_cases_cover_every_criterion_with_an_interval():
    exact = {"contract-violations", "weights-not-finite", "possibly-seen-images", "near-duplicate-images"}
    exact |= {"contradicted-claims", "parameters", "size-on-disk", "latency", "batch-disagreement", "dead-units"}
    exact |= {name for name in BY_NAME if "gradient" in name or "regression" in name}
    assert set(interval_coverage.by_criterion()) == set(BY_NAME) - exact


@pytest.mark.parametrize(
    "criterion", ["accuracy", "digit-accuracy", "corruption-mean", "calibration-error", "digit-loss"]
)
def test_coverage_of_an_interval_is_high(criterion):
    case = interval_coverage.by_criterion()[criterion][0]
    assert interval_coverage.coverage(case, images=300, repetitions=60) >= 0.85


def test_coverage_of_a_wrong_value_is_low():
    case = interval_coverage.Case("accuracy", 0.8, interval_coverage.by_criterion()["accuracy"][0].draw)
    assert interval_coverage.coverage(case, images=300, repetitions=20) < 0.5
