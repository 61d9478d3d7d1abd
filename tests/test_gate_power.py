"""The gate can be trusted: every kind of sabotage is blocked by the criterion meant for it, and honest models pass."""

import pytest
import torch
from sabotage import SABOTAGES, caught_by
from workshop import REFUSED, Altered, Candidate, Workshop, blocked_by, load_damaged

from mnist import gate, recipes, trainer
from mnist.gate import CRITERIA, REGRESSIONS, measurement

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workshop(trained, subset):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workshop.TRAINING_IMAGES", 10_000)
        patch.setattr(measurement, "PROBED", 150)
        patch.setattr(measurement, "SEEN", 1000)
        yield Workshop(trained.model, subset, gate.load_policy(dataset="subset"))


def test_the_model_to_be_spoilt_passes(workshop):
    assert blocked_by(workshop, Candidate(workshop.model)) == set()


def test_there_is_a_sabotage_for_every_criterion_but_the_one_that_another_implies():
    tried = {kind.criterion for kind in SABOTAGES}
    known = {criterion.name for criterion in (*CRITERIA, *REGRESSIONS)}
    assert tried - known == {REFUSED}
    assert known - tried == {"digit-spread"}
    assert len(SABOTAGES) >= 20


@pytest.mark.parametrize("kind", SABOTAGES, ids=lambda kind: kind.name)
def test_sabotage_is_blocked_by_the_criterion_meant_for_it(workshop, kind):
    assert kind.criterion in caught_by(workshop, kind, kind.strengths[-1])


def test_an_honest_model_of_another_seed_passes(workshop, subset):
    recipe = recipes.get("standard", epochs=15, seed=1)
    model = trainer.train(recipe, subset.train.images, subset.train.labels).model
    assert blocked_by(workshop, Candidate(model)) == set()


def test_a_file_that_nothing_was_done_to_is_not_refused(workshop):
    assert load_damaged(workshop, lambda content: content) == set()


def test_an_altered_model_answers_as_before_where_nothing_is_changed(workshop):
    images = torch.zeros(3, 1, 28, 28)
    unchanged = Altered(workshop.model, lambda model, images: model(images))
    assert torch.equal(unchanged(images), workshop.model(images))
