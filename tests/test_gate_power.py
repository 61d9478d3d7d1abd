"""Test that the gate blocks every sabotage by the criterion meant for it, and lets honest models pass."""

import judged_models
import pytest
import torch
from sabotage import SABOTAGES
from workshop import REFUSED, Altered, Candidate, Workshop, blocked_by, caught_by, load_damaged

from mnist import recipes, trainer
from mnist.gate import CRITERIA, REGRESSIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workshop(trained, subset):
    with judged_models.measuring(judged_models.MANY_IMAGES):
        yield Workshop(trained.model, subset, images_per_training=10_000)


def test_good_model_passes(workshop):
    assert blocked_by(workshop, Candidate(model=workshop.model)) == set()


def test_sabotages_cover_the_criteria():
    """`digit-spread` has no sabotage of its own: each one that violates it violates `digit-accuracy`, too."""
    tried = {kind.criterion for kind in SABOTAGES}
    known = {criterion.name for criterion in (*CRITERIA, *REGRESSIONS)}
    assert tried - known == {REFUSED}
    assert known - tried == {"digit-spread"}
    assert len(SABOTAGES) >= 20


@pytest.mark.parametrize("kind", SABOTAGES, ids=lambda kind: kind.name)
def test_sabotage_is_blocked_by_its_criterion(workshop, kind):
    assert kind.criterion in caught_by(workshop, kind, kind.strengths[-1])


def test_honest_model_of_another_seed_passes(workshop, subset):
    recipe = recipes.get("standard", epochs=15, seed=1)
    model = trainer.train(recipe, subset.train.images, subset.train.labels).model
    assert blocked_by(workshop, Candidate(model=model)) == set()


def test_load_damaged_accepts_an_intact_file(workshop):
    assert load_damaged(workshop, lambda content: content) == set()


def test_altered_without_a_change_gives_the_same_logits(workshop):
    images = torch.zeros(3, 1, 28, 28)
    unchanged = Altered(workshop.model, lambda model, images: model(images))
    assert torch.equal(unchanged(images), workshop.model(images))
