"""The decision: criteria, the policy that sets their bounds, and for a measured model a verdict on each.

A criterion on sampled figures is judged on their 95 % confidence intervals: wholly within the bound it passes, wholly
beyond it blocks, and across it is undecided: there are too few images to tell.
"""

import enum
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mnist import intervals, metrics, recipes
from mnist.datasets import DIGITS, MAY_BE_OF, NAMED, Dataset, class_name
from mnist.errors import MnistError
from mnist.intervals import Estimate
from mnist.metrics import Measurement
from mnist.storage.artifacts import Artifact

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

POLICY = Path(__file__).with_name("gate.toml")
LARGEST = 1e12  # bound, either side of 0: what is beyond is a mistake

Subject = TypeVar("Subject")


class PolicyError(MnistError):
    """A policy that cannot be read, or that does not say what it must."""


# ---- Against another model -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images: the digits, bool [N], that only the old or only the new one recognized."""

    labels: Tensor
    lost: Tensor
    gained: Tensor
    classes: Sequence[str] = DIGITS


def compare(labels: Tensor, logits: Tensor, previous: Tensor, classes: Sequence[str] = DIGITS) -> Comparison:
    """What changed for images of these labels, int64 [N], between two models' logits, float32 [N, 10].

    Without finite logits of both nothing can be compared, and the comparison is empty.
    """
    if not len(labels) == len(logits) == len(previous) or not torch.cat([logits, previous]).isfinite().all():
        labels, logits, previous = labels[:0], logits[:0], previous[:0]
    now, before = logits.argmax(1) == labels, previous.argmax(1) == labels
    return Comparison(labels, lost=before & ~now, gained=now & ~before, classes=classes)


def _regression(comparison: Comparison, chosen: Tensor, tests: int, what: str = "") -> Estimate:
    """McNemar's p-value where the new model is the worse, times the number of tests (Bonferroni), else 1."""
    lost, gained = int(comparison.lost[chosen].sum()), int(comparison.gained[chosen].sum())
    if not chosen.any():
        return intervals.exact(math.nan, what)
    p = min(1.0, tests * intervals.mcnemar(lost, gained)) if lost > gained else 1.0
    return intervals.exact(p, f"{what}{lost} lost, {gained} gained")


# ---- Criteria --------------------------------------------------------------------------------------------------------


class Outcome(str, enum.Enum):
    """What a figure says of its criterion, from good to bad."""

    PASS = "pass"  # noqa: S105
    UNDECIDED = "undecided"
    BLOCK = "block"


@dataclass(frozen=True)
class Criterion(Generic[Subject]):
    """One rule: every one of its figures is to stand at the right side of a bound, which the policy sets.

    figures: of a measurement or a comparison; none at all means that it could not be measured. relation: at_least or
    at_most. form: how figures and bound are shown, as a format specification.
    """

    name: str
    figures: Callable[[Subject], Sequence[Estimate]]
    relation: str
    form: str
    reason: str

    def judge(self, subject: Subject, bound: float, undecided: Outcome) -> "Verdict":
        """The verdict on the worst of the figures."""
        figures = self.figures(subject) or [intervals.exact(math.nan)]
        outcomes = [self._outcome(figure, bound) for figure in figures]
        worst = max(outcomes, key=list(Outcome).index)
        candidates = [figure for figure, outcome in zip(figures, outcomes, strict=True) if outcome is worst]
        figure = min(candidates, key=self._goodness)
        blocks = worst is Outcome.BLOCK or (worst is Outcome.UNDECIDED and undecided is Outcome.BLOCK)
        return Verdict(self.name, self.relation, bound, figure, worst, blocks, self.form, self.reason)

    def _outcome(self, figure: Estimate, bound: float) -> Outcome:
        if any(map(math.isnan, (figure.value, figure.low, figure.high))):
            return Outcome.BLOCK
        low, high = figure.low - bound, figure.high - bound
        worse, better = (low, high) if self.relation == "at_least" else (-high, -low)
        return Outcome.PASS if worse >= 0 else Outcome.BLOCK if better < 0 else Outcome.UNDECIDED

    def _goodness(self, figure: Estimate) -> float:
        if math.isnan(figure.value):
            return -math.inf
        return figure.low if self.relation == "at_least" else -figure.high


