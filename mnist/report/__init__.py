"""What the gate found: report.json for programs, report.html for people, summary.md for pull requests."""

from pathlib import Path
from typing import Any

from mnist import __version__, files, gate, intervals, metrics, templates
from mnist.datasets import Split, class_name
from mnist.gate import Comparison, Evaluation, Verdict
from mnist.intervals import Estimate
from mnist.metrics import Measurement
from mnist.report.content import SCHEMA, build
from mnist.report.rendering import html, markdown

__all__ = [
    "SCHEMA",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Verdict",
    "__version__",
    "build",
    "class_name",
    "gate",
    "html",
    "intervals",
    "markdown",
    "metrics",
    "templates",
    "write",
]


def write(report: dict[str, Any], test: Split, measurement: Measurement, folder: Path) -> Path:
    """Write report.json, summary.md and report.html, each atomically, into ``folder``; return the path of the last.

    Raises:
        OSError: if the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "report.json", files.to_json(report))
    files.write_atomically(folder / "summary.md", markdown(report, test).encode())
    path = folder / "report.html"
    files.write_atomically(path, html(report, test, measurement).encode())
    return path
