"""Parts of a Markdown file that scripts write and people do not."""

from pathlib import Path


def replace(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the lines ``<!-- name -->`` and ``<!-- end of name -->`` of the file."""
    before, _, after = _split(path, name)
    path.write_text(f"{before}\n{text.strip()}\n\n{after}", encoding="utf-8")


def replace_row(path: Path, name: str, row: str) -> None:
    """Put ``row`` into that section's table, in place of the one with the same first column, or at its end."""
    _, table, _ = _split(path, name)
    first = row.split("|")[1]
    rows = table.strip().splitlines()
    at = next((number for number, old in enumerate(rows) if old.split("|")[1] == first), len(rows))
    rows[at : at + 1] = [row]
    replace(path, name, "\n".join(rows))


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """What comes before the section, with its first line, what is in it, and the rest."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    held, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path} has no section {name!r}")
    return before + begin, held, end + after
