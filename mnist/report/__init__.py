"""Reports of the gate's results: report.json for programs, report.html for people, summary.md for pull requests."""

from pathlib import Path
from typing import Any

from mnist import files
from mnist.datasets import Split
from mnist.gate import Measurement
from mnist.report.content import SCHEMA_VERSION, build
from mnist.report.rendering import html, markdown

__all__ = ["SCHEMA_VERSION", "build", "html", "markdown", "write"]


def write(report: dict[str, Any], test: Split, measurement: Measurement, folder: Path) -> Path:
    """Write report.json, summary.md and report.html into ``folder``, each atomically; return the path of report.html.

    Raises:
        OSError: if the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "report.json", files.to_json(report))
    files.write_atomically(folder / "summary.md", markdown(report, test).encode())
    path = folder / "report.html"
    files.write_atomically(path, html(report, test, measurement).encode())
    return path
