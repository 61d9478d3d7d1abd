"""Recipes: named sets of hyperparameters.

This module does not import torch, so that the command line can offer every field as an option and reject invalid values
without delay.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mnist.errors import MnistError

SCHEDULES = ("constant", "one-cycle")
DEFAULT = "standard"  # name of the recipe that is trained unless another is chosen
MNIST_TRAINING_IMAGES = 60_000  # the epochs of every recipe are chosen for this number of images


class RecipeError(MnistError):
    """A hyperparameter out of range, or an unknown recipe name."""


def _choice(default: Any, meaning: str) -> Any:
    """Return a dataclass field with a default and the help text of its ``mnist train`` option."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    On a CPU, a recipe always gives the same weights if the machine, the number of threads and the data are the same.

    Raises:
        RecipeError: if a value is out of range.
    """

    name: str
    architecture: str = _choice("cnn", "The network to train, or MODULE:CLASS for your own network.")
    epochs: float = _choice(1.0, "Passes over the training images; the last one may be partial.")
    batch_size: int = _choice(64, "Images per training step.")
    learning_rate: float = _choice(0.001, "Learning rate of AdamW: constant, or the peak of a one-cycle schedule.")
    schedule: str = _choice("constant", f"Learning-rate schedule: {' or '.join(SCHEDULES)}.")
    warmup: float = _choice(0.3, "Share of the steps in which the learning rate of a one-cycle schedule rises.")
    beta1: float = _choice(0.9, "Decay rate of Adam's first moment.")
    beta2: float = _choice(0.999, "Decay rate of Adam's second moment.")
    weight_decay: float = _choice(0.0, "Weight decay of AdamW, for the weights of convolutions and linear layers.")
    label_smoothing: float = _choice(0.0, "Share of the target probability that is spread evenly over all classes.")
    rotation: float = _choice(15.0, "Augmentation: largest rotation in either direction, degrees.")
    translation: float = _choice(
        0.1, "Augmentation: largest shift in each direction, as a fraction of the image's side."
    )
    scaling: float = _choice(0.1, "Augmentation: largest change of scale, as a fraction.")
    shear: float = _choice(0.0, "Augmentation: largest shear in either direction, degrees.")
    randomization: float = _choice(
        0.0, "Augmentation: share of the images that domain randomization changes (see mnist/randomization.py)."
    )
    seed: int = _choice(0, "Seed of the initial weights, the order of the images and the augmentation.")

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
        self._require("shear", 0 <= self.shear <= 60, "between 0 and 60 degrees")
        self._require("randomization", 0 <= self.randomization <= 1, "between 0 and 1")
        self._require("seed", 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")

    def _require(self, field: str, holds: bool, expected: str) -> None:
        if not holds:
            raise RecipeError(f"{field.replace('_', '-')} must be {expected}, not {getattr(self, field)}")

    def scaled_to(self, training_images: int) -> "Recipe":
        """Return the recipe with its epochs scaled so that there are about as many steps as on MNIST."""
        return dataclasses.replace(self, epochs=self.epochs * MNIST_TRAINING_IMAGES / training_images)

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """Return the fields that a user may replace: all except the name."""
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
# Regularization improves a small network, but not a tiny one, which underfits.
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
            _ACCURATE,
            name="robust",
            architecture="contrast-25k",
            epochs=25.0,
            weight_decay=0.02,
            label_smoothing=0.03,
            rotation=25.0,
            translation=0.14,
            scaling=0.3,
            shear=17.0,
            randomization=0.65,
        ),
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
    """Return the recipe with this name. ``overrides`` replace its fields.

    Raises:
        RecipeError: if there is no such recipe, or a value is out of range.
    """
    if name not in RECIPES:
        raise RecipeError(f"no recipe is called {name!r} (available: {', '.join(RECIPES)}, or a .toml file)")
    return dataclasses.replace(RECIPES[name], **overrides)
