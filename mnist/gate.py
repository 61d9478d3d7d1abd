"""The decision: criteria with bounds, and for a measured model a verdict on each."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnist.metrics import Measurement

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Criterion:
    """One rule: a figure of the measurement must stand in a relation to a bound.

    form: how figure and bound are shown, as a format specification.
    """

    name: str
    figure: Callable[[Measurement], float]
    relation: str
    bound: float
    form: str
    reason: str

    def judge(self, measurement: Measurement) -> "Verdict":
        figure = self.figure(measurement)
        return Verdict(self, figure, _RELATIONS[self.relation](figure, self.bound))  # NaN is in relation to nothing

    def show(self, figure: float) -> str:
        return format(figure, self.form)


@dataclass(frozen=True)
class Verdict:
    """A criterion, the figure measured, and whether it passes."""

    criterion: Criterion
    figure: float
    passes: bool


# np.min and np.max, unlike min and max, give NaN where any value is NaN.
CRITERIA = (
    Criterion("parameters", lambda m: m.parameters, "<", 25_000, ",.0f", "the budget"),
    Criterion(
        "contract violations",
        lambda m: m.contract_violations,
        "<=",
        0,
        ".0f",
        "10 finite logits an image, in any batch",
    ),
    Criterion("accuracy", lambda m: m.accuracy, ">", 0.95, ".2%", "right on the whole"),
    Criterion("worst digit", lambda m: float(np.min(m.per_digit)), ">=", 0.90, ".2%", "no digit is neglected"),
    Criterion("spread of digits", lambda m: m.spread, "<", 0.10, ".2%", "balanced: best less worst"),
    Criterion("cost of noise", lambda m: m.noise_cost, "<=", 0.10, ".2%", "robust to noise, sigma 0.1"),
    Criterion(
        "weakest gradient",
        lambda m: float(np.min(list(m.gradient_norms.values()))),
        ">=",
        1e-5,
        ".1e",
        "none vanishes",
    ),
    Criterion(
        "strongest gradient",
        lambda m: float(np.max(list(m.gradient_norms.values()))),
        "<=",
        1e2,
        ".1e",
        "none explodes",
    ),
    Criterion("confidence when right", lambda m: m.confidence_right, ">", 0.90, ".2%", "sure of what it knows"),
    Criterion(
        # Without a mistake there is none to be too sure of.
        "confidence when wrong",
        lambda m: m.confidence_wrong if m.mistakes else 0.0,
        "<",
        0.80,
        ".2%",
        "in doubt where it errs",
    ),
)


def judge(measurement: Measurement) -> list[Verdict]:
    """A verdict on every criterion. A figure that could not be measured (NaN) blocks."""
    return [criterion.judge(measurement) for criterion in CRITERIA]
