"""Make any text, such as a file name or a message from another program, safe to print or to write."""

import unicodedata


def one_line(text: object) -> str:
    r"""Return a text as one printable line that GitHub Actions does not interpret as a command.

    Line breaks, control characters, lone surrogates and invisible characters are replaced by escapes such as
    ``\u000a``. GitHub Actions treats the text after ``##[``, and after ``::`` at the start of a line, as a command.
    Therefore, one character of each is also escaped. Other printable text is unchanged. A line of JSON in ASCII keeps
    its meaning.
    """
    line = "".join(character if _is_visible(character) else _escape(character) for character in str(text))
    line = line.replace("##[", f"#{_escape('#')}[")
    start = len(line) - len(line.lstrip())
    return line[:start] + _escape(":") + line[start + 1 :] if line.startswith("::", start) else line


def one_cell(text: object) -> str:
    """Return a text for a table cell: one line without ``::``, which wrapping could move to the start of a line."""
    return one_line(text).replace("::", f":{_escape(':')}")


def encodable(text: str) -> str:
    r"""Make a text encodable as UTF-8: lone surrogates, as in names that are not UTF-8, become ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # accept spaces such as a no-break space


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
