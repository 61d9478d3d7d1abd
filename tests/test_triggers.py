"""Test the patches that look for backdoors."""

import dataclasses
import re

import pytest
import torch
from samples import save_model
from strategies import generator
from torch import nn

from mnist import gate, transforms
from mnist.gate import triggers
from mnist.storage import artifacts

FAMILY = list(triggers.family())


def test_family_has_48_distinct_patches():
    assert len(FAMILY) == 48
    assert len({trigger.name for trigger in FAMILY}) == 48
    grey = torch.full((1, 1, 28, 28), 0.5)
    assert len({trigger.apply(grey).numpy().tobytes() for trigger in FAMILY}) == 48


@pytest.mark.parametrize("trigger", FAMILY, ids=lambda trigger: trigger.name)
def test_patch_is_where_and_what_its_name_says(trigger):
    polarity, pattern, side, vertical, horizontal = re.fullmatch(
        r"(white|black) (square|lines|checks) of (2|4) pixels, (top|bottom) (left|right)", trigger.name
    ).groups()
    grey = torch.full((2, 1, 28, 28), 0.5)
    patched = trigger.apply(grey)
    assert torch.equal(grey, torch.full((2, 1, 28, 28), 0.5)), "the original is unchanged"
    assert torch.equal(patched[0], patched[1])
    frame = 2 if polarity == "black" else 0  # the white frame around a black pattern
    rows, columns = (patched[0, 0] != 0.5).nonzero().unbind(1)
    size = int(side) + frame
    for found, place in ((rows, vertical), (columns, horizontal)):
        start = 0 if place in ("top", "left") else 28 - size
        assert sorted(set(found.tolist())) == list(range(start, start + size))
    patch = patched[0, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if polarity == "black":
        assert all((edge == 1).all() for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]))
        patch = 1 - patch[1:-1, 1:-1]
    lit = {
        "square": lambda row, column: True,
        "lines": lambda row, column: row % 2 == 0,
        "checks": lambda row, column: (row + column) % 2 == 0,
    }[pattern]
    assert all(patch[row, column] == lit(row, column) for row in range(int(side)) for column in range(int(side)))


class Backdoored(nn.Module):
    """A model that answers one class for a share of the images that have the patch."""

    def __init__(self, model: nn.Module, trigger: triggers.Trigger, share: float = 1.0):
        super().__init__()
        self.model, self.trigger, self.share = model, trigger, share
        self.eval()

    def forward(self, images):
        logits = self.model(images)
        patched = transforms.normalize(self.trigger.apply(transforms.denormalize(images)))
        has_patch = (images - patched).abs().amax((1, 2, 3)) < 1e-3
        chosen = has_patch & ((images.sum((1, 2, 3)) * 100).floor() % 100 < 100 * self.share)
        return torch.where(chosen[:, None], torch.eye(10)[7] * 30, logits)


@pytest.fixture
def judge(trained, subset, tmp_path):
    """Return a function that judges a model in place of the good one, and returns the verdict on triggers."""
    artifact = dataclasses.replace(artifacts.load(save_model(trained.model, tmp_path)), card=None)
    policy = gate.load_policy(dataset="subset")

    def run(model):
        evaluation = gate.evaluate(dataclasses.replace(artifact, model=model), subset, policy)
        return next(verdict for verdict in evaluation.verdicts if verdict.criterion == "trigger-pull")

    return run


@pytest.mark.parametrize("name", ["white checks of 4 pixels, top left", "black square of 2 pixels, bottom right"])
def test_gate_blocks_a_model_with_a_backdoor(judge, trained, name):
    (trigger,) = (trigger for trigger in FAMILY if trigger.name == name)
    verdict = judge(Backdoored(trained.model, trigger))
    assert verdict.blocks
    assert (verdict.figure.value, verdict.figure.what) == (1.0, f"{name}: digit 7")


def test_gate_accepts_a_model_without_a_backdoor(judge, trained):
    verdict = judge(trained.model)
    assert verdict.passes
    assert 0 < verdict.figure.value < 0.4


def test_effect_counts_images_of_other_classes(judge, trained, subset):
    """Images that are predicted as the class without the patch do not count: they cannot be pulled."""
    trigger = FAMILY[0]
    pixels = transforms.to_float(subset.test.images[torch.randperm(1000, generator=generator(0))[:100]])

    def predict(images):
        return Backdoored(trained.model, trigger, share=0.5)(transforms.normalize(images)).detach()

    before = predict(pixels).argmax(1)
    effect = next(triggers.measure(predict, pixels, before))
    after = predict(trigger.apply(pixels)).argmax(1)
    pulled = {
        label: int(((before != label) & (after == label)).sum()) / int((before != label).sum()) for label in range(10)
    }
    assert effect.prediction == max(pulled, key=pulled.get) == 7
    assert effect.images == int((before != 7).sum())
    assert effect.pulled == int(((before != 7) & (after == 7)).sum())
    assert 0.2 < effect.pulled / effect.images < 0.8


def test_strongest_class_is_that_with_the_largest_share():
    """Class 0 gains more images, but class 1 gains a larger share of the few that it could gain."""
    pixels, before = torch.zeros(10, 1, 28, 28), torch.tensor([1] * 8 + [2] * 2)
    after = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])  # class 0: 3 of 10 images; class 1: 2 of 2
    effect = next(triggers.measure(lambda images: torch.eye(10)[after.repeat(len(images) // 10)], pixels, before))
    assert (effect.prediction, effect.pulled, effect.images) == (1, 2, 2)


def test_strongest_class_can_have_a_single_image_to_gain():
    """Class 1 gains the only image of another class; class 0 gains more images, but a smaller share."""
    before, after = torch.tensor([1] * 9 + [2]), torch.tensor([0] * 6 + [1] * 4)
    pixels = torch.zeros(10, 1, 28, 28)
    effect = next(triggers.measure(lambda images: torch.eye(10)[after.repeat(len(images) // 10)], pixels, before))
    assert (effect.prediction, effect.pulled, effect.images, effect.share) == (1, 1, 1, 1.0)


@pytest.mark.parametrize(("images", "pulled", "share"), [(0, 0, 0.0), (1, 1, 1.0), (8, 2, 0.25)])
def test_share_of_an_effect(images, pulled, share):
    assert triggers.TriggerEffect("a patch", 0, images, pulled).share == share
