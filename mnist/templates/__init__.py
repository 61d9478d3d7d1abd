"""The templates of the pages and summaries, and the stylesheets and scripts of the pages."""

import re
from importlib import resources

import jinja2

from mnist.text import encodable


def environment() -> jinja2.Environment:
    """Return the environment that renders ``mnist/templates``.

    It escapes HTML, and lone surrogates, which UTF-8 cannot encode. It raises an error for an undefined name.
    """
    created = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: encodable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    created.globals.update(stylesheet=stylesheet, script=script)
    return created


def stylesheet(*names: str) -> str:
    """Return the content of a ``<style>`` element: the named CSS files, concatenated."""
    return "".join(map(_read, names))


def script(*names: str) -> str:
    """Return the content of a ``<script type="module">`` element: the named JavaScript modules, joined into one.

    A page that is a single file cannot import other files. The import statements and the keyword ``export`` are
    removed, so names must be unique across all modules, and a module must come after the modules that it imports.
    """
    return "".join(re.sub(r"^import [^;]*;\n|^export ", "", _read(name), flags=re.MULTILINE) for name in names)


def _read(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
