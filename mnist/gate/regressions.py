"""The criteria for the comparison with a baseline. gate.toml holds their bounds."""

from mnist.gate.comparison import Comparison
from mnist.gate.intervals import Estimate
from mnist.gate.verdicts import P_VALUE_FORM, Criterion, at_least, at_most


def _digit_losses(comparison: Comparison) -> list[Estimate]:
    return [comparison.loss(*each) for each in comparison.digits()]


def _digit_regressions(comparison: Comparison) -> list[Estimate]:
    return [comparison.regression(comparison.digit_margin, *each) for each in comparison.digits()]


REGRESSIONS: tuple[Criterion[Comparison], ...] = (
    at_most(
        "accuracy-loss", lambda c: [c.loss()], ".2%", "accuracy lost since the baseline", only_warns_if_undecided=True
    ),
    at_most(
        "digit-loss", _digit_losses, ".2%", "accuracy lost on a digit since the baseline", only_warns_if_undecided=True
    ),
    at_least(
        "regression",
        lambda c: [c.regression(c.margin)],
        P_VALUE_FORM,
        "p-value: no significant loss beyond the margin of accuracy-loss",
    ),
    at_least(
        "digit-regression",
        _digit_regressions,
        P_VALUE_FORM,
        "p-value: no significant loss on a digit beyond the margin of digit-loss",
    ),
)
