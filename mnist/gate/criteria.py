"""The criteria, and the verdict on each for a measured model."""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from mnist.datasets import class_name
from mnist.gate import intervals
from mnist.gate.comparison import Comparison, regression
from mnist.gate.intervals import Estimate
from mnist.gate.measurement import Measurement

Subject = TypeVar("Subject")


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
    def passes(self) -> bool:
        return self.outcome is Outcome.PASS

    @property
    def measured(self) -> bool:
        return not math.isnan(self.figure.value)

    @property
    def holds(self) -> bool:
        """True if the figure is within the bound, regardless of its confidence interval."""
        figure, bound = self.figure.value, self.bound
        return figure >= bound if self.relation == "at_least" else figure <= bound

    @property
    def figure_text(self) -> str:
        """The figure as it is printed."""
        return self.show(self.figure.value) if self.measured else "not measured"

    @property
    def interval_text(self) -> str:
        """The confidence interval as it is printed; empty if there is none, or if it is a point."""
        low, high = self.figure.low, self.figure.high
        return f"{self.show(low)} to {self.show(high)}" if self.measured and low != high else ""

    @property
    def bound_text(self) -> str:
        """The bound with its relation, as it is printed."""
        return f"{'>=' if self.relation == 'at_least' else '<='} {self.show(self.bound)}"

    def show(self, figure: float) -> str:
        """Format a figure of this criterion."""
        return format(figure, self.form)

    def explain(self) -> str:
        """Explain in one line why the verdict is not a pass."""
        interval = f"({self.interval_text})" if self.interval_text else ""
        figure = " ".join(filter(None, [self.figure_text, interval, self.figure.what]))
        if self.outcome is Outcome.UNDECIDED:
            doubt = "too few images to decide" + ("" if self.blocks else "; the policy lets this pass with a WARNING")
        else:
            doubt = "not met" if self.measured else "not measured"
        return f"{self.criterion}: {figure}, must be {self.bound_text}: {doubt} ({self.reason})"


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
        regression(comparison, comparison.labels == digit, len(digits), name)
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
        lambda c: [regression(c, torch.ones_like(c.lost), tests=1)],
        "at_least",
        ".3f",
        "p-value: worse than the last release by chance?",
    ),
    Criterion("digit-regression", _digit_regressions, "at_least", ".3f", "p-value: on one digit, by chance?"),
)

_RELATIONS = {rule.name: rule.relation for rule in CRITERIA} | {rule.name: rule.relation for rule in REGRESSIONS}
