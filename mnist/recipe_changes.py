"""Find how a recipe differs from the predefined recipe of the same name, for model cards and tables."""

import math
from typing import Any

from mnist.recipes import RECIPES, Recipe


def find(recipe: Recipe, training_images: int) -> dict[str, Any]:
    """Return the fields (except the seed) that differ from the predefined recipe of the same name, with their values.

    If there is no such predefined recipe, return only the name.

    Args:
        training_images: number of training images, to which the epochs of the predefined recipe are scaled.
    """
    if recipe.name not in RECIPES:
        return {"name": recipe.name}
    original = RECIPES[recipe.name].scaled_to(training_images)
    fields = [field.name for field in recipe.options() if field.name != "seed"]
    changed = {name: getattr(recipe, name) for name in fields if getattr(recipe, name) != getattr(original, name)}
    if math.isclose(recipe.epochs, original.epochs):
        changed.pop("epochs", None)
    return changed


def describe(recipe: Recipe, training_images: int) -> str:
    """Return the recipe's name with all changes, such as "accurate-1k with epochs 2"."""
    shown = describe_changes(recipe, training_images)
    return f"{recipe.name} with {shown}" if shown else recipe.name


def describe_changes(recipe: Recipe, training_images: int) -> str:
    """Return all changes, such as "epochs 2, batch-size 32", or an empty string if there are none."""
    changed = {name: value for name, value in find(recipe, training_images).items() if name != "name"}
    shown = [
        f"{name.replace('_', '-')} {f'{value:g}' if isinstance(value, float) else value}"
        for name, value in changed.items()
    ]
    return ", ".join(shown)
