"""What the gate found: report.json for programs, report.html for people, summary.md for pull requests."""

import base64
import dataclasses
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mnist import __version__, files, gate, intervals, metrics, templating
from mnist.datasets import Split, class_name
from mnist.gate import Comparison, Evaluation, Verdict
from mnist.intervals import Estimate
from mnist.metrics import Measurement

SCHEMA = 2  # of report.json, which report.schema.json describes
MISTAKES = 24  # shown, the most confident first
FLIPS = 24  # shown of each kind
PICTURES, PICTURES_PER_ROW = 12, 6  # drawn in summary.md, at most
CHARACTERS_PER_ROW = 96  # of the drawing in summary.md
NAME_CHARACTERS = 20  # of a class's name in a caption, at most

BLANK = "\u2800"  # the braille character without dots
_BRAILLE_BITS = torch.tensor([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # [row, column] of a character
_UNSEEN = "\u200b"  # the zero-width space


def build(evaluation: Evaluation, test: Split) -> dict[str, Any]:
    """Return the content of report.json: plain values, None for what could not be measured.

    Images are named by their index in ``test``, which the model was measured on.
    """
    artifact, measurement, verdicts = evaluation.artifact, evaluation.measurement, evaluation.verdicts
    content: dict[str, Any] = json.loads(
        files.to_json(
            {
                "schema": SCHEMA,
                "program": f"mnist {__version__}",
                "decision": "block" if gate.blocked(verdicts) else "ship",
                "model": str(artifact.path),
                "card": dataclasses.asdict(artifact.card) if artifact.card else None,
                "measured_on": measurement.measured_on,
                "images": measurement.images,
                "verdicts": [_verdict(verdict) for verdict in verdicts],
                "contract_violations": measurement.contract_violations,
                "loss": measurement.loss,
                "classes": measurement.classes,
                "confusion": measurement.confusion,
                "digits": [
                    _estimate(intervals.proportion(row[digit], sum(row)))
                    for digit, row in enumerate(measurement.confusion)
                ],
                "calibration": _calibration(test, measurement.logits),
                "probes": [_probe(probe) for probe in measurement.probes],
                "gradient_norms": measurement.gradient_norms,
                "initial_gradient_norms": measurement.initial_gradient_norms,
                "dead_units": measurement.dead_units,
                "mistakes": _mistakes(test, measurement.logits),
                "comparison": _comparison(evaluation),
            }
        )
    )
    return content


def write(report: dict[str, Any], test: Split, measurement: Measurement, folder: Path) -> Path:
    """Write report.json, summary.md and report.html, each atomically, into ``folder``; return the path of the last.

    Raises:
        OSError: if the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "report.json", files.to_json(report))
    files.write_atomically(folder / "summary.md", markdown(report, test).encode())
    path = folder / "report.html"
    files.write_atomically(path, html(report, test, measurement).encode())
    return path


def html(report: dict[str, Any], test: Split, measurement: Measurement) -> str:
    """The report as one page that needs nothing else: styles, charts and images are all inside."""
    shown = [*report["mistakes"]]
    if report["comparison"]:
        shown += [*report["comparison"]["lost"], *report["comparison"]["gained"]]
    pictures = {flip["index"]: _data_uri(test.images[flip["index"], 0]) for flip in shown}
    samples = {probe.name: [_data_uri(image) for image in probe.sample] for probe in measurement.probes}
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


def _literal(text: str) -> str:
    """Escape text for Markdown: on one line, shown as it is, without markup, HTML, links or mentions."""
    # GitHub looks for mentions and references to issues in the rendered text, where an entity no longer helps.
    separated = re.sub(r"[@#]|\bgh-", rf"\g<0>{_UNSEEN}", _printable(text), flags=re.IGNORECASE)
    markup = r"[!#$&*<>@\[\\\]^`{|}~]|(?<![a-z0-9])_|_(?![a-z0-9])|:(?=//)|(?<=www)\."
    return re.sub(markup, lambda found: f"&#{ord(found[0])};", separated, flags=re.IGNORECASE)


_templates = templating.environment()
_templates.globals.update(log10=math.log10, class_name=class_name)
_templates.filters["literal"] = _literal


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "criterion": verdict.criterion,
        "relation": verdict.relation,
        "bound": verdict.bound,
        **_estimate(verdict.figure),
        "what": verdict.figure.what,
        "outcome": verdict.outcome.value,
        "blocks": verdict.blocks,
        "reason": verdict.reason,
        "shown": {
            "figure": verdict.show(verdict.figure.value) if verdict.measured else "not measured",
            "interval": _show_interval(verdict),
            "bound": f"{'>=' if verdict.relation == 'at_least' else '<='} {verdict.show(verdict.bound)}",
        },
    }


def _show_interval(verdict: Verdict) -> str:
    """The confidence interval; nothing where there is none, or where it is a point."""
    low, high = verdict.figure.low, verdict.figure.high
    return f"{verdict.show(low)} to {verdict.show(high)}" if verdict.measured and low != high else ""


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _probe(probe: metrics.Probe) -> dict[str, Any]:
    counted = {
        field: getattr(probe, field) for field in ("kind", "name", "strength", "images", "right", "lost", "gained")
    }
    return counted | _estimate(intervals.proportion(probe.right, probe.images))


def _calibration(test: Split, logits: Tensor) -> list[dict[str, float]]:
    if not len(logits):
        return []
    confidence, predictions = logits.softmax(1).max(1)
    bins = metrics.calibration_bins(confidence, predictions == test.labels).tolist()
    return [{"confidence": mean, "accuracy": right, "images": int(count)} for mean, right, count in bins]


def _mistakes(test: Split, logits: Tensor) -> list[dict[str, Any]]:
    """The mistakes that the model was surest of."""
    if not len(logits):
        return []
    confidence, predictions = logits.softmax(1).max(1)
    wrong = (predictions != test.labels).nonzero()[:, 0]
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    return [_image(index, test.labels, logits) for index in worst.tolist()]


def _image(index: int, labels: Tensor, logits: Tensor) -> dict[str, Any]:
    confidence, prediction = logits[index].softmax(0).max(0)
    return {
        "index": index,
        "label": int(labels[index]),
        "prediction": int(prediction),
        "confidence": confidence.item(),
    }


def _comparison(evaluation: Evaluation) -> dict[str, Any] | None:
    comparison, baseline = evaluation.comparison, evaluation.baseline
    if comparison is None or baseline is None:
        return None

    def flips(chosen: Tensor) -> list[dict[str, Any]]:
        indices = chosen.nonzero()[:FLIPS, 0].tolist()
        return [_image(index, comparison.labels, evaluation.measurement.logits) for index in indices]

    def per_digit(chosen: Tensor) -> list[int]:
        return torch.bincount(comparison.labels[chosen], minlength=10).tolist()

    return {
        "previous": str(baseline.artifact.path),
        "lost_per_digit": per_digit(comparison.lost),
        "gained_per_digit": per_digit(comparison.gained),
        "lost": flips(comparison.lost),
        "gained": flips(comparison.gained),
        "changed": [
            {"criterion": new.criterion, "baseline": old.outcome.value, "new": new.outcome.value}
            for old, new in evaluation.changed
        ],
        "figures": _figures(evaluation.measurement, baseline.measurement, comparison),
    }


def _figures(new: Measurement, old: Measurement, comparison: Comparison) -> list[dict[str, Any]]:
    """The figures of both models, and the difference: of accuracies with the interval for paired images."""

    def accuracy(name: str, values: tuple[float, float], chosen: Tensor) -> dict[str, Any]:
        gained, lost = int(comparison.gained[chosen].sum()), int(comparison.lost[chosen].sum())
        difference = intervals.paired_difference(gained, lost, int(chosen.sum()))
        return _figure(name, "fraction", values, difference)

    def exact(name: str, unit: str, values: tuple[float, float]) -> dict[str, Any]:
        return _figure(name, unit, values, intervals.exact(values[0] - values[1]))

    of_all = accuracy("accuracy", (new.accuracy, old.accuracy), torch.ones_like(comparison.lost))
    per_class = [
        accuracy(
            class_name(label, new.classes),
            (_class_accuracy(new, label), _class_accuracy(old, label)),
            comparison.labels == label,
        )
        for label in range(len(new.classes))
    ]
    return [
        of_all,
        *per_class,
        exact("latency", "ms", (1000 * new.latency, 1000 * old.latency)),
        exact("size on disk", "kB", (new.bytes / 1000, old.bytes / 1000)),
        exact("parameters", "", (new.parameters, old.parameters)),
    ]


def _class_accuracy(measurement: Measurement, label: int) -> float:
    if not measurement.confusion:
        return math.nan
    row = measurement.confusion[label]
    return intervals.proportion(row[label], sum(row)).value


def _figure(name: str, unit: str, values: tuple[float, float], difference: Estimate) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "new": values[0],
        "baseline": values[1],
        "difference": _estimate(difference),
        "shown": {
            "new": _show_figure(values[0], unit),
            "baseline": _show_figure(values[1], unit),
            "difference": _show_figure(difference.value, unit, sign="+"),
            "interval": f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f} points"
            if difference.low < difference.high
            else "",
        },
    }


def _show_figure(value: float, unit: str, sign: str = "") -> str:
    """A figure with its unit; with a sign, a difference of two of them."""
    if math.isnan(value):
        return "not measured"
    if unit == "fraction":
        value, unit = 100 * value, "points" if sign else "%"
    decimals = {"%": 2, "points": 2, "ms": 2, "kB": 1, "": 0}[unit]
    rounded = round(value, decimals) + 0.0  # 0.0 instead of -0.0
    return f"{rounded:{sign},.{decimals}f} {unit}".rstrip()


def _data_uri(image: Tensor) -> str:
    """A uint8 [H, W] image as a PNG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
