"""Print tables."""

import os
import re
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist.cli.display import is_plain
from mnist.text import one_cell

if TYPE_CHECKING:
    from rich.console import JustifyMethod

COLUMNS_WITHOUT_TERMINAL = 100  # width of tables in files and pipes, unless the environment variable COLUMNS is set
WRAPPED_CHARACTERS = 18  # cells with more characters may be wrapped in a narrow table


def console(*, err: bool = False) -> Console:
    """Return a console for stdout, or for stderr if ``err``. Without a terminal, ``COLUMNS`` sets its width."""
    stream = sys.stderr if err else sys.stdout
    columns = os.environ.get("COLUMNS", "")
    without_terminal = int(columns) if re.fullmatch(r"0*[1-9]\d{0,3}", columns) else COLUMNS_WITHOUT_TERMINAL
    width = None if stream and stream.isatty() else without_terminal
    return Console(stderr=err, width=width, color_system=None if is_plain() else "auto")


out = console()


class TextTable(Table):
    """A table whose titles and cells are shown literally, without Rich's markup and emoji codes.

    If the table is wider than the terminal, :meth:`fit` drops optional columns, starting with the last one. If this is
    not enough, ``fit`` reduces the space between columns, and cells are wrapped except in columns added with
    ``whole=True``.
    """

    def __init__(self, title: str | None = None) -> None:
        shown = Text(one_cell(title)) if title else None
        super().__init__(title=shown, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        self._least: dict[int, int] = {}  # minimum width of each optional column, keyed by its index

    def add_text_column(
        self, header: str, justify: "JustifyMethod" = "left", *, whole: bool = False, least: int | None = None
    ) -> None:
        """Add a column.

        Args:
            whole: never wrap the column's cells.
            least: minimum width in characters; with less space, the column is dropped. None: it is never dropped.
        """
        if least is not None:
            self._least[len(self.columns)] = least
        assert least is not None or not self._least, "optional columns come after all others"
        self.add_column(Text(one_cell(header)), justify=justify, no_wrap=whole, overflow="fold")

    def add_text_row(self, *cells: str, style: str = "") -> None:
        """Add a row."""
        assert len(cells) == len(self.columns), "Rich would add blank cells, or columns without a title"
        self.add_row(*(Text(one_cell(cell)) for cell in cells), style=style)

    def fit(self, width: int) -> list[str]:
        """Drop optional columns and reduce the space between columns until the table fits, if possible.

        Return the headers of the dropped columns, from left to right.
        """
        dropped: list[str] = []
        for number in sorted(self._least, reverse=True):
            if self._width(squeezed=number) <= width:
                break
            dropped.insert(0, str(self.columns.pop(number).header))
            del self._least[number]
        if self._width(squeezed=max(self._least, default=None)) > width:
            self.show_edge = self.pad_edge = False
            self.padding = (0, 1, 0, 0)
        return dropped

    def _width(self, squeezed: int | None) -> int:
        """Return the minimum width of the table in characters.

        Required columns wrap cells with more than ``WRAPPED_CHARACTERS``. Optional columns have their full width.

        Args:
            squeezed: index of an optional column that has its minimum width instead, or None.
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
    """Fit a table to the width of the terminal, and print it; name the columns that do not fit below it."""
    dropped = rows.fit(out.width)
    out.print(rows)
    if dropped:
        out.print(Text(f"columns not shown: {', '.join(dropped)} (use a wider terminal or --json)", style="dim"))
