"""What the gate found: report.json for programs, report.html for people, summary.md for pull requests."""

from pathlib import Path
from typing import Any

from mnist import files
from mnist.datasets import Split
from mnist.gate import Measurement
from mnist.report.content import SCHEMA, build
from mnist.report.rendering import html, markdown

__all__ = ["SCHEMA", "build", "html", "markdown", "write"]


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
