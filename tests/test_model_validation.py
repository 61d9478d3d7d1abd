"""Judge a model with the gate: one that the tests train, and the newest model in models/ if there is one."""

import dataclasses
from pathlib import Path

import example_pictures
import judged_models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import save_model
from strategies import generator, seeds

from mnist import architecture, datasets, gate, metrics, runs, transforms
from mnist.datasets import Dataset, Split, UnavailableError, overlap
from mnist.gate import CRITERIA, Verdict
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

CHECKOUT = Path(__file__).parent.parent
NEWEST = artifacts.newest(CHECKOUT / "models")


@pytest.fixture(
    scope="session", params=[None, NEWEST] if NEWEST else [None], ids=lambda path: getattr(path, "name", "ours")
)
def candidate(request, tmp_path_factory) -> tuple[Artifact, Dataset]:
    """Return a saved model and the data to evaluate it on; fail if the data are missing."""
    if request.param is None:
        trained, data = (request.getfixturevalue(name) for name in ("trained", "subset"))
        with judged_models.measuring(judged_models.MANY_IMAGES):
            path = save_model(trained.model, tmp_path_factory.mktemp("models"), data=data)
        return artifacts.load(path), data
    artifact = artifacts.load(request.param)
    name = artifact.card.dataset.name if artifact.card else "mnist"
    try:
        return artifact, datasets.load(name, CHECKOUT / "data")
    except UnavailableError:
        pytest.fail(f"{request.param} cannot be evaluated without MNIST in data/ (run: make data)")


@pytest.fixture(scope="session")
def verdicts(candidate) -> dict[str, Verdict]:
    artifact, data = candidate
    policy = gate.choose_policy(artifact, data)
    with judged_models.measuring(judged_models.MANY_IMAGES):
        return {verdict.criterion: verdict for verdict in gate.evaluate(artifact, data, policy).verdicts}


@pytest.mark.parametrize("criterion", [criterion.name for criterion in CRITERIA])
def test_model_meets_criterion(criterion, verdicts):
    assert not verdicts[criterion].blocks, verdicts[criterion]
    assert verdicts[criterion].measured


@pytest.mark.skipif(not NEWEST, reason="there is no model in models/")
def test_newest_model_recognizes_the_example_pictures():
    """Test only the recipe and seed of examples/pictures/expected.json. "Not sure" is allowed on any machine."""
    card = artifacts.load(NEWEST).card
    if not card or (card.dataset.name, card.recipe.name, card.recipe.seed) != ("mnist", "standard", 0):
        pytest.skip("the newest model is not standard, seed 0, trained on MNIST")
    assert example_pictures.check(NEWEST)


def test_candidate_lists_the_images_that_it_was_trained_on(subset, saved_model):
    """Without the list, no test image would count as possibly seen."""
    artifact = artifacts.load(saved_model)
    assert overlap.count_identical(subset.train, artifact.digests) == len(subset.train)
    assert artifact.possibly_seen(subset)[0] == 0


def test_training_on_test_images_fails_possibly_seen_images(subset, monkeypatch):
    """The four images are among thousands of others, and the model is judged on the original data."""
    leaked = [
        torch.cat([getattr(subset.train, part), getattr(subset.test, part)[::250]]) for part in ("images", "labels")
    ]
    dataset = dataclasses.replace(subset, train=Split(*leaked, "with test images"))
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: dataset)
    path = runs.train(runs.Settings(dataset="subset", overrides={"epochs": 0.1}, device="cpu")).path
    artifact = artifacts.load(path)
    verdicts = gate.evaluate(artifact, subset, gate.choose_policy(artifact, subset)).verdicts
    (verdict,) = (verdict for verdict in verdicts if verdict.criterion == "possibly-seen-images")
    assert (verdict.figure.value, verdict.blocks) == (4, True)


def accuracy_under_noise(trained, subset, sigma: float, seed: int) -> float:
    noisy = transforms.add_gaussian_noise(transforms.prepare(subset.test.images), sigma, generator(seed))
    return metrics.accuracy(subset.test.labels, architecture.predict(trained.model, noisy).argmax(1))


@settings(max_examples=15)
@given(sigma=st.floats(0, 0.3), seed=seeds)
def test_noise_up_to_0_3_costs_at_most_five_points(trained, subset, sigma, seed):
    clean = accuracy_under_noise(trained, subset, 0, seed)
    assert accuracy_under_noise(trained, subset, sigma, seed) >= clean - 0.05


@settings(max_examples=15)
@given(sigmas=st.tuples(st.floats(0, 3), st.floats(0, 3)).map(sorted), seed=seeds)
def test_more_noise_gains_at_most_one_point(trained, subset, sigmas, seed):
    less, more = (accuracy_under_noise(trained, subset, sigma, seed) for sigma in sigmas)
    assert more <= less + 0.01


def test_accuracy_under_extreme_noise_is_close_to_chance(trained, subset):
    assert accuracy_under_noise(trained, subset, 30.0, seed=0) < 0.25
