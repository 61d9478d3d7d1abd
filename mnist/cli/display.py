"""How the commands print: lines, tables and progress bars."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from mnist import files
from mnist.text import one_cell, one_line

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from mnist.progress import Progress, Report

MIN_FILES_FOR_BAR = 50  # fewer images are processed without a progress bar
COLUMNS_WITHOUT_TERMINAL = 100  # width of tables in files and pipes
WRAPPED_CHARACTERS = 18  # longer cells may be wrapped in a narrow table

# ASCII replacements of symbols, for a stream that cannot encode them, such as a pipe on Windows.
ASCII_SYMBOLS = {"°": " deg", "±": "+/-", "×": "x", "→": "->", "–": "-", "—": "-", "…": "..."}  # noqa: RUF001
SYMBOLS_ERROR_HANDLER = "mnist.symbols"  # name under which `_encode_symbols` is registered


def is_plain() -> bool:
    """Return True if the user or the terminal asks for text without colours and bold type."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


def console(*, err: bool = False) -> Console:
    """Return a console for stdout, or for stderr if ``err``."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream and stream.isatty() else COLUMNS_WITHOUT_TERMINAL
    return Console(stderr=err, width=width, color_system=None if is_plain() else "auto")


out = console()


def _encode_symbols(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a stream cannot encode: symbols by ASCII, all others by escape sequences."""
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
    """Print a line about an event on stderr, warnings in bold yellow."""
    write(line, err=True, **({"fg": "yellow", "bold": True} if line.startswith("WARNING") else {"dim": True}))


# ---- Progress --------------------------------------------------------------------------------------------------------


@contextmanager
def show_progress(console: Console) -> "Iterator[Report]":
    """Show a progress bar if the console is a terminal; otherwise print a line after every tenth of the run."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_printer(err=console.stderr)
        return
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
    """Yield the paths, with a progress bar on a terminal if there are many."""
    if len(paths) < MIN_FILES_FOR_BAR or not sys.stderr.isatty():
        yield from paths
        return
    with ProgressBar(console=console(err=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield from bar.track(paths, description="images")


# ---- Tables ----------------------------------------------------------------------------------------------------------


class TextTable(Table):
    """A table whose titles and cells are shown literally, without Rich's markup and emoji codes.

    If the table is wider than the terminal, :meth:`fit` drops optional columns, beginning with the last one. If that is
    not enough, it reduces the space between columns, and cells are wrapped, except in columns added with ``whole``.
    """

    def __init__(self, title: str | None = None) -> None:
        shown = Text(one_cell(title)) if title else None
        super().__init__(title=shown, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        self._least: dict[int, int] = {}  # minimum width of each optional column, by its index

    def add_text_column(
        self, header: str, justify: "JustifyMethod" = "left", *, whole: bool = False, least: int | None = None
    ) -> None:
        """Add a column.

        Args:
            whole: never wrap its cells.
            least: minimum width in characters; the column is dropped if less space is left. None: it is never dropped.
        """
        if least is not None:
            self._least[len(self.columns)] = least
        assert least is not None or not self._least, "optional columns come after all others"
        self.add_column(Text(one_cell(header)), justify=justify, no_wrap=whole, overflow="fold")

    def add_text_row(self, *cells: str, style: str = "") -> None:
        """Add a row."""
        self.add_row(*(Text(one_cell(cell)) for cell in cells), style=style)

    def fit(self, width: int) -> None:
        """Drop optional columns and reduce the space between columns until the table fits, if possible."""
        for number in sorted(self._least, reverse=True):
            if self._width(squeezed=number) <= width:
                break
            del self.columns[number]
            del self._least[number]
        if self._width(squeezed=max(self._least, default=None)) > width:
            self.show_edge = self.pad_edge = False
            self.padding = (0, 1, 0, 0)

    def _width(self, squeezed: int | None) -> int:
        """Return the minimum width of the table in characters.

        Required columns wrap cells of more than ``WRAPPED_CHARACTERS``. Optional columns have their full width.

        Args:
            squeezed: index of an optional column that has its minimum width instead; None: there is no such column.
        """
        total = 0
        for number, column in enumerate(self.columns):
            longest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
            least = self._least.get(number, longest if column.no_wrap else WRAPPED_CHARACTERS)
            total += min(longest, least) if number == squeezed or number not in self._least else longest
        around = self.padding[1] + self.padding[3]
        return total + around * len(self.columns) + len(self.columns) - 1 + 2 * self.show_edge


def table(*columns: str, title: str | None = None) -> TextTable:
    """Return an empty table whose first column is left-aligned and whose other columns are right-aligned."""
    empty = TextTable(title)
    for number, column in enumerate(columns):
        empty.add_text_column(column, justify="right" if number else "left")
    return empty


def show(rows: TextTable) -> None:
    """Print a table, fitted to the width of the terminal."""
    rows.fit(out.width)
    out.print(rows)


def write_json(value: object) -> None:
    """Print a value as JSON, with null for NaN."""
    for line in files.to_json(value).decode().splitlines():
        write(line)
