"""Write results into the documents: Markdown tables, medians with ranges, and generated sections."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mnist import files

ROOT = Path(__file__).resolve().parent.parent  # root folder of the repository
DOCS = ROOT / "docs"


def row(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """Return a Markdown table; ``alignment`` has one letter per column, ``l`` for left or ``r`` for right.

    Raises:
        ValueError: if the numbers of cells differ.
    """
    lines = [header, [{"l": "---", "r": "---:"}[letter] for letter in alignment], *rows]
    if wrong := [cells for cells in lines if len(cells) != len(header)]:
        raise ValueError(f"a row of the table has {len(wrong[0])} cells, not {len(header)}: {row(wrong[0])}")
    return "\n".join(map(row, lines))


def spread(
    values: Sequence[float],
    digits: int,
    unit: str = "",
    center: Callable[[Sequence[float]], float] = statistics.median,
) -> str:
    """Return the center and the range of the values, like ``3.14 s (3.00 to 3.32)``; a single value has no range."""
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}{unit}"
    return f"{center(values):,.{digits}f}{unit} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace the text between the lines ``<!-- name -->`` and ``<!-- end of name -->`` of a file.

    Raises:
        ValueError: if the file has no such section.
    """
    before, _, after = _split(path, name)
    files.write_atomically(path, f"{before}\n{text.strip()}\n\n{after}".encode())


def replace_row(path: Path, name: str, line: str) -> None:
    """Replace the table row of a section that has the same first cell as ``line``, or append ``line`` if there is none.

    Raises:
        ValueError: if the file has no such section.
    """
    _, section, _ = _split(path, name)
    lines = section.strip().splitlines()
    first_cell = line.split("|")[1]
    position = next((number for number, old in enumerate(lines) if old.split("|")[1] == first_cell), len(lines))
    lines[position : position + 1] = [line]
    replace_section(path, name, "\n".join(lines))


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """Split a file into the text up to a section's start marker, the section, and the text from its end marker on."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    section, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path} has no section {name!r} (add the lines {begin.strip()!r} and {end.strip()!r})")
    return before + begin, section, end + after
