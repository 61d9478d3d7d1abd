"""Rank several models in one table, the worst first."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist.gate import Evaluation, Verdict

SHIP, WARN, BLOCK, UNREADABLE = "ship", "warning", "block", "unreadable"
_WORST_FIRST = (UNREADABLE, BLOCK, WARN, SHIP)


@dataclass(frozen=True)
class Row:
    """The gate's findings about one model. Unknown numbers are NaN."""

    model: str  # path
    decision: str  # SHIP, WARN (ship with a warning), BLOCK or UNREADABLE
    accuracy: float = math.nan
    worst_digit: float = math.nan  # accuracy on the worst digit
    corruption_mean: float = math.nan  # mean accuracy under all corruptions
    parameters: float = math.nan
    kilobytes: float = math.nan  # size on disk
    latency_ms: float = math.nan  # latency for the slowest single image
    blocked_by: tuple[str, ...] = ()  # names of the criteria that block the model
    warnings: tuple[str, ...] = ()  # names of criteria that are undecided or not measurable, but do not block
    problem: str = ""  # why the model cannot be judged
    sha256: str = ""  # SHA-256 of the file, hexadecimal
    description: str = ""  # architecture, or how an ONNX file is read
    report: str = ""  # path of report.html; empty if it could not be written

    @property
    def reason(self) -> str:
        """The reason for blocking the model or for a warning; empty if the model ships without a warning."""
        if self.blocked_by:
            return f"blocked by {', '.join(self.blocked_by)}"
        return f"warnings: {', '.join(self.warnings)}" if self.warnings else self.problem

    @property
    def blocks(self) -> bool:
        """True if the model must not ship."""
        return self.decision in (UNREADABLE, BLOCK)


def describe(evaluation: Evaluation, report: Path | None) -> Row:
    """Return the row for a model that was judged."""
    candidate, verdicts = evaluation.candidate, evaluation.verdicts
    figures = evaluation.figures
    blocked_by = tuple(verdict.criterion for verdict in verdicts if verdict.blocks)
    warnings = tuple(verdict.criterion for verdict in verdicts if not verdict.blocks and not verdict.passes)
    return Row(
        model=str(candidate.path),
        decision=BLOCK if blocked_by else WARN if warnings else SHIP,
        accuracy=figures["accuracy"],
        worst_digit=figures["digit-accuracy"],
        corruption_mean=figures["corruption-mean"],
        parameters=figures["parameters"],
        kilobytes=figures["size-on-disk"],
        latency_ms=figures["latency"],
        blocked_by=blocked_by,
        warnings=warnings,
        sha256=candidate.sha256,
        description=candidate.description,
        report=str(report or ""),
    )


def unreadable(path: Path, problem: str) -> Row:
    """Return the row for a file that cannot be judged."""
    return Row(model=str(path), decision=UNREADABLE, problem=problem)


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by decision, then by accuracy, then by path, the worst first."""

    def key(row: Row) -> tuple[int, float, str]:
        return _WORST_FIRST.index(row.decision), -1.0 if math.isnan(row.accuracy) else row.accuracy, row.model

    return sorted(rows, key=key)


def describe_warnings(verdicts: Sequence[Verdict]) -> str:
    """Describe the criteria that pass with a warning, such as "2 of 29 criteria undecided"; return "" if none does."""
    outcomes = [verdict.outcome.value for verdict in verdicts if not verdict.blocks and not verdict.passes]
    if not outcomes:
        return ""
    return f"{len(outcomes)} of {len(verdicts)} criteria {' or '.join(sorted(set(outcomes), reverse=True))}"
