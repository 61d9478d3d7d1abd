"""Make sabotaged versions of a good model, and find the gate's criteria that block them."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from samples import save_model
from torch import Tensor, nn

from mnist import architecture, files, gate, recipes, trainer
from mnist.datasets import Dataset, Split
from mnist.datasets.fingerprints import Digests
from mnist.recipes import Recipe
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact, ArtifactError
from mnist.storage.card import ModelCard

REFUSED = "(refused)"  # used in place of a criterion if the weights file cannot be loaded
IMAGES_PER_TRAINING = 60_000  # number of images in all epochs together; each image counts once per epoch


@dataclass(frozen=True)
class Workshop:
    """The good model and the data from which every sabotage starts."""

    model: nn.Module  # a good model, which passes the gate
    data: Dataset  # the data that it was trained and measured on
    images_per_training: int = IMAGES_PER_TRAINING

    @functools.cached_property
    def digests(self) -> Digests:
        """The digests of the training images."""
        return self.data.train.digests

    def train(self, images: Tensor, labels: Tensor, images_seen: int | None = None, **options: Any) -> nn.Module:
        """Train a model with the recipe `standard` on other data.

        Args:
            images: uint8 [N, 1, 28, 28].
            labels: int64 [N].
            images_seen: number of images in all epochs together; by default ``images_per_training``.
            options: hyperparameters that differ from the recipe.
        """
        epochs = (images_seen or self.images_per_training) / len(images)
        return trainer.train(recipes.get("standard", epochs=epochs, **options), images, labels).model


@dataclass(frozen=True, kw_only=True)
class Candidate(Artifact):
    """A model without a file that the gate can judge."""

    path: Path = Path("candidate.pth")
    bytes: int = 60_000  # size of the weights file
    sha256: str = ""
    architecture: str = "cnn"
    model: nn.Module  # type: ignore[assignment]
    card: ModelCard | None = None
    initial: nn.Module | None = None  # the model before training; None: a correctly initialized network
    previous: nn.Module | None = None  # the last release; None: no comparison
    data: Dataset | None = None  # the data to measure the model on; None: those of the workshop

    def initial_model(self) -> nn.Module:  # type: ignore[override]
        """Return ``initial``, or a correctly initialized network."""
        return self.initial or super().initial_model()


def blocked_by(workshop: Workshop, candidate: Candidate) -> set[str]:
    """Return the names of the criteria that block a candidate."""
    baseline, data = None, candidate.data or workshop.data
    if candidate.digests is None:
        candidate = dataclasses.replace(candidate, digests=workshop.digests)
    if candidate.previous:
        baseline = Candidate(model=candidate.previous, digests=workshop.digests)
    evaluation = gate.evaluate(candidate, data, gate.choose_policy(candidate, data), baseline)
    return {verdict.criterion for verdict in gate.blocked(evaluation.verdicts)}


# ---- Sabotage tools --------------------------------------------------------------------------------------------------


class Altered(nn.Module):
    """A model whose logits are those that ``change(model, images)`` returns."""

    def __init__(self, model: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change
        self.eval()  # evaluation mode, like the inner model

    @property
    def views(self) -> int:
        """The number of copies of each image that the original network evaluates."""
        return self.model.views

    def layers(self) -> Sequence[nn.Module]:
        """Return the layers of the original network, whose operations the gate counts."""
        return self.model.layers()

    def forward(self, images: Tensor) -> Tensor:
        """Return the changed logits."""
        return self.change(self.model, images)


def with_weights(model: nn.Module, change: Callable[[dict[str, Tensor]], None]) -> nn.Module:
    """Return a copy of a `cnn` model after ``change`` has modified its state in place."""
    copy = architecture.build("cnn", torch.Generator())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    copy.load_state_dict(state)
    return copy.eval()


def hash_images(images: Tensor) -> Tensor:
    """Return a pseudo-random number in [0, 1) for each image, which depends only on its pixels."""
    return (images.flatten(1).double().sum(1) * 1e4).floor().remainder(997) / 997


def load_damaged(workshop: Workshop, damage: Callable[[bytes], bytes]) -> set[str]:
    """Save the good model, damage its weights file, and load it; return REFUSED in a set if loading fails.

    The checksum in the card detects any damage. Therefore, the file is also loaded without its card, and both attempts
    must fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(workshop.model, Path(folder))
        path.write_bytes(damage(path.read_bytes()))
        for has_card in (True, False):
            if not has_card:
                path.with_suffix(".json").unlink()
            try:
                artifacts.load(path)
            except ArtifactError:
                continue
            return set()
        return {REFUSED}


def make_card(workshop: Workshop) -> ModelCard:
    """Return a truthful card of the good model."""
    recipe = recipes.get("standard").scaled_to(len(workshop.data.train))
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(workshop.model, Path(folder), data=workshop.data, recipe=vars(recipe))
        card = artifacts.load(path).card
    assert card is not None
    return dataclasses.replace(card, bytes=Candidate.bytes)


def train_or_load(path: Path, recipe: Recipe, train: Split) -> Artifact:
    """Load the model of a recipe from its file; if there is no file, train the model and write the file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, artifacts.serialize(trainer.train(recipe, train.images, train.labels).model))
    return artifacts.load(path)


# ---- The registry of sabotages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sabotage:
    """A way to damage a model, its training or its file."""

    name: str
    criterion: str  # the criterion that is meant to block it, or REFUSED
    strengths: Sequence[Any]  # strengths to try, the strongest last
    apply: Callable[[Workshop, Any], Candidate | nn.Module | set[str]]  # a set contains the criteria that block


SABOTAGES: list[Sabotage] = []  # the sabotages of sabotage.py, in their order


def sabotage(name: str, criterion: str, *strengths: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds a function (of a workshop and a strength) to SABOTAGES."""

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        SABOTAGES.append(Sabotage(name, criterion, strengths, apply))
        return apply

    return register


def caught_by(workshop: Workshop, kind: Sabotage, strength: Any) -> set[str]:
    """Return the names of the criteria that block a sabotage of this strength."""
    result = kind.apply(workshop, strength)
    if isinstance(result, set):
        return result
    return blocked_by(workshop, Candidate(model=result) if isinstance(result, nn.Module) else result)
