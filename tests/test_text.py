import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mnist import templates, text
from mnist.cli import display, tables

# Any text, with many of the characters that forge lines, markup and commands.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            ["::", "##[", "::error::", "[/red]", ":smile:", "\n", "\r", "\x1b[2J", "\udcff", "\u2028", " "]
        ),
        st.characters(codec=None),
    ),
    max_size=40,
).map("".join)


def has_command(line: str) -> bool:
    """Return True if the runner of GitHub Actions takes the line, or a part of it, as a command."""
    return line.lstrip().startswith("::") or "##[" in line


@given(HOSTILE, st.booleans())
def test_write_prints_any_text_as_one_harmless_line(monkeypatch, message, err):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr" if err else "sys.stdout", stream)
    display.write(message, err=err)
    (line,) = stream.getvalue().splitlines()
    assert stream.getvalue() == f"{line}\n"
    assert all(character.isprintable() or character.isspace() for character in line)
    assert not has_command(line)
    line.encode()


@given(HOSTILE, st.integers(10, 60))
def test_tables_show_any_text_literally(cell, width):
    rows = tables.table("file", cell, title=cell)
    rows.add_text_row(cell, "second")
    stream = io.StringIO()
    Console(file=stream, width=width).print(rows)
    assert not any(has_command(line) for line in stream.getvalue().splitlines())
    assert all(character.isprintable() or character.isspace() for character in stream.getvalue())


@pytest.mark.parametrize("name", ["a[/red].png", "[bold]a", ":smile: 7.png", "http://[::1]/a", "Bild\u202fé ﷽ 7"])
def test_one_line_leaves_printable_text_alone(name):
    assert text.one_line(name) == name


@given(HOSTILE)
def test_one_line_keeps_the_meaning_of_json(value):
    line = json.dumps({"image": value})
    assert json.loads(text.one_line(line)) == {"image": value}


@given(HOSTILE)
def test_templates_render_text_that_utf8_can_encode(value):
    environment = templates.environment()
    rendered = environment.from_string("<title>{{ value }}</title>").render(value=value)
    rendered.encode()
