"""The human-readable reports: report.html and summary.md."""

import base64
import io
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
from mnist.progress import LogEntry
from mnist.report import card_values, charts

MAX_SUMMARY_IMAGES = 12
MAX_SUMMARY_IMAGES_PER_ROW = 6
MAX_SUMMARY_CHARACTERS_PER_ROW = 96
MAX_CAPTION_NAME_CHARACTERS = 20  # a longer class name is shortened in a caption

BLANK_BRAILLE = "\u2800"  # the braille character without dots
_BRAILLE_BITS = torch.tensor([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # indexed by the dot's position
_ZERO_WIDTH_SPACE = "\u200b"


def html(report: dict[str, Any], test: Split, measurement: Measurement) -> str:
    """Return the report as a self-contained HTML page with its styles, charts and images."""
    shown = [*report["mistakes"]]
    if report["comparison"]:
        shown += [*report["comparison"]["lost"], *report["comparison"]["gained"]]
    images = {image["index"]: data_uri(test.images[image["index"], 0]) for image in shown}
    samples = {probe.name: [data_uri(image) for image in probe.sample] for probe in measurement.probes}
    logs = {"this model": report["log"]}
    if report["comparison"]:
        logs["baseline"] = report["comparison"]["previous_log"]
    curves = charts.learning_curves({name: [LogEntry(**entry) for entry in log] for name, log in logs.items()})
    return _templates.get_template("report.html.jinja").render(
        report=report,
        card=card_values.describe(report["card"]) if report["card"] else None,
        images=images,
        samples=samples,
        curves=curves,
    )


def markdown(report: dict[str, Any], test: Split) -> str:
    """Return the report in GitHub-flavored Markdown, for a job summary or a pull-request comment."""
    comparison = report["comparison"]
    return _templates.get_template("report.md.jinja").render(
        report=report,
        baseline=PurePath(comparison["previous"]).name if comparison else None,
        before={change["criterion"]: change["baseline"] for change in comparison["changed"]} if comparison else {},
        max_images=MAX_SUMMARY_IMAGES,
        drawing=_draw(comparison["lost"][:MAX_SUMMARY_IMAGES], report["classes"], test.images) if comparison else "",
    )


def braille(image: Tensor) -> list[str]:
    """Draw an image, uint8 [28, 28], as 7 lines of 14 braille characters, with a dot for each pixel >= 128."""
    dots = (image >= 128).reshape(7, 4, 14, 2).permute(0, 2, 1, 3)
    codes = ord(BLANK_BRAILLE) + (dots * _BRAILLE_BITS).sum((2, 3))
    return ["".join(map(chr, row)) for row in codes.tolist()]


def _draw(flips: Sequence[dict[str, Any]], classes: Sequence[str], images: Tensor) -> str:
    """Draw images side by side as text, with the label, prediction and confidence above each image."""
    names = [_printable(name).replace("`", "'")[:MAX_CAPTION_NAME_CHARACTERS] for name in classes]
    cells = [
        [
            f"{names[flip['label']]} → {names[flip['prediction']]} ({flip['confidence']:.0%})",
            *braille(images[flip["index"], 0]),
        ]
        for flip in flips
    ]
    # Pad with blank braille characters, because braille characters are wider than spaces in some fonts.
    width = max((len(line) for cell in cells for line in cell), default=0) + 2
    per_row = max(1, min(MAX_SUMMARY_IMAGES_PER_ROW, MAX_SUMMARY_CHARACTERS_PER_ROW // width))
    rows = [cells[start : start + per_row] for start in range(0, len(cells), per_row)]
    blocks = [
        ["".join(line.ljust(width, BLANK_BRAILLE) for line in lines) for lines in zip(*row, strict=True)]
        for row in rows
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _printable(text: str) -> str:
    """Replace line breaks, control characters and other unprintable characters with spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it literally and on one line, without markup, HTML, links or mentions."""
    # GitHub finds mentions and issue references in the rendered text, so escaping them as entities does not help.
    separated = re.sub(r"[@#]|\bgh-", rf"\g<0>{_ZERO_WIDTH_SPACE}", _printable(text), flags=re.IGNORECASE)
    markup = r"[!#$&*<>@\[\\\]^`{|}~]|(?<![a-z0-9])_|_(?![a-z0-9])|:(?=//)|(?<=www)\."
    return re.sub(markup, lambda match: f"&#{ord(match[0])};", separated, flags=re.IGNORECASE)


_templates = templates.environment()
_templates.globals.update(axis_start=charts.axis_start, stretched=charts.stretched, class_name=class_name)
_templates.filters["literal"] = escape_markdown


def data_uri(image: Tensor) -> str:
    """Return an image, uint8 [H, W], as a ``data:`` URI of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