@dataclass(frozen=True)
class Verdict:
    """A criterion, its bound, the figure that decided, and what follows."""

    criterion: str
    relation: str
    bound: float
    figure: Estimate
    outcome: Outcome
    blocks: bool
    form: str
    reason: str

    @property
    def measured(self) -> bool:
        """Whether there is a figure at all."""
        return not math.isnan(self.figure.value)

    @property
    def holds(self) -> bool:
        """Whether the bare figure is within the bound, however few images it comes from."""
        figure, bound = self.figure.value, self.bound
        return figure >= bound if self.relation == "at_least" else figure <= bound

    def show(self, figure: float) -> str:
        """A figure or the bound, as this criterion's figures are shown."""
        return format(figure, self.form)


def _exactly(figure: Callable[[Measurement], float]) -> Callable[[Measurement], list[Estimate]]:
    return lambda measurement: [intervals.exact(figure(measurement))]


def _per_digit(measurement: Measurement) -> list[Estimate]:
    rows = enumerate(measurement.confusion)
    names = measurement.classes
    return [intervals.proportion(row[label], sum(row), class_name(label, names)) for label, row in rows]


def _accuracy(measurement: Measurement) -> Estimate:
    rows = measurement.confusion
    return intervals.proportion(sum(row[digit] for digit, row in enumerate(rows)), sum(map(sum, rows)))


def _digit_spread(measurement: Measurement) -> list[Estimate]:
    digits = _per_digit(measurement)
    if not digits or any(math.isnan(digit.value) for digit in digits):
        return []
    worst, best = (choose(digits, key=lambda digit: digit.value) for choose in (min, max))
    return [intervals.difference(best, worst, f"{best.what} over {worst.what.removeprefix('digit ')}")]


