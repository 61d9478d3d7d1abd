"""Test the recipes and the validation of their values."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist import recipe_changes, recipes
from mnist.recipes import RECIPES, Recipe, RecipeError


def test_baseline_is_adam_with_a_constant_learning_rate():
    assert RECIPES["baseline"] == Recipe(
        name="baseline",
        architecture="cnn",
        epochs=1,
        batch_size=64,
        learning_rate=0.001,
        schedule="constant",
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        label_smoothing=0.0,
        rotation=15.0,
        translation=0.1,
        scaling=0.1,
        shear=0.0,
        randomization=0.0,
        seed=0,
    )


def test_standard_differs_from_baseline_in_the_learning_rate():
    changed = {"name": "standard", "learning_rate": 0.01, "schedule": "one-cycle"}
    assert dataclasses.replace(RECIPES["baseline"], **changed) == RECIPES["standard"]


@given(st.sampled_from(sorted(RECIPES)), st.floats(0.001, 1000), st.integers(0, 2**63 - 1))
def test_get_replaces_the_given_fields_only(name, epochs, seed):
    recipe = recipes.get(name, epochs=epochs, seed=seed)
    assert dataclasses.replace(recipe, epochs=RECIPES[name].epochs, seed=0) == RECIPES[name]
    assert (recipe.epochs, recipe.seed) == (epochs, seed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", 10**400),
        ("epochs", math.nan),
        ("batch_size", 0),
        ("batch_size", 10**7),
        ("learning_rate", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("schedule", "exponential"),
        ("warmup", 0.0),
        ("warmup", 1.0),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("weight_decay", -0.1),
        ("weight_decay", math.inf),
        ("label_smoothing", 1.0),
        ("rotation", -1.0),
        ("rotation", 181.0),
        ("translation", 1.5),
        ("translation", math.nan),
        ("scaling", 1.0),
        ("shear", 61.0),
        ("randomization", 1.1),
        ("randomization", math.nan),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_recipe_rejects_a_value_out_of_range(field, value):
    """The message names the option."""
    with pytest.raises(RecipeError, match=f"^{field.replace('_', '-')} must be .*, not {value}$".replace("+", r"\+")):
        recipes.get("standard", **{field: value})


@given(name=st.sampled_from(sorted(RECIPES)), images=st.integers(100, 10**6), seed=st.integers(0, 2**63 - 1))
def test_scaled_epochs_and_seeds_are_no_changes(name, images, seed):
    scaled = recipes.get(name, seed=seed).scaled_to(images)
    assert recipe_changes.find(scaled, images) == {}
    assert recipe_changes.describe(scaled, images) == name
    assert recipe_changes.find(scaled, 2 * images) == {"epochs": scaled.epochs}


@pytest.mark.parametrize("field", [field.name for field in Recipe.options() if field.name != "seed"])
def test_changes_has_every_field_that_differs(field):
    others = {"architecture": "fast", "schedule": "one-cycle", "batch_size": 32}
    value = others.get(field, 0.25)
    assert recipe_changes.find(recipes.get("baseline", **{field: value}), 60_000) == {field: value}


def test_changes_of_an_unknown_name_is_the_name():
    assert recipe_changes.find(Recipe("mine"), 60_000) == {"name": "mine"}
    assert recipe_changes.describe(Recipe("mine"), 60_000) == "mine"


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("accurate-1k", {}, "accurate-1k"),
        ("accurate-1k", {"epochs": 2.0}, "accurate-1k with epochs 2"),
        ("accurate-1k", {"epochs": 2.0, "seed": 5}, "accurate-1k with epochs 2"),
        ("standard", {"epochs": 0.5, "learning_rate": 0.02}, "standard with epochs 0.5, learning-rate 0.02"),
        ("standard", {"batch_size": 32}, "standard with batch-size 32"),
        ("baseline", {"schedule": "one-cycle"}, "baseline with schedule one-cycle"),
    ],
)
def test_describe_names_all_changes(name, changes, text):
    assert recipe_changes.describe(recipes.get(name, **changes), 60_000) == text


def test_get_rejects_an_unknown_recipe():
    with pytest.raises(
        RecipeError, match=r"no recipe is called 'nope' \(available: baseline, standard, fast, accurate, "
    ):
        recipes.get("nope")
