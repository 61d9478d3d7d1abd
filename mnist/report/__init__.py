"""Reports of the gate's results: report.json for programs, report.html for people, summary.md for pull requests."""

import contextlib
from pathlib import Path
from typing import Any

from mnist import files
from mnist.datasets import Split
from mnist.gate import Measurement
from mnist.report.content import SCHEMA_VERSION, build, compare
from mnist.report.rendering import html, markdown
from mnist.text import one_line

__all__ = ["SCHEMA_VERSION", "build", "compare", "html", "markdown", "write"]


def write(report: dict[str, Any], test: Split, measurement: Measurement, reports_dir: Path) -> Path:
    """Write report.json, summary.md and report.html, each atomically, and return the path of report.html.

    The files are written to a new folder in ``reports_dir`` that is named after the model. If that name is taken,
    ``_2``, ``_3`` and so on is appended.

    Raises:
        OSError: if the folder cannot be created or written to.
    """
    reports_dir.mkdir(parents=True, exist_ok=True)
    folder = _create_folder(reports_dir, one_line(Path(report["model"]).stem))
    files.write_atomically(folder / "report.json", files.to_json(report))
    files.write_atomically(folder / "summary.md", markdown(report, test).encode())
    path = folder / "report.html"
    files.write_atomically(path, html(report, test, measurement).encode())
    return path


def _create_folder(parent: Path, stem: str) -> Path:
    """Create a folder with a name that is not taken yet."""
    for name in files.numbered(stem):
        with contextlib.suppress(FileExistsError):
            (parent / name).mkdir()
            return parent / name
    raise AssertionError("unreachable: files.numbered never ends")
