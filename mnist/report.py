"""What the gate found, for a program, a browser and a job summary: report.json, report.html, and Markdown."""

import base64
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mnist import __version__, files, gate, intervals, metrics, templating
from mnist.artifacts import Artifact
from mnist.datasets import Split, class_name
from mnist.gate import Comparison, Verdict
from mnist.intervals import Estimate
from mnist.metrics import Measurement

SCHEMA = 2  # of report.json, which report.schema.json describes
MISTAKES = 24  # shown, the most confident first
FLIPS = 24  # shown of each kind

_templates = templating.environment()
_templates.globals.update(log10=math.log10, class_name=class_name)


def build(
    artifact: Artifact,
    test: Split,
    measurement: Measurement,
    verdicts: Sequence[Verdict],
    previous: Path | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Any]:
    """The content of report.json: plain values, None for what could not be measured.

    Images are named by their index in ``test``, what the model was measured on; ``comparison`` is with the model at
    ``previous``.
    """
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
                "comparison": _comparison(previous, comparison, measurement.logits) if comparison else None,
            }
        )
    )
    return content


def write(report: dict[str, Any], test: Split, measurement: Measurement, folder: Path) -> Path:
    """Write report.json and report.html, each atomically, into ``folder``; the path of the latter.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "report.json", files.to_json(report))
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


def markdown(report: dict[str, Any]) -> str:
    """The verdicts, as a pipeline's job summary shows them."""
    return _templates.get_template("report.md.jinja").render(report=report)


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


def _comparison(previous: Path | None, comparison: Comparison, logits: Tensor) -> dict[str, Any]:
    def flips(chosen: Tensor) -> list[dict[str, Any]]:
        return [_image(index, comparison.labels, logits) for index in chosen.nonzero()[:FLIPS, 0].tolist()]

    def per_digit(chosen: Tensor) -> list[int]:
        return torch.bincount(comparison.labels[chosen], minlength=10).tolist()

    return {
        "previous": str(previous),
        "lost_per_digit": per_digit(comparison.lost),
        "gained_per_digit": per_digit(comparison.gained),
        "lost": flips(comparison.lost),
        "gained": flips(comparison.gained),
    }


def _data_uri(image: Tensor) -> str:
    """A uint8 [H, W] image as a PNG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
