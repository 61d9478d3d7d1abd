"""Test how the commands print: tables in narrow terminals, and output without colours."""

import dataclasses
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from mnist import gate
from mnist.cli import display, results, tables
from mnist.cli.tables import TextTable
from mnist.gate import Outcome, intervals
from mnist.gate.criteria import BY_NAME

WIDTHS = (60, 80, 120)


def printed(table: TextTable, width: int) -> list[str]:
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "out", Console(width=width, file=file))
        tables.show(table)
    return file.getvalue().splitlines()


@st.composite
def verdicts(draw) -> list[gate.Verdict]:
    """Draw a verdict on every criterion, including undecided and unmeasured ones, and some with long intervals."""
    drawn = []
    for rule in BY_NAME.values():
        value = draw(st.sampled_from([float("nan"), 0.0, 0.5, 0.9831, 24_999.0]))
        spread = draw(st.sampled_from([0.0, 0.4]))
        what = draw(st.sampled_from(["", "digit 9", "black lines of 4 pixels, top right: digit 5"]))
        estimate = intervals.Estimate(value, value - spread, value + spread, what=what)
        bound = draw(st.sampled_from([0.1, 0.95])) if "%" in rule.form else 200.0
        drawn.append(dataclasses.replace(rule, figures=lambda subject: subject).judge([estimate], bound, Outcome.BLOCK))
    return drawn


@pytest.mark.parametrize("width", WIDTHS)
@given(verdicts())
def test_table_of_verdicts_fits_and_keeps_every_name(width, drawn):
    lines = printed(results.table_of_verdicts(drawn), width)
    assert max(map(len, lines)) <= width
    for verdict in drawn:
        assert any(verdict.criterion in line.split() for line in lines)


@pytest.mark.parametrize(("width", "shown"), [(60, False), (80, False), (120, True)])
def test_table_of_verdicts_drops_the_interval_first(width, shown):
    estimate = intervals.Estimate(0.98, 0.97, 0.99, what="digit 9")
    rules = [dataclasses.replace(rule, figures=lambda subject: subject) for rule in BY_NAME.values()]
    drawn = [rule.judge([estimate], 0.95, Outcome.BLOCK) for rule in rules]
    lines = printed(results.table_of_verdicts(drawn), width)
    header = next(line for line in lines if "criterion" in line)
    assert all(column in header for column in ("verdict", "criterion", "measured", "bound"))
    assert ("interval" in header) is shown
    notice = "columns not shown: 95 % interval, subject (use a wider terminal or --json)"
    assert (notice in " ".join(" ".join(lines).split())) is not shown
    rest = {60: 4, 80: 5, 120: 4}[width]  # the header, blank lines, and the notice, which takes two lines at 60
    assert len(lines) == len(drawn) + rest, "no cell is wrapped"


@given(
    cells=st.lists(st.lists(st.integers(1, 30), min_size=4, max_size=4), min_size=1, max_size=4),
    width=st.integers(40, 140),
)
@example(cells=[[1, 1, 1, 10]], width=40)  # the last column fits if its cell is wrapped
def test_table_drops_optional_columns_from_the_last_on(cells, width):
    table = TextTable()
    table.add_text_column("name", whole=True)
    for number in range(3):
        table.add_text_column(f"figure{number}", least=8)
    for row in cells:
        table.add_text_row(*(letter * length for letter, length in zip("nabc", row, strict=True)))
    names = [column.header.plain for column in table.columns]
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    left = [column.header.plain for column in table.columns]
    assert left == names[: len(left)]
    assert all(any("n" * row[0] in line for line in lines) for row in cells)
    notice = f"columns not shown: {', '.join(names[len(left) :])} (use a wider terminal or --json)"
    assert (notice in " ".join(" ".join(lines).split())) is (left != names)


@pytest.mark.parametrize("cells", [("a",), ("a", "b", "c")])
def test_row_with_a_wrong_number_of_cells_is_refused(cells):
    with pytest.raises(AssertionError):
        tables.table("name", "figure").add_text_row(*cells)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_output_is_plain_with_no_color_or_a_dumb_terminal(monkeypatch, variables, coloured):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr(tables, "out", tables.console())
    display.write("BLOCKED", bold=True, fg="red")
    table = TextTable(title="title")
    table.add_text_column("verdict")
    table.add_text_row("BLOCK", style="bold red")
    tables.show(table)
    assert ("\x1b[" in terminal.getvalue()) is coloured
    assert terminal.getvalue().count("BLOCK") == 2


@pytest.mark.parametrize(
    ("columns", "width"), [("60", 60), ("080", 80), ("", 100), ("0", 100), ("wide", 100), ("-5", 100), ("99999", 100)]
)
def test_width_without_a_terminal_is_that_of_columns(monkeypatch, columns, width):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", columns)
    assert tables.console().width == width