def _under(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Accuracy under each probe of that kind."""
    return lambda measurement: [
        intervals.proportion(probe.right, probe.images, probe.name)
        for probe in measurement.probes
        if probe.kind == kind
    ]


def _under_all(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Accuracy over all probes of that kind together. Their images are taken for independent, and mostly differ."""

    def figures(measurement: Measurement) -> list[Estimate]:
        probes = [probe for probe in measurement.probes if probe.kind == kind]
        return [intervals.proportion(sum(probe.right for probe in probes), sum(probe.images for probe in probes))]

    return figures


def _noise_cost(measurement: Measurement) -> list[Estimate]:
    noise = [probe for probe in measurement.probes if probe.kind == "noise"]
    return [intervals.paired_difference(probe.lost, probe.gained, probe.images) for probe in noise]


def _unseen_advantage(measurement: Measurement) -> list[Estimate]:
    count, right = measurement.seen
    return [intervals.difference(_accuracy(measurement), intervals.proportion(right, count))]


def _confidence_wrong(measurement: Measurement) -> list[Estimate]:
    accuracy = _accuracy(measurement)
    return [intervals.exact(0.0, "no mistake") if accuracy.value == 1 else measurement.confidence_wrong]


def _each(figures: Callable[[Measurement], Mapping[str, float]]) -> Callable[[Measurement], list[Estimate]]:
    return lambda measurement: [intervals.exact(value, name) for name, value in figures(measurement).items()]


def _digit_regressions(comparison: Comparison) -> list[Estimate]:
    digits = comparison.labels.unique().tolist()
    names = [f"{class_name(digit, comparison.classes)}: " for digit in digits]
    return [
        _regression(comparison, comparison.labels == digit, len(digits), name)
        for digit, name in zip(digits, names, strict=True)
    ]


CRITERIA: tuple[Criterion[Measurement], ...] = (
    Criterion(
        "contract-violations",
        lambda m: [intervals.exact(len(m.contract_violations), "; ".join(m.contract_violations[:1]))],
        "at_most",
        ".0f",
        "10 finite logits an image, in any batch",
    ),
    Criterion(
        "weights-not-finite",
        _exactly(lambda m: m.weights_not_finite),
        "at_most",
        ",.0f",
        "one NaN in a weight spoils every answer",
    ),
    Criterion(
        "possibly-seen-images",
        _exactly(lambda m: m.possibly_seen),
        "at_most",
        ",.0f",
        "what was learned by heart says nothing of new images",
    ),
    Criterion("parameters", _exactly(lambda m: m.parameters), "at_most", ",.0f", "the budget is under 25,000"),
    Criterion("size-on-disk", _exactly(lambda m: m.bytes / 1000), "at_most", ",.1f", "kB: small enough for anywhere"),
    Criterion("latency", _exactly(lambda m: m.latency * 1000), "at_most", ".2f", "ms for one image, at the fastest"),
    Criterion("accuracy", lambda m: [_accuracy(m)], "at_least", ".2%", "right on the whole"),
    Criterion("digit-accuracy", _per_digit, "at_least", ".2%", "no digit is neglected"),
    Criterion("digit-spread", _digit_spread, "at_most", ".2%", "balanced: the best digit less the worst"),
    Criterion("unseen-advantage", _unseen_advantage, "at_most", ".2%", "better on new images than on old: it cheats"),
    Criterion("noise-cost", _noise_cost, "at_most", ".2%", "accuracy lost to noise, sigma 0.1, that nobody sees"),
    Criterion("pixel-noise", _under_all("pixel noise"), "at_least", ".2%", "keeps on as noise grows; all strengths"),
    Criterion("shift", _under("shift"), "at_least", ".2%", "a digit two pixels off is the same digit"),
    Criterion("rotation", _under("rotation"), "at_least", ".2%", "and so is one that leans by ten degrees"),
    Criterion("corruption-mean", _under_all("corruption"), "at_least", ".2%", "fifteen ways in which images go bad"),
    Criterion(
        "corruption-worst", _under("corruption"), "at_least", ".2%", "the worst of them: no better than a guess?"
    ),
    Criterion("confidence-right", lambda m: [m.confidence_right], "at_least", ".2%", "sure of what it knows"),
    Criterion("confidence-wrong", _confidence_wrong, "at_most", ".2%", "in doubt where it errs"),
    Criterion("calibration-error", lambda m: [m.calibration_error], "at_most", ".2%", "right as often as it says"),
    Criterion(
        "batch-disagreement",
        _exactly(lambda m: m.batch_disagreement),
        "at_most",
        ".1e",
        "an answer depends on its image alone",
    ),
    Criterion("weakest-gradient", _each(lambda m: m.gradient_norms), "at_least", ".1e", "every weight can still learn"),
    Criterion("strongest-gradient", _each(lambda m: m.gradient_norms), "at_most", ".1e", "and none of them explodes"),
    Criterion(
        "weakest-initial-gradient",
        _each(lambda m: m.initial_gradient_norms),
        "at_least",
        ".1e",
        "every weight could learn at the start",
    ),
    Criterion(
        "strongest-initial-gradient",
        _each(lambda m: m.initial_gradient_norms),
        "at_most",
        ".1e",
        "and none of them exploded",
    ),
    Criterion(
        "dead-units", _each(lambda m: m.dead_units), "at_most", ".0%", "a layer's outputs that never say a thing"
    ),
)

REGRESSIONS: tuple[Criterion[Comparison], ...] = (
    Criterion(
        "regression",
        lambda c: [_regression(c, torch.ones_like(c.lost), tests=1)],
        "at_least",
        ".3f",
        "p-value: worse than the last release by chance?",
    ),
    Criterion("digit-regression", _digit_regressions, "at_least", ".3f", "p-value: on one digit, by chance?"),
)

_RELATIONS = {rule.name: rule.relation for rule in CRITERIA} | {rule.name: rule.relation for rule in REGRESSIONS}


# ---- Policy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """The bound of every criterion, and what an undecided one does: block, or (undecided) pass with a warning."""

    bounds: Mapping[str, float]
    undecided: Outcome


def load_policy(path: Path = POLICY, *, recipe: str | None = None, dataset: str | None = None) -> Policy:
    """What a policy file says of a model of that recipe, measured on that data.

    The general bounds come first; those of the recipe, and then those of the data set, replace what they name.

    Raises:
        PolicyError: it is no TOML, misses a criterion, or names anything that does not exist.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PolicyError(f"there is no policy at {path}") from error
    except (ValueError, RecursionError) as error:  # of TOML, and of UTF-8
        raise PolicyError(f"{path} is no policy: {error}") from error
    known = {"recipes": list(recipes.RECIPES), "datasets": [*NAMED, "folder"]}
    general = {key: value for key, value in content.items() if key not in known}
    sections = {"": general}
    for group, names in known.items():
        for name, section in _table(path, group, content.get(group, {})).items():
            if name not in names:
                raise PolicyError(f"{path}: there is no {name!r} among the {group} (there are: {', '.join(names)})")
            sections[f"{group}.{name}"] = _table(path, f"{group}.{name}", section)
    read = {name: _read_section(path, name, section) for name, section in sections.items()}
    bounds, undecided = dict(read[""][0]), read[""][1]
    if missing := [criterion for criterion in _RELATIONS if criterion not in bounds]:
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
    """The bounds in a section, and what it says of the undecided."""
    place = f"{path}, [{name}]" if name else f"{path}"
    if unknown := [key for key in section if key not in ("bounds", "undecided")]:
        raise PolicyError(f"{place}: nothing is called {unknown[0]!r} there (but bounds and undecided)")
    undecided = section.get("undecided")
    if undecided not in (None, "block", "warn"):
        raise PolicyError(f"{place}: undecided must be 'block' or 'warn', not {undecided!r}")
    bounds = {}
    for criterion, rule in _table(path, "bounds", section.get("bounds", {})).items():
        if criterion not in _RELATIONS:
            raise PolicyError(f"{place}: no criterion is called {criterion!r} (there are: {', '.join(_RELATIONS)})")
        relation = _RELATIONS[criterion]
        if not isinstance(rule, dict) or list(rule) != [relation]:
            raise PolicyError(f"{place}: {criterion} must be {{ {relation} = a number }}")
        bound = rule[relation]
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not -LARGEST <= bound <= LARGEST:
            raise PolicyError(f"{place}: the bound of {criterion} must be a number of at most {LARGEST:g}, not {bound}")
        bounds[criterion] = float(bound)
    return bounds, {None: None, "block": Outcome.BLOCK, "warn": Outcome.UNDECIDED}[undecided]


# ---- The decision ----------------------------------------------------------------------------------------------------


def judge(measurement: Measurement, policy: Policy, comparison: Comparison | None = None) -> list[Verdict]:
    """A verdict on every criterion; on those about a regression where there is another model to compare with."""
    of_model = [rule.judge(measurement, policy.bounds[rule.name], policy.undecided) for rule in CRITERIA]
    if comparison is None:
        return of_model
    return of_model + [rule.judge(comparison, policy.bounds[rule.name], policy.undecided) for rule in REGRESSIONS]


def blocked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts for which the model must not ship."""
    return [verdict for verdict in verdicts if verdict.blocks]


@dataclass(frozen=True)
class Evaluation:
    """A model, what was measured of it, and the verdicts."""

    artifact: Artifact
    measurement: Measurement
    verdicts: Sequence[Verdict]
    comparison: Comparison | None = None  # with the baseline, image by image
    baseline: "Evaluation | None" = None  # on the same images, by the same policy

    @property
    def changed(self) -> list[tuple[Verdict, Verdict]]:
        """The verdicts whose outcome differs from the baseline's: pairs of the baseline's verdict and the new one."""
        if self.baseline is None:
            return []
        before = {verdict.criterion: verdict for verdict in self.baseline.verdicts}
        pairs = [(before[verdict.criterion], verdict) for verdict in self.verdicts if verdict.criterion in before]
        return [(old, new) for old, new in pairs if old.outcome is not new.outcome]


def evaluate(artifact: Artifact, dataset: Dataset, policy: Policy, baseline: Artifact | None = None) -> Evaluation:
    """Measure a model on the test images of ``dataset``, compare it with the baseline if there is one, and judge it.

    The baseline is measured on the same images and judged by the same policy, but not compared with another model.
    """
    before = evaluate(baseline, dataset, policy) if baseline else None
    test = dataset.test
    may_have_seen = bool(artifact.trained_on & MAY_BE_OF.get(dataset.name, set()))
    measurement = metrics.measure(
        artifact.model,
        artifact.initial_model(),
        test,
        dataset.train,
        bytes=artifact.bytes,
        possibly_seen=len(test) if may_have_seen else 0,
    )
    comparison = compare(test.labels, measurement.logits, before.measurement.logits, test.classes) if before else None
    return Evaluation(artifact, measurement, judge(measurement, policy, comparison), comparison, before)
