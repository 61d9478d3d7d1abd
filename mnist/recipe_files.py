"""Read recipes from TOML files, and the measured results of the predefined recipes."""

import dataclasses
import difflib
import json
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist import files, recipes
from mnist.errors import first_line
from mnist.recipes import Recipe, RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE_BYTES = 100_000
RESULTS = Path(__file__).with_name("recipe_results.json")  # written by scripts/seeds.py


@dataclass(frozen=True)
class Result:
    """The test accuracy of a recipe on MNIST, in [0, 1], over several seeds."""

    parameters: int
    seeds: int
    accuracy: float  # mean over the seeds
    lowest: float
    highest: float
    worst_digit: float  # accuracy on each run's worst digit, averaged over the seeds


def get(name: str, **overrides: Any) -> Recipe:
    """Return the recipe with this name, or in the TOML file at this path; ``overrides`` replace its fields.

    Raises:
        RecipeError: if there is no such recipe, the file is missing or is not a recipe, a field is unknown, or a value
            has a wrong type or is out of range.
        OSError: if the file cannot be read.
    """
    return dataclasses.replace(read(Path(name)), **overrides) if is_file(name) else recipes.get(name, **overrides)


def is_file(name: str) -> bool:
    """Return True if a name is the path of a recipe file."""
    return name.endswith(".toml")


def read(path: Path) -> Recipe:
    """Read a TOML file of :class:`Recipe` fields; ``base`` names the recipe that supplies all other values.

    The recipe gets the file's name without the suffix.

    Raises:
        RecipeError: if the file is missing or is not a recipe, a field is unknown, or a value has a wrong type or is
            out of range.
        OSError: if the file cannot be read.
    """
    try:
        values = tomllib.loads(bytes(files.read(path, MAX_RECIPE_BYTES)).decode("utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe at {path}") from None
    except (files.UnreadableError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a recipe: {first_line(error)}") from error
    base = values.pop("base", recipes.DEFAULT)
    hints = typing.get_type_hints(Recipe)
    kinds = {field.name: hints[field.name] for field in Recipe.options()}
    for name, value in values.items():
        if name not in kinds:
            (nearest,) = difflib.get_close_matches(name, ["base", *kinds], n=1, cutoff=0)
            raise RecipeError(f"{path}: there is no field {name!r} (did you mean {nearest!r}?)")
        expected = (int, float) if kinds[name] is float else (kinds[name],)
        if type(value) not in expected:
            raise RecipeError(f"{path}: {name} must be of type {kinds[name].__name__}, not {value!r}")
    try:
        values = {name: kinds[name](value) for name, value in values.items()}
        return dataclasses.replace(recipes.get(str(base)), name=path.stem, **values)
    except (RecipeError, OverflowError) as error:
        raise RecipeError(f"{path}: {error}") from error


def results() -> dict[str, Result]:
    """Return the measured results of the predefined recipes, keyed by the recipe's name."""
    return {name: Result(**values) for name, values in json.loads(RESULTS.read_text(encoding="utf-8")).items()}
