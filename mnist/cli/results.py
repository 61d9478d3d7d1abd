"""Print the results of commands: tables of models, verdicts and files, and annotations for GitHub Actions."""

import csv
import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist import files, recipe_changes
from mnist.cli import tables
from mnist.cli.display import notify, write, write_json
from mnist.cli.tables import TextTable, table
from mnist.text import one_line

if TYPE_CHECKING:
    from mnist.gate import Comparison, Evaluation, Verdict
    from mnist.gate.ranking import Row
    from mnist.runs import Result
    from mnist.storage.integrity import Finding
    from mnist.storage.registry import Entry


LEAST_INTERVAL_CHARACTERS = 24  # minimum width of the interval column; if there is less space, the column is dropped


def show_training(result: "Result") -> None:
    """Print the accuracy of a trained model, and the time and memory that its training used."""
    from mnist import architecture
    from mnist.datasets import class_name

    recipe, dataset, performance, usage = result.recipe, result.dataset, result.performance, result.usage
    described = recipe_changes.describe(recipe, len(dataset.train) + dataset.validation)
    title = f"Recipe {described}, seed {recipe.seed}"
    rows = table("measured on", performance.measured_on, title=title)
    rows.add_text_row("accuracy", f"{performance.accuracy:.2%}", style="bold")
    for label, accuracy in enumerate(performance.per_digit):
        rows.add_text_row(f"accuracy on {class_name(label, dataset.test.classes)}", f"{accuracy:.2%}")
    rows.add_section()
    rows.add_text_row("trained on", dataset.train.description)
    if result.init:
        rows.add_text_row("starting from", result.init.weights)
    rows.add_text_row("parameters", f"{architecture.count_parameters(result.model):,}")
    rows.add_text_row("training time", f"{usage.seconds:.1f} s for {recipe.epochs:g} epoch{'s' * (recipe.epochs != 1)}")
    rows.add_text_row("speed", f"{usage.images_per_second:,.0f} images/s")
    rows.add_text_row("peak memory", f"{usage.peak_memory / 2**20:,.0f} MiB")
    rows.add_text_row("CPU use", f"{usage.cpu_use:.2f} cores")
    tables.show(rows)


def show_findings(findings: "Sequence[Finding]") -> None:
    """Print a table of checked files, and the problem of each file that is not intact."""
    rows = TextTable()
    for column in ("file", "kind", ""):
        rows.add_text_column(column)
    for finding in findings:
        style = "bold red" if finding.problem else ""
        status = "intact" if not finding.problem else "NOT INTACT" if finding.checked else "NOT CHECKED"
        rows.add_text_row(str(finding.path), finding.kind, status, style=style)
    tables.show(rows)
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        write(_with_path(finding.path, finding.problem))
    write(f"{len(findings) - len(problems)} of {len(findings)} files are intact")


# ---- Verdicts --------------------------------------------------------------------------------------------------------


def show_verdicts(evaluation: "Evaluation") -> None:
    """Print all verdicts, an explanation of each that does not pass, changes since the baseline, and the decision."""
    from mnist.gate import ranking

    verdicts = evaluation.verdicts
    write(f"{evaluation.candidate.path}, measured on: {evaluation.measurement.measured_on}")
    tables.show(table_of_verdicts(verdicts))
    not_passed = [verdict for verdict in verdicts if not verdict.passes]
    for verdict in not_passed:
        write(verdict.explain())
    if evaluation.comparison and evaluation.baseline:
        _show_comparison(evaluation.comparison, evaluation.baseline.candidate.path)
    if blocking := [verdict.criterion for verdict in verdicts if verdict.blocks]:
        write(f"BLOCKED by: {', '.join(blocking)}", bold=True, fg="red")
    elif not_passed:
        write(f"SHIP, with {ranking.describe_warnings(verdicts)}", bold=True, fg="yellow")
    else:
        write(f"SHIP: all {len(verdicts)} criteria pass", bold=True, fg="green")


def table_of_verdicts(verdicts: "Sequence[Verdict]") -> TextTable:
    """Return a table with a row for each verdict; verdicts that do not pass come first."""
    rows = TextTable()
    rows.add_text_column("verdict")
    rows.add_text_column("criterion", whole=True)
    for column in ("measured", "bound"):
        rows.add_text_column(column, justify="right")
    rows.add_text_column("95 % interval, subject", least=LEAST_INTERVAL_CHARACTERS)
    for verdict in sorted(verdicts, key=lambda verdict: verdict.passes):
        rows.add_text_row(
            "BLOCK" if verdict.outcome.value == "block" else verdict.outcome.value,
            verdict.criterion,
            verdict.figure_text,
            verdict.bound_text,
            ", ".join(filter(None, [verdict.interval_text, verdict.figure.what])),
            style="bold red" if verdict.blocks else "" if verdict.passes else "yellow",
        )
    return rows


