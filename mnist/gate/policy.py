"""The policy: the bound of every criterion, read from gate.toml or another file."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist import recipes
from mnist.datasets import DATASET_NAMES
from mnist.errors import MnistError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mnist.gate.criteria import RELATIONS
from mnist.gate.verdicts import Outcome

POLICY = Path(__file__).with_name("gate.toml")
MAX_BOUND = 1e12  # absolute value; a larger bound is a mistake


class PolicyError(MnistError):
    """A policy that cannot be read, or is incomplete, or names something unknown."""


@dataclass(frozen=True)
class Policy:
    """The bound of every criterion, and what happens if the images are too few to decide."""

    bounds: Mapping[str, float]  # by the name of the criterion
    undecided: Outcome  # BLOCK, or UNDECIDED: pass with a warning


def load_policy(path: Path = POLICY, *, recipe: str | None = None, dataset: str | None = None) -> Policy:
    """Read the policy for models of a recipe that are measured on a data set.

    The bounds of the recipe replace general bounds, and those of the data set replace both.

    Raises:
        PolicyError: if the file is not valid TOML, lacks a criterion, or names something unknown.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PolicyError(f"there is no policy at {path}") from error
    except (ValueError, RecursionError) as error:  # from the TOML parser and the UTF-8 decoder
        raise PolicyError(f"{path} is not a policy: {error}") from error
    known = {"recipes": list(recipes.RECIPES), "datasets": [*DATASET_NAMES, "folder"]}
    general = {key: value for key, value in content.items() if key not in known}
    sections = {"": general}
    for group, names in known.items():
        for name, section in _table(path, group, content.get(group, {})).items():
            if name not in names:
                raise PolicyError(f"{path}: there is no {name!r} among the {group} (there are: {', '.join(names)})")
            sections[f"{group}.{name}"] = _table(path, f"{group}.{name}", section)
    read = {name: _read_section(path, name, section) for name, section in sections.items()}
    bounds, undecided = dict(read[""][0]), read[""][1]
    if missing := [criterion for criterion in RELATIONS if criterion not in bounds]:
        raise PolicyError(f"{path} has no bound for {', '.join(missing)}")
    for name in (f"recipes.{recipe}", f"datasets.{dataset}"):
        if name in read:
            bounds.update(read[name][0])
            undecided = read[name][1] or undecided
    return Policy(bounds, undecided or Outcome.BLOCK)


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{path}: {name} is not a table")
    return value


def _read_section(path: Path, name: str, section: dict[str, Any]) -> tuple[dict[str, float], Outcome | None]:
    """Return the bounds of a section, and its setting for undecided criteria, None if it has none."""
    place = f"{path}, [{name}]" if name else f"{path}"
    if unknown := [key for key in section if key not in ("bounds", "undecided")]:
        raise PolicyError(f"{place}: unknown key {unknown[0]!r} (known: bounds, undecided)")
    undecided = section.get("undecided")
    if undecided not in (None, "block", "warn"):
        raise PolicyError(f"{place}: undecided must be 'block' or 'warn', not {undecided!r}")
    bounds = {}
    for criterion, rule in _table(path, "bounds", section.get("bounds", {})).items():
        if criterion not in RELATIONS:
            raise PolicyError(f"{place}: no criterion is called {criterion!r} (there are: {', '.join(RELATIONS)})")
        relation = RELATIONS[criterion]
        if not isinstance(rule, dict) or list(rule) != [relation]:
            raise PolicyError(f"{place}: {criterion} must be {{ {relation} = a number }}")
        bound = rule[relation]
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not -MAX_BOUND <= bound <= MAX_BOUND:
            raise PolicyError(
                f"{place}: the bound of {criterion} must be a number of at most {MAX_BOUND:g}, not {bound}"
            )
        bounds[criterion] = float(bound)
    return bounds, {None: None, "block": Outcome.BLOCK, "warn": Outcome.UNDECIDED}[undecided]
