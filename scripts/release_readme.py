"""Write the README.md of a released model in the format of the Hugging Face hub: YAML metadata, then Markdown.

A model's card and report may contain any text, for example in class names. The text is shown literally and is never
interpreted as YAML, Markdown or HTML.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from mnist import __version__, templates
from mnist.storage.artifacts import Artifact

# Punctuation that Markdown or HTML may interpret as markup. Text such as 12:30 and <= 5 stays unescaped.
_MARKUP = re.compile(r"[&*_`\[\]\\|~$!#@{}]|<(?![= ])|(?<!\d):(?=\S)|:(?=[^\s\d])|(?<=www)\.", re.IGNORECASE)


def render(artifact: Artifact, report: dict[str, Any]) -> str:
    """Return the README.md of a model from its artifact and its report."""
    environment = templates.environment().overlay(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), finalize=escape_markdown, keep_trailing_newline=True
    )
    environment.filters["yaml"] = quote_yaml
    return environment.get_template("release_readme.md.jinja").render(
        version=__version__,
        stem=artifact.path.stem,
        card=artifact.card,
        recipe=report["recipe"],
        report=report,
        verdicts={verdict["criterion"]: verdict for verdict in report["verdicts"]},
        undecided=[verdict for verdict in report["verdicts"] if verdict["outcome"] != "pass"],
        threshold=artifact.threshold,
    )


def escape_markdown(value: Any) -> Any:
    """Escape ``value`` and put it on one line, so that Markdown and HTML show it unchanged; keep `Markup` as it is."""
    if isinstance(value, Markup):
        return value
    printable = "".join(character if character.isprintable() else " " for character in str(value))
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(printable.split()))


def quote_yaml(value: str) -> Markup:
    """Return ``value`` as a double-quoted YAML scalar, with escapes for all but printable ASCII."""
    plain = [c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in value]
    return Markup(f'"{"".join(plain)}"')  # noqa: S704  YAML has no other special characters in double quotes


def read_metadata(text: str) -> dict[str, Any]:
    """Return the YAML metadata at the top of a README.md."""
    metadata: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return metadata
