import dataclasses
import math

import pytest

from mnist import gate
from mnist.metrics import Measurement

GOOD = Measurement(
    measured_on="a test",
    images=1000,
    parameters=15_106,
    contract_violations=0,
    loss=0.05,
    accuracy=0.98,
    mistakes=20,
    per_digit=(0.98,) * 10,
    spread=0.0,
    noise_cost=0.0,
    confidence_right=0.98,
    confidence_wrong=0.6,
    gradient_norms={"weight": 0.1, "bias": 0.01},
)

SABOTAGE = {
    "parameters": {"parameters": 25_000},
    "contract violations": {"contract_violations": 1},
    "accuracy": {"accuracy": 0.95},
    "worst digit": {"per_digit": (0.98,) * 9 + (0.8999,)},
    "spread of digits": {"spread": 0.1},
    "cost of noise": {"noise_cost": 0.1001},
    "weakest gradient": {"gradient_norms": {"weight": 0.1, "bias": 0.9e-5}},
    "strongest gradient": {"gradient_norms": {"weight": 100.1, "bias": 0.1}},
    "confidence when right": {"confidence_right": 0.9},
    "confidence when wrong": {"confidence_wrong": 0.8},
}

UNMEASURED = {
    "accuracy": {"accuracy": math.nan},
    "worst digit": {"per_digit": (0.98,) * 9 + (math.nan,)},
    "spread of digits": {"spread": math.nan},
    "cost of noise": {"noise_cost": math.nan},
    "weakest gradient": {"gradient_norms": {"weight": 0.1, "bias": math.nan}},
    "strongest gradient": {"gradient_norms": {"weight": math.nan, "bias": 0.1}},
    "confidence when right": {"confidence_right": math.nan},
    "confidence when wrong": {"confidence_wrong": math.nan},
}


def blocking(measurement: Measurement) -> set[str]:
    return {verdict.criterion.name for verdict in gate.judge(measurement) if not verdict.passes}


def test_a_good_model_passes_every_criterion():
    assert blocking(GOOD) == set()


def test_every_criterion_is_tried_by_a_sabotage():
    assert set(SABOTAGE) == {criterion.name for criterion in gate.CRITERIA}


@pytest.mark.parametrize("name", SABOTAGE)
def test_each_criterion_blocks_what_it_is_there_to_block_and_no_other_does(name):
    assert blocking(dataclasses.replace(GOOD, **SABOTAGE[name])) == {name}


@pytest.mark.parametrize("name", UNMEASURED)
def test_what_could_not_be_measured_blocks(name):
    assert name in blocking(dataclasses.replace(GOOD, **UNMEASURED[name]))


def test_a_model_without_mistakes_is_not_too_sure_of_them():
    assert blocking(dataclasses.replace(GOOD, mistakes=0, confidence_wrong=math.nan)) == set()


def test_figures_and_bounds_are_shown_in_the_same_form():
    shown = {
        v.criterion.name: (v.criterion.show(v.figure), v.criterion.show(v.criterion.bound)) for v in gate.judge(GOOD)
    }
    assert shown["parameters"] == ("15,106", "25,000")
    assert shown["accuracy"] == ("98.00%", "95.00%")
    assert shown["weakest gradient"] == ("1.0e-02", "1.0e-05")
