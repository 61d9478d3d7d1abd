"""Whether a model may ship: on one that the tests train themselves, and on the newest in models/, if there is one."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generator, seeds

from mnist import artifacts, datasets, metrics, transforms
from mnist.architecture import Classifier
from mnist.datasets import NoAnswerError, Split
from mnist.gate import CRITERIA, Criterion

CHECKOUT = Path(__file__).parent.parent


NEWEST = artifacts.newest(CHECKOUT / "models")


@pytest.fixture(
    scope="session", params=[None, NEWEST] if NEWEST else [None], ids=lambda path: getattr(path, "name", "ours")
)
def candidate(request) -> tuple[Classifier, Split]:
    """A model and the images to measure it on; what cannot be measured because they are missing fails."""
    if request.param is None:
        return request.getfixturevalue("trained").model, request.getfixturevalue("subset").test
    artifact = artifacts.load(request.param)
    name = artifact.card.dataset["name"] if artifact.card else "mnist"
    try:
        return artifact.model, datasets.load(name, CHECKOUT / "data").test
    except NoAnswerError:
        pytest.fail(f"{request.param} cannot be judged without MNIST's test set in data/ (make data)")


@pytest.fixture(scope="session")
def measurement(candidate) -> metrics.Measurement:
    return metrics.measure(*candidate, generator(0))


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_the_model_meets(criterion: Criterion, measurement):
    verdict = criterion.judge(measurement)
    figure, bound = criterion.show(verdict.figure), criterion.show(criterion.bound)
    assert verdict.passes, f"{criterion.name}: {figure}, to be {criterion.relation} {bound}, {measurement.measured_on}"


def test_the_criteria_are_those_promised():
    promised = {
        "parameters": ("<", 25_000),
        "contract violations": ("<=", 0),
        "accuracy": (">", 0.95),
        "worst digit": (">=", 0.90),
        "spread of digits": ("<", 0.10),
        "cost of noise": ("<=", 0.10),
        "weakest gradient": (">=", 1e-5),
        "strongest gradient": ("<=", 1e2),
        "confidence when right": (">", 0.90),
        "confidence when wrong": ("<", 0.80),
    }
    assert {criterion.name: (criterion.relation, criterion.bound) for criterion in CRITERIA} == promised


def test_every_parameter_has_a_gradient(candidate, measurement):
    assert set(measurement.gradient_norms) == {name for name, _ in candidate[0].named_parameters()}


def test_measuring_twice_gives_the_same_figures_and_leaves_the_model_as_it_was(candidate, measurement):
    before = [parameter.clone() for parameter in candidate[0].parameters()]
    assert metrics.measure(*candidate, generator(0)) == measurement
    assert all(map(torch.equal, before, candidate[0].parameters()))


def accuracy_under_noise(trained, subset, sigma: float, seed: int) -> float:
    noisy = transforms.add_gaussian_noise(transforms.prepare(subset.test.images), sigma, generator(seed))
    return metrics.accuracy(subset.test.labels, metrics.predict(trained.model, noisy).argmax(1))


@settings(max_examples=15)
@given(sigma=st.floats(0, 0.3), seed=seeds)
def test_noise_of_up_to_three_tenths_costs_at_most_five_points(trained, subset, sigma, seed):
    clean = accuracy_under_noise(trained, subset, 0, seed)
    assert accuracy_under_noise(trained, subset, sigma, seed) >= clean - 0.05


@settings(max_examples=15)
@given(sigmas=st.tuples(st.floats(0, 3), st.floats(0, 3)).map(sorted), seed=seeds)
def test_more_of_the_same_noise_does_not_help_by_more_than_a_point(trained, subset, sigmas, seed):
    less, more = (accuracy_under_noise(trained, subset, sigma, seed) for sigma in sigmas)
    assert more <= less + 0.01


def test_noise_that_drowns_the_digit_leaves_little_more_than_a_guess(trained, subset):
    assert accuracy_under_noise(trained, subset, 30.0, seed=0) < 0.25
