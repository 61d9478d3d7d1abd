"""Recipes: named, frozen sets of training choices.

Apart from the trainer, and free of torch, so that the command line can offer every field as an option and refuse a bad
value at once.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mnist.errors import MnistError

SCHEDULES = ("constant", "one-cycle")
DEFAULT = "standard"  # name of the recipe that is trained unless another is chosen


class RecipeError(MnistError):
    """A training choice that makes no sense, or a recipe that nobody has written."""


def _choice(default: Any, meaning: str) -> Any:
    """A field with its default and the line that ``mnist train --help`` shows for it."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """Everything a user can choose about a training run. The same recipe on the same machine gives the same weights.

    Raises:
        RecipeError: a value is out of its range.
    """

    name: str
    architecture: str = _choice("cnn", "The network to train.")
    epochs: float = _choice(1.0, "Passes over the training images; the last may be a part of one.")
    batch_size: int = _choice(64, "Images to a step.")
    learning_rate: float = _choice(0.001, "Of Adam: the constant rate, or the peak of the cycle.")
    schedule: str = _choice("constant", f"Of the learning rate: {' or '.join(SCHEDULES)}.")
    warmup: float = _choice(0.3, "Share of a one-cycle's steps in which the learning rate rises.")
    beta1: float = _choice(0.9, "Of Adam: how much of the mean gradient a step keeps.")
    beta2: float = _choice(0.999, "Of Adam: how much of the mean squared gradient a step keeps.")
    weight_decay: float = _choice(0.0, "Of AdamW, on the weights of convolutions and linear layers.")
    label_smoothing: float = _choice(0.0, "Share of the target that is spread evenly over all digits.")
    rotation: float = _choice(15.0, "Augmentation: largest rotation either way, in degrees.")
    translation: float = _choice(0.1, "Augmentation: largest shift either way, as a fraction of the image's side.")
    scaling: float = _choice(0.1, "Augmentation: largest change of size, as a fraction.")
    seed: int = _choice(0, "Of every random draw: initial weights, order of the images, augmentation.")

    def __post_init__(self) -> None:
        self._require("epochs", 0 < self.epochs <= 10**6, "above 0 and at most a million")
        self._require("batch_size", 1 <= self.batch_size <= 10**6, "between 1 and a million")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "a finite number above 0")
        self._require("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        self._require("warmup", 0 < self.warmup < 1, "between 0 and 1")
        self._require("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1")
        self._require("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1")
        self._require("weight_decay", 0 <= self.weight_decay <= 10, "between 0 and 10")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        self._require("rotation", 0 <= self.rotation <= 180, "between 0 and 180 degrees")
        self._require("translation", 0 <= self.translation <= 1, "between 0 and 1")
        self._require("scaling", 0 <= self.scaling < 1, "at least 0 and below 1")
        self._require("seed", 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")

    def _require(self, field: str, holds: bool, expected: str) -> None:
        if not holds:
            raise RecipeError(f"{field.replace('_', '-')} must be {expected}, not {getattr(self, field)}")

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """The fields that a user may override: all but the name."""
        return [field for field in dataclasses.fields(cls) if field.name != "name"]


_ACCURATE = Recipe(
    "accurate",
    architecture="compact-25k",
    epochs=20.0,
    batch_size=128,
    learning_rate=0.01,
    schedule="one-cycle",
    warmup=0.1,
    beta1=0.85,
    beta2=0.95,
    weight_decay=0.05,
    label_smoothing=0.05,
    rotation=10.0,
    translation=0.07,
    scaling=0.1,
)
# What makes a small network better holds a tiny one back: it has nothing to spare.
_ACCURATE_2K = dataclasses.replace(
    _ACCURATE,
    name="accurate-2k",
    architecture="compact-2k",
    batch_size=96,
    learning_rate=0.02,
    weight_decay=0.0,
    label_smoothing=0.0,
    rotation=5.0,
    translation=0.04,
    scaling=0.05,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("baseline"),
        Recipe("standard", learning_rate=0.01, schedule="one-cycle"),
        Recipe(
            "fast",
            architecture="fast",
            epochs=0.4,
            batch_size=80,
            learning_rate=0.015,
            schedule="one-cycle",
            warmup=0.25,
            beta1=0.8,
            beta2=0.95,
            label_smoothing=0.05,
            rotation=0.0,
            translation=0.0,
            scaling=0.0,
        ),
        _ACCURATE,
        dataclasses.replace(
            _ACCURATE, name="accurate-10k", architecture="compact-10k", weight_decay=0.03, label_smoothing=0.04
        ),
        dataclasses.replace(
            _ACCURATE, name="accurate-5k", architecture="compact-5k", weight_decay=0.01, label_smoothing=0.02
        ),
        _ACCURATE_2K,
        dataclasses.replace(_ACCURATE_2K, name="accurate-1k", architecture="compact-1k"),
    )
}


def get(name: str, **overrides: Any) -> Recipe:
    """The recipe of that name, with some of its fields replaced.

    Raises:
        RecipeError: no such recipe, or a value out of range.
    """
    if name not in RECIPES:
        raise RecipeError(f"no recipe is called {name!r} (there are: {', '.join(RECIPES)})")
    return dataclasses.replace(RECIPES[name], **overrides)
