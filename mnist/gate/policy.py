"""The policy: the bound of every criterion, read from gate.toml or another file."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist import architecture as architectures
from mnist import files, recipes
from mnist.datasets import DATASET_NAMES
from mnist.errors import MnistError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mnist.gate.criteria import BY_NAME
from mnist.gate.verdicts import Outcome

POLICY = Path(__file__).with_name("gate.toml")
MAX_POLICY_BYTES = 1_000_000

_GROUPS = {  # groups of sections, applied in this order, with the valid names of their sections
    "architectures": tuple(architectures.ARCHITECTURES),
    "recipes": tuple(recipes.RECIPES),
    "datasets": (*DATASET_NAMES, "folder"),
}
_OUTCOMES = {"block": Outcome.BLOCK, "warn": Outcome.UNDECIDED}


class PolicyError(MnistError):
    """A policy that cannot be read, is incomplete, or contains an unknown name."""


@dataclass(frozen=True)
class Policy:
    """The bound of every criterion, the treatment of undecided values, and the file that contains both."""

    bounds: Mapping[str, float]  # keyed by criterion name
    undecided: Outcome  # BLOCK, or UNDECIDED: pass with a warning
    unmeasurable: Outcome  # the same, for criteria that cannot be measured for a model
    path: Path = POLICY
    sha256: str = ""  # SHA-256 of the file, hexadecimal
    sections: tuple[str, ...] = ()  # those used in addition to the general bounds, such as "architectures.fast"
    notices: tuple[str, ...] = ()  # messages about bounds that were ignored


@dataclass(frozen=True)
class _Section:
    bounds: Mapping[str, float]
    undecided: Outcome | None
    unmeasurable: Outcome | None


def load_policy(
    path: Path = POLICY, *, architecture: str | None = None, recipe: str | None = None, dataset: str | None = None
) -> Policy:
    """Read the policy for an architecture, a recipe and a data set.

    The values of the architecture replace the general values. The values of the recipe can only make these stricter,
    because the recipe is a claim of the model card. The values of the data set replace all others.

    Raises:
        PolicyError: if the file is not valid TOML, lacks a criterion, or contains an unknown name.
    """
    content = _read(path)
    sections = _parse(path, content)
    if missing := [criterion for criterion in BY_NAME if criterion not in sections[""].bounds]:
        raise PolicyError(f"{path} has no bound for {', '.join(missing)}")
    general = sections[""]
    bounds, undecided, unmeasurable, notices = dict(general.bounds), general.undecided, general.unmeasurable, []
    used = [f"architectures.{architecture}", f"recipes.{recipe}", f"datasets.{dataset}"]
    used = [name for name in used if name in sections]
    for name in used:
        section = sections[name]
        for criterion, bound in section.bounds.items():
            if name.startswith("recipes.") and not _is_stricter(criterion, bound, bounds[criterion]):
                notices.append(
                    f"WARNING: {path}, [{name}]: the bound of {criterion} is less strict and is ignored "
                    f"(move it to [architectures.{architecture}])"
                )
            else:
                bounds[criterion] = bound
        outcomes = [section.undecided, section.unmeasurable]
        if name.startswith("recipes.") and Outcome.UNDECIDED in outcomes:
            notices.append(
                f'WARNING: {path}, [{name}]: "warn" is less strict and is ignored '
                f"(move it to [architectures.{architecture}])"
            )
            outcomes = [None if outcome is Outcome.UNDECIDED else outcome for outcome in outcomes]
        undecided, unmeasurable = outcomes[0] or undecided, outcomes[1] or unmeasurable
    digest = hashlib.sha256(content).hexdigest()
    return Policy(
        bounds,
        undecided or Outcome.BLOCK,
        unmeasurable or Outcome.UNDECIDED,
        path,
        sha256=digest,
        sections=tuple(used),
        notices=tuple(notices),
    )


def _read(path: Path) -> bytes:
    try:
        return bytes(files.read(path, MAX_POLICY_BYTES))
    except FileNotFoundError as error:
        raise PolicyError(f"there is no policy at {path}") from error
    except files.UnreadableError as error:
        raise PolicyError(f"{error} (a policy is a .toml file)") from error


def _parse(path: Path, content: bytes) -> dict[str, _Section]:
    """Return the sections, keyed by name; the name of the general section is empty."""
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the TOML parser and the UTF-8 decoder raise them
        raise PolicyError(f"{path} is not a policy: {error}") from error
    sections = {"": _parse_section(path, "", {key: value for key, value in values.items() if key not in _GROUPS})}
    for group, names in _GROUPS.items():
        for name, section in _table(path, group, values.get(group, {})).items():
            if name not in names:
                raise PolicyError(f"{path}: there is no {name!r} among the {group} (available: {', '.join(names)})")
            place = f"{group}.{name}"
            sections[place] = _parse_section(path, place, _table(path, place, section))
    return sections


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{path}: {name} is not a table")
    return value


def _parse_section(path: Path, name: str, section: dict[str, Any]) -> _Section:
    place = f"{path}, [{name}]" if name else f"{path}"
    if unknown := [key for key in section if key not in ("bounds", "undecided", "unmeasurable")]:
        raise PolicyError(f"{place}: unknown key {unknown[0]!r} (known: bounds, undecided, unmeasurable)")
    undecided, unmeasurable = (_parse_outcome(place, section, key) for key in ("undecided", "unmeasurable"))
    rules = _table(path, f"{name}.bounds".lstrip("."), section.get("bounds", {}))
    bounds = {criterion: _parse_bound(place, criterion, rule) for criterion, rule in rules.items()}
    return _Section(bounds, undecided, unmeasurable)


def _parse_outcome(place: str, section: dict[str, Any], key: str) -> Outcome | None:
    value = section.get(key)
    if value is not None and (not isinstance(value, str) or value not in _OUTCOMES):
        raise PolicyError(f"{place}: {key} must be 'block' or 'warn', not {value!r}")
    return None if value is None else _OUTCOMES[value]


def _parse_bound(place: str, criterion: str, rule: Any) -> float:
    if criterion not in BY_NAME:
        raise PolicyError(f"{place}: no criterion is called {criterion!r} (available: {', '.join(BY_NAME)})")
    relation = BY_NAME[criterion].relation
    if not isinstance(rule, dict) or list(rule) != [relation]:
        raise PolicyError(f"{place}: {criterion} must be {{ {relation} = a number }}")
    bound = rule[relation]
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise PolicyError(f"{place}: the bound of {criterion} must be a number, not {bound!r}")
    try:
        BY_NAME[criterion].check_bound(bound)
        return float(bound)
    except (ValueError, OverflowError) as error:
        raise PolicyError(f"{place}: the bound of {criterion} {error}") from error


def _is_stricter(criterion: str, bound: float, than: float) -> bool:
    """Return True if a bound is at least as strict as another."""
    return bound >= than if BY_NAME[criterion].relation == "at_least" else bound <= than
