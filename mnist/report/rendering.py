"""The report for people: report.html, and summary.md for pull requests."""

import base64
import io
import math
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mnist import templates
from mnist.datasets import Split, class_name
from mnist.gate.measurement import Measurement

PICTURES, PICTURES_PER_ROW = 12, 6  # drawn in summary.md, at most
CHARACTERS_PER_ROW = 96  # of the drawing in summary.md
NAME_CHARACTERS = 20  # of a class's name in a caption, at most

BLANK = "\u2800"  # the braille character without dots
_BRAILLE_BITS = torch.tensor([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # [row, column] of a character
_UNSEEN = "\u200b"  # the zero-width space


def html(report: dict[str, Any], test: Split, measurement: Measurement) -> str:
    """The report as one page that needs nothing else: styles, charts and images are all inside."""
    shown = [*report["mistakes"]]
    if report["comparison"]:
        shown += [*report["comparison"]["lost"], *report["comparison"]["gained"]]
    pictures = {flip["index"]: data_uri(test.images[flip["index"], 0]) for flip in shown}
    samples = {probe.name: [data_uri(image) for image in probe.sample] for probe in measurement.probes}
    return _templates.get_template("report.html.jinja").render(report=report, pictures=pictures, samples=samples)


def markdown(report: dict[str, Any], test: Split) -> str:
    """Return the report as GitHub's Markdown: summary.md, a job's summary and the comment on a pull request."""
    against = report["comparison"]
    return _templates.get_template("report.md.jinja").render(
        report=report,
        baseline=PurePath(against["previous"]).name if against else None,
        before={change["criterion"]: change["baseline"] for change in against["changed"]} if against else {},
        pictures=PICTURES,
        picture=_draw(against["lost"][:PICTURES], report["classes"], test.images) if against else "",
    )


def braille(image: Tensor) -> list[str]:
    """Draw an image, uint8 [28, 28], as 7 lines of 14 braille characters: a dot for each pixel of at least 128."""
    dots = (image >= 128).reshape(7, 4, 14, 2).permute(0, 2, 1, 3)
    codes = ord(BLANK) + (dots * _BRAILLE_BITS).sum((2, 3))
    return ["".join(map(chr, row)) for row in codes.tolist()]


def _draw(flips: Sequence[dict[str, Any]], classes: Sequence[str], images: Tensor) -> str:
    """Draw images side by side, each below its label, prediction and confidence, for a code block."""
    names = [_printable(name).replace("`", "'")[:NAME_CHARACTERS] for name in classes]
    cells = [
        [
            f"{names[flip['label']]} → {names[flip['prediction']]} ({flip['confidence']:.0%})",
            *braille(images[flip["index"], 0]),
        ]
        for flip in flips
    ]
    # A braille character is as wide as another, but in some fonts wider than a letter or a space.
    width = max((len(line) for cell in cells for line in cell), default=0) + 2
    per_row = max(1, min(PICTURES_PER_ROW, CHARACTERS_PER_ROW // width))
    rows = [cells[start : start + per_row] for start in range(0, len(cells), per_row)]
    blocks = [["".join(line.ljust(width, BLANK) for line in lines) for lines in zip(*row, strict=True)] for row in rows]
    return "\n\n".join("\n".join(block) for block in blocks)


def _printable(text: str) -> str:
    """Replace line breaks, control characters and the like by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def escape_markdown(text: str) -> str:
    """Escape text for Markdown: on one line, shown as it is, without markup, HTML, links or mentions."""
    # GitHub looks for mentions and references to issues in the rendered text, where an entity no longer helps.
    separated = re.sub(r"[@#]|\bgh-", rf"\g<0>{_UNSEEN}", _printable(text), flags=re.IGNORECASE)
    markup = r"[!#$&*<>@\[\\\]^`{|}~]|(?<![a-z0-9])_|_(?![a-z0-9])|:(?=//)|(?<=www)\."
    return re.sub(markup, lambda found: f"&#{ord(found[0])};", separated, flags=re.IGNORECASE)


_templates = templates.environment()
_templates.globals.update(log10=math.log10, class_name=class_name)
_templates.filters["literal"] = escape_markdown


def data_uri(image: Tensor) -> str:
    """Return a uint8 [H, W] image as a ``data:`` URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
