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
    epochs: int = _choice(1, "Passes over the training images.")
    batch_size: int = _choice(64, "Images to a step.")
    learning_rate: float = _choice(0.001, "Of Adam: the constant rate, or the peak of the cycle.")
    schedule: str = _choice("constant", f"Of the learning rate: {' or '.join(SCHEDULES)}.")
    rotation: float = _choice(15.0, "Augmentation: largest rotation either way, in degrees.")
    translation: float = _choice(0.1, "Augmentation: largest shift either way, as a fraction of the image's side.")
    scaling: float = _choice(0.1, "Augmentation: largest change of size, as a fraction.")
    seed: int = _choice(0, "Of every random draw: initial weights, order of the images, augmentation.")

    def __post_init__(self) -> None:
        self._require("epochs", 1 <= self.epochs <= 10**6, "between 1 and a million")
        self._require("batch_size", 1 <= self.batch_size <= 10**6, "between 1 and a million")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "a finite number above 0")
        self._require("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
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


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("baseline"),
        Recipe("standard", learning_rate=0.01, schedule="one-cycle"),
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
