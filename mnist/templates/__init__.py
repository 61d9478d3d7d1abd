"""The templates of pages and summaries, and the styles and scripts that pages hold."""

import re
from importlib import resources

import jinja2


def environment() -> jinja2.Environment:
    """Return the environment that renders ``mnist/templates``: it escapes HTML, and a missing name is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(stylesheet=stylesheet, script=script)
    return found


def stylesheet(*names: str) -> str:
    """Return the content of a ``<style>`` element: these CSS files, one after the other."""
    return "".join(map(_read, names))


def script(*names: str) -> str:
    """Return the content of a ``<script type="module">`` element: these JavaScript modules joined into one.

    A page that is a single file can import nothing. The modules' import statements and the keyword ``export`` are
    removed, so names must be unique over all modules, and a module must come after those that it imports.
    """
    return "".join(re.sub(r"^import [^;]*;\n|^export ", "", _read(name), flags=re.MULTILINE) for name in names)


def _read(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
