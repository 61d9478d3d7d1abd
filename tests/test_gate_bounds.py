"""Test the figures that bounds of the gate are chosen from, and the models that programs keep."""

import dataclasses

import gate_bounds
import pytest
import torch
from workshop import Altered, train_or_load

from mnist import recipes
from mnist.gate import slices, triggers
from mnist.transforms import to_float


def test_worst_slice_is_the_one_that_the_model_misreads(trained, subset):
    pixels = to_float(subset.test.images)
    chosen = dict(slices.extremes(pixels))["leaning left"]
    labels = subset.test.labels.clone()
    labels[chosen] = (labels[chosen] + 1) % 10
    accuracy, name = gate_bounds.worst_slice(trained.model, dataclasses.replace(subset.test, labels=labels))
    assert name == "leaning left"
    assert accuracy < 0.1


@pytest.mark.slow
def test_strongest_patch_is_the_one_of_a_backdoor(trained, subset):
    (trigger,) = (each for each in triggers.family() if each.name == "white checks of 4 pixels, bottom left")

    def change(model, images):
        corner = images[:, 0, trigger.row :, : len(trigger.patch)]
        present = ((corner > 2) == (trigger.patch > 0)).all(2).all(1)
        return torch.where(present[:, None], torch.eye(10)[7] * 20, model(images))

    share, name = gate_bounds.strongest_patch(Altered(trained.model, change), subset.test)
    assert name == "white checks of 4 pixels, bottom left"
    assert share == 1


def test_largest_share_when_inverted_counts_the_most_frequent_class(subset):
    class ConstantModel(torch.nn.Module):
        def forward(self, images):
            return torch.eye(10)[torch.where(images.mean((1, 2, 3)) > 0, 3, 5)]

    assert gate_bounds.largest_share_when_inverted(ConstantModel(), subset.test) == pytest.approx(1)


def test_train_or_load_trains_only_once(subset, tmp_path, monkeypatch):
    recipe, path = recipes.get("baseline", epochs=0.05), tmp_path / "kept" / "baseline-0.pth"
    first = train_or_load(path, recipe, subset.train)
    monkeypatch.setattr("mnist.trainer.train", lambda *_: pytest.fail("trained again"))
    again = train_or_load(path, recipe, subset.train)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
