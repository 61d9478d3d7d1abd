"""A good model to sabotage, candidates made of it, and what the gate and the loader make of them."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnist import architecture, gate, recipes, trainer
from mnist.datasets import Dataset
from mnist.gate import Policy
from mnist.gate.measurement import predict_split
from mnist.storage import artifacts
from mnist.storage.artifacts import ArtifactError

REFUSED = "(refused)"  # in place of a criterion: the file is not even loaded
TRAINING_IMAGES = 60_000  # images, each as often as it takes


@dataclass(frozen=True)
class Workshop:
    """A good model, the data it was trained for, and the policy that judges."""

    model: nn.Module
    data: Dataset
    policy: Policy

    def train(self, images: Tensor, labels: Tensor, seen: int | None = None, **options: Any) -> nn.Module:
        """A model trained as the recipe ``standard`` says, on other data, or for more or fewer images."""
        recipe = recipes.get("standard", epochs=(seen or TRAINING_IMAGES) / len(images), **options)
        return trainer.train(recipe, images, labels).model


@dataclass(frozen=True)
class Candidate:
    """What the gate is to judge; where not said otherwise, with an initial model and a file size as they should be."""

    model: nn.Module
    initial: nn.Module | None = None
    bytes: int = 60_000
    possibly_seen: int = 0
    previous: nn.Module | None = None


def blocked_by(workshop: Workshop, candidate: Candidate) -> set[str]:
    """The names of the criteria that block it."""
    test, train = workshop.data.test, workshop.data.train
    initial = candidate.initial or architecture.build("cnn", torch.Generator().manual_seed(0))
    measurement = gate.measure(
        candidate.model, initial, test, train, bytes=candidate.bytes, possibly_seen=candidate.possibly_seen
    )
    comparison = None
    if candidate.previous:
        before = predict_split(candidate.previous, test)
        comparison = gate.compare(test.labels, measurement.logits, before)
    return {verdict.criterion for verdict in gate.blocked(gate.judge(measurement, workshop.policy, comparison))}


class Altered(nn.Module):
    """A model whose images and logits are changed: ``change(model, images)`` gives the logits."""

    def __init__(self, model: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.eval()  # as the model is, that is in it

    def forward(self, images: Tensor) -> Tensor:
        """What ``change`` makes of them."""
        return self.change(self.model, images)


def with_weights(model: nn.Module, change: Callable[[dict[str, Tensor]], None]) -> nn.Module:
    """The same network with weights that ``change`` has worked on."""
    copy = architecture.build("cnn", torch.Generator())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    copy.load_state_dict(state)
    return copy.eval()


def pixel_hash(images: Tensor) -> Tensor:
    """A number in [0, 1) for each image that depends on its pixels alone, and on nothing that matters."""
    return (images.flatten(1).double().sum(1) * 1e4).floor().remainder(997) / 997


def load_damaged(shop: Workshop, spoil: Callable[[bytes], bytes]) -> set[str]:
    """What refuses an artifact of the model whose weights file was spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        said = {"recipe": {"architecture": "cnn"}, "dataset": {"name": "mnist"}, "training": {}, "measured": {}}
        path = artifacts.save(shop.model, Path(folder), **said)
        path.write_bytes(spoil(path.read_bytes()))
        card = path.with_suffix(".json")
        for described in (True, False):  # the card, which has the checksum, finds any damage: what if there is none?
            if not described:
                card.unlink()
            try:
                artifacts.load(path)
            except ArtifactError:
                continue
            return set()
        return {REFUSED}


@dataclass(frozen=True)
class Sabotage:
    """A way to spoil a model, the criterion that is to block it, and the strengths to try, the strongest last."""

    name: str
    criterion: str
    strengths: Sequence[Any]
    spoil: Callable[[Workshop, Any], Candidate | set[str]]


SABOTAGES: list[Sabotage] = []


def sabotage(name: str, criterion: str, *strengths: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function of a workshop and a strength, which gives a candidate, a model, or what blocked it."""

    def enter(spoil: Callable[..., Any]) -> Callable[..., Any]:
        SABOTAGES.append(Sabotage(name, criterion, strengths, spoil))
        return spoil

    return enter


def caught_by(workshop: Workshop, kind: Sabotage, strength: Any) -> set[str]:
    """What blocks this sabotage at this strength."""
    spoilt = kind.spoil(workshop, strength)
    if isinstance(spoilt, set):
        return spoilt
    return blocked_by(workshop, Candidate(spoilt) if isinstance(spoilt, nn.Module) else spoilt)