def show_ranking(rows: "Sequence[Row]", measured_on: str, form: str) -> None:
    """Print a row for each model, as a table, as JSON or as CSV."""
    if form == "json":
        write_json({"measured_on": measured_on, "models": [dataclasses.asdict(row) for row in rows]})
        return
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(rows[0]))
        writer.writerows(map(_values, rows))
        return
    shown = TextTable(title=f"Measured on: {measured_on}")
    shown.add_text_column("verdict", whole=True)
    shown.add_text_column("model")
    for column in ("accuracy", "worst digit"):
        shown.add_text_column(column, justify="right", whole=True)
    for column in ("corrupted", "parameters", "kB", "ms"):
        shown.add_text_column(column, justify="right", whole=True, least=len(column))
    for row in rows:
        percentages = [_or_blank(share, ".2%") for share in (row.accuracy, row.worst_digit, row.corruption_mean)]
        sizes = [_or_blank(row.parameters, ",.0f"), _or_blank(row.kilobytes, ",.1f"), _or_blank(row.latency_ms, ",.2f")]
        style = "bold red" if row.blocks else "yellow" if row.warnings else ""
        shown.add_text_row(row.decision, row.model, *percentages, *sizes, style=style)
    tables.show(shown)
    for row in rows:
        if row.reason:
            write(row.reason if row.problem else f"{row.model}: {row.reason}")
    blocked = sum(row.blocks for row in rows)
    verdict = f"BLOCKED: {blocked} of {len(rows)} models" if blocked else f"SHIP: all {len(rows)} models"
    write(verdict, bold=True, fg="red" if blocked else "green")


def show_differences(first: Path, second: Path, measured_on: str, figures: "Sequence[dict[str, Any]]") -> None:
    """Print the metrics of two models and their differences, as :func:`mnist.report.compare` returns them."""
    write(f"first:  {first}")
    write(f"second: {second}")
    rows = table("", "first", "second", "difference", title=f"Measured on: {measured_on}")
    rows.add_text_column("95 % interval", justify="right", least=LEAST_INTERVAL_CHARACTERS)
    for figure in figures:
        shown = figure["shown"]
        rows.add_text_row(figure["name"], shown["baseline"], shown["new"], shown["difference"], shown["interval"])
    tables.show(rows)


def show_models(entries: "Sequence[Entry]") -> None:
    """Print a row for each model, and a line for each model that was judged by another policy or has a problem."""
    from mnist.gate import POLICY

    default_policy = hashlib.sha256(POLICY.read_bytes()).hexdigest()
    shown = TextTable()
    shown.add_text_column("model", whole=True)  # its name contains the time
    shown.add_text_column("recipe")
    for column in ("accuracy", "verdict"):
        shown.add_text_column(column, justify="right", whole=True)
    for column in ("commit", "kB"):
        shown.add_text_column(column, justify="right", whole=True, least=8)
    for entry in entries:
        card = entry.card
        recipe, accuracy = (card.describe_recipe(), _or_blank(card.measured.accuracy, ".2%")) if card else ("", "")
        commit = (card.environment.commit if card else None) or ""
        style = {"ship": "", "block": "bold red"}.get(entry.decision, "yellow")
        cells = (accuracy, entry.decision, commit[:8], f"{entry.bytes / 1000:.1f}")
        shown.add_text_row(entry.path.name, recipe, *cells, style=style)
    tables.show(shown)
    for entry in entries:
        if entry.judgement and entry.judgement.policy_sha256 not in ("", default_policy):
            write(f"{entry.path}: judged by {entry.judgement.policy}")
        if entry.problem:
            write(_with_path(entry.path, entry.problem))


def _with_path(path: Path, problem: str) -> str:
    """Return the description of a problem, with the path in front unless it already begins with the path."""
    return problem if problem.startswith(str(path)) else f"{path}: {problem}"


def _values(row: "Row") -> list[object]:
    """Return the CSV values of a row: unrounded numbers, empty cells for NaN, lists joined by spaces."""
    values = dataclasses.asdict(row).values()
    return [_finite(value) if isinstance(value, float) else one_line(_joined(value)) for value in values]


def _finite(value: float) -> object:
    return "" if math.isnan(value) else value


def _joined(value: object) -> object:
    return " ".join(value) if isinstance(value, tuple) else value


def _or_blank(figure: float, form: str) -> str:
    """Format a number; return an empty string for NaN."""
    return "" if math.isnan(figure) else format(figure, form)


def _show_comparison(comparison: "Comparison", baseline: Path) -> None:
    for name, chosen in (("misclassified", comparison.lost), ("recognized", comparison.gained)):
        counts = comparison.per_class(chosen)
        split = ", ".join(f"{count} of {class_name}" for class_name, count in counts.items() if count)
        images = f"{sum(counts.values())} image{'s' * (sum(counts.values()) != 1)}"
        write(f"Compared with {baseline}: {images} newly {name}{f' ({split})' if split else ''}")


def annotate(verdicts: "Sequence[Verdict]", summary: Callable[[], str]) -> None:
    """In GitHub Actions, annotate every verdict that does not pass, and append ``summary`` to the job summary."""
    if "GITHUB_ACTIONS" not in os.environ:
        return
    for verdict in verdicts:
        if not verdict.passes:
            _write_annotation("error" if verdict.blocks else "warning", verdict.criterion, verdict.explain())
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(summary())
        except OSError as error:  # a failed summary must not change the verdict
            notify(f"WARNING: the job summary could not be written: {files.explain(error)}")


def _write_annotation(level: str, title: str, message: str) -> None:
    """Print an annotation as a GitHub Actions workflow command."""
    escaped = one_line(message).replace("%", "%25")
    click.echo(f"::{level} title={title}::{escaped}", file=sys.stdout)
