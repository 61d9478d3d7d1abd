"""Criteria and verdicts: how a measured value, called a figure, is compared with its bound.

A figure with a 95 % confidence interval passes if the whole interval is within the bound, and blocks if the whole
interval is beyond it. Otherwise it is undecided: there are too few images to decide. A figure that cannot be measured
on this kind of model, such as the gradients of an ONNX file, passes with a warning or blocks, depending on the policy.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mnist.gate import intervals
from mnist.gate.intervals import Estimate

P_VALUE_FORM = ".3f"
MAX_BOUND = 1e12  # of figures that are not fractions; a larger bound is a mistake

Subject = TypeVar("Subject")


class Outcome(str, enum.Enum):
    """The result of comparing a figure with its bound, from best to worst."""

    PASS = "pass"  # noqa: S105
    UNMEASURABLE = "not measurable"  # on this kind of model; a measurement that failed is BLOCK
    UNDECIDED = "undecided"
    BLOCK = "block"


@dataclass(frozen=True)
class Criterion(Generic[Subject]):
    """A rule for figures of a measurement or a comparison. The policy sets its bound."""

    name: str
    figures: Callable[[Subject], Sequence[Estimate]]  # an empty sequence: could not be measured
    relation: str  # of every figure to the bound: at_least or at_most
    form: str  # format specification of figures and bound
    reason: str  # what the criterion requires or measures, for messages
    only_warns_if_undecided: bool = False  # even if the policy blocks models with undecided criteria
    needs: str = ""  # what the model must support: GRADIENTS or TRAINING_DATA; empty: nothing
    unit: str = ""  # of figures and bound, unless `form` shows it

    def refuse(self, bound: float, unmeasurable: Outcome) -> "Verdict":
        """Return the verdict on a model that lacks what the criterion needs.

        Args:
            unmeasurable: whether this blocks (BLOCK) or passes with a warning (UNDECIDED).
        """
        figure, blocks = intervals.exact(math.nan, f"without {self.needs}"), unmeasurable is Outcome.BLOCK
        return self._verdict(bound, figure, Outcome.UNMEASURABLE, blocks)

    def judge(self, subject: Subject, bound: float, undecided: Outcome) -> "Verdict":
        """Return the verdict on the worst of the figures.

        Args:
            undecided: whether an undecided figure blocks (BLOCK) or passes with a warning (UNDECIDED).
        """
        undecided = Outcome.UNDECIDED if self.only_warns_if_undecided else undecided
        figures = self.figures(subject) or [intervals.exact(math.nan)]
        outcomes = [self._outcome(figure, bound) for figure in figures]
        worst = max(outcomes, key=list(Outcome).index)
        candidates = [figure for figure, outcome in zip(figures, outcomes, strict=True) if outcome is worst]
        figure = min(candidates, key=self._goodness)
        blocks = worst is Outcome.BLOCK or (worst is Outcome.UNDECIDED and undecided is Outcome.BLOCK)
        return self._verdict(bound, figure, worst, blocks)

    def _verdict(self, bound: float, figure: Estimate, outcome: Outcome, blocks: bool) -> "Verdict":
        return Verdict(self.name, self.relation, bound, figure, outcome, blocks, self.form, self.reason, self.unit)

    def check_bound(self, bound: float) -> None:
        """Check that a figure can meet the bound, and can violate it.

        Raises:
            ValueError: if every figure or no figure meets the bound; the message states the allowed range.
        """
        bound = float(bound)
        is_fraction = "%" in self.form or self.form == P_VALUE_FORM
        limit = 1.0 if is_fraction else MAX_BOUND
        if self.relation == "at_least" and not 0 < bound <= limit:
            raise ValueError(f"must be above 0 and at most {limit:g}, not {bound:g}")
        if self.relation == "at_most" and not (0 <= bound < limit):
            raise ValueError(f"must be at least 0 and below {limit:g}, not {bound:g}")

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
    """The judgement on one criterion."""

    criterion: str  # its name
    relation: str
    bound: float
    figure: Estimate  # the worst figure, which decided
    outcome: Outcome
    blocks: bool  # True: the model must not ship
    form: str
    reason: str
    unit: str = ""

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
    def used(self) -> float:
        """How close the figure is to its bound: at most 1 if it passes, 1 at the bound, NaN if not measured.

        With ``end``, the end of the confidence interval that is closer to violating the bound, this is ``end / bound``
        for an upper bound and ``bound / end`` for a lower bound. For a lower bound on a percentage or a p-value, it is
        ``(1 - end) / (1 - bound)``, the fraction of the allowed distance from 100 %.
        """
        end = self.figure.low if self.relation == "at_least" else self.figure.high
        if self.relation == "at_least" and ("%" in self.form or self.form == P_VALUE_FORM):
            end, allowed = 1 - end, 1 - self.bound
        elif self.relation == "at_least":
            end, allowed = self.bound, end
        else:
            allowed = self.bound
        if math.isnan(end + allowed):
            return math.nan
        return max(0.0, end / allowed) if allowed > 0 else 0.0 if self.passes else math.inf

    @property
    def figure_text(self) -> str:
        """The figure as it is printed."""
        if self.outcome is Outcome.UNMEASURABLE:
            return "not measurable"
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
        """Format a figure with its unit. A positive one that rounds to 0 becomes, for example, "<0.01%"."""
        text = format(figure, self.form)
        if figure < 0 and not text.strip("-0.,%"):
            text = text.removeprefix("-")
        elif figure > 0 and not text.strip("0.,%"):
            text = f"<{text.rstrip('%')[:-1]}1{'%' if text.endswith('%') else ''}"
        return f"{text} {self.unit}" if self.unit else text

    def explain(self) -> str:
        """Explain in one line why the verdict is not a pass."""
        interval = f"({self.interval_text})" if self.interval_text else ""
        figure = " ".join(filter(None, [self.figure_text, interval, self.figure.what]))
        if self.outcome is Outcome.UNDECIDED:
            needed = intervals.images_to_decide(self.figure, self.bound)
            doubt = "too few images to decide" + (f" (about {needed:,} would suffice)" if needed else "")
            doubt += _warning(self.blocks)
        elif self.outcome is Outcome.UNMEASURABLE:
            return f"{self.criterion}: not measurable {self.figure.what}{_warning(self.blocks)} ({self.reason})"
        else:
            doubt = "not met" if self.measured else "not measured"
        return f"{self.criterion}: {figure}, must be {self.bound_text}: {doubt} ({self.reason})"


def _warning(blocks: bool) -> str:
    return "" if blocks else "; this passes with a WARNING"


def at_least(
    name: str, figures: Callable[[Subject], Sequence[Estimate]], form: str, reason: str, needs: str = ""
) -> Criterion[Subject]:
    """Return a criterion whose figures must not be below the bound."""
    return Criterion(name, figures, "at_least", form, reason, needs=needs)


def at_most(
    name: str,
    figures: Callable[[Subject], Sequence[Estimate]],
    form: str,
    reason: str,
    only_warns_if_undecided: bool = False,
    needs: str = "",
    unit: str = "",
) -> Criterion[Subject]:
    """Return a criterion whose figures must not be above the bound."""
    return Criterion(name, figures, "at_most", form, reason, only_warns_if_undecided, needs, unit)
