"""Print lines, progress bars and JSON.

Rich takes a tenth of a second to import, so it is imported only for a progress bar.
"""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist import files
from mnist.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from mnist.progress import Progress, Report

MIN_FILES_FOR_BAR = 50  # fewer files are processed without a progress bar

# ASCII replacements for symbols that a stream cannot encode, such as a pipe on Windows.
ASCII_SYMBOLS = {"°": " deg", "±": "+/-", "×": "x", "→": "->", "–": "-", "—": "-", "…": "..."}  # noqa: RUF001
SYMBOLS_ERROR_HANDLER = "mnist.symbols"  # name under which `_encode_symbols` is registered


def is_plain() -> bool:
    """Return True if the user or the terminal asks for text without colours and bold type."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


def _encode_symbols(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a stream cannot encode: symbols with ASCII, all others with escape sequences."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    written = [ASCII_SYMBOLS.get(character) or ascii(character)[1:-1] for character in characters]
    return "".join(written), error.end


codecs.register_error(SYMBOLS_ERROR_HANDLER, _encode_symbols)


# ---- Lines -----------------------------------------------------------------------------------------------------------


def write(message: object, *, err: bool = False, **style: Any) -> None:
    """Print a line on stdout or stderr, with line breaks and control characters escaped."""
    line = one_line(message)
    # Without an explicit file, click would bypass the stream's error handler.
    click.echo(click.style(line, **style) if style and not is_plain() else line, file=sys.stderr if err else sys.stdout)


def notify(line: str) -> None:
    """Print a notice on stderr: warnings in bold yellow, other lines dimmed."""
    write(line, err=True, **({"fg": "yellow", "bold": True} if line.startswith("WARNING") else {"dim": True}))


# ---- Progress --------------------------------------------------------------------------------------------------------


@contextmanager
def show_progress(console: "Console") -> "Iterator[Report]":
    """Show a progress bar if the console is a terminal; otherwise print a line after each tenth of the training."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_printer(err=console.stderr)
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    with ProgressBar(BarColumn(None), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda progress: bar.update(
            task, completed=progress.step, total=progress.steps, description=_describe(progress)
        )


def _line_printer(*, err: bool) -> "Report":
    tenths_shown = 0

    def print_line(progress: "Progress") -> None:
        nonlocal tenths_shown
        tenths = 10 * progress.step // progress.steps
        if tenths > tenths_shown:
            tenths_shown = tenths
            write(_describe(progress), err=err)

    return print_line


def _describe(progress: "Progress") -> str:
    return (
        f"epoch {progress.epoch}/{progress.epochs}  step {progress.step:,}/{progress.steps:,}  "
        f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.1%}  "
        f"{progress.images_per_second:,.0f} images/s  {progress.seconds_left:.0f} s left"
    )


def track(paths: list[Path]) -> Iterator[Path]:
    """Yield the paths; if there are many, show a progress bar on a terminal."""
    if len(paths) < MIN_FILES_FOR_BAR or not sys.stderr.isatty():
        yield from paths
        return
    from rich.progress import Progress as ProgressBar

    from mnist.cli import tables

    with ProgressBar(console=tables.console(err=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield from bar.track(paths, description="images")


# ---- JSON ------------------------------------------------------------------------------------------------------------


def write_json(value: object) -> None:
    """Print a value as JSON, with null for NaN."""
    for line in files.to_json(value).decode().splitlines():
        write(line)
