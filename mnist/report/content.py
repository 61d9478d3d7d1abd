"""The content of report.json: measurements and verdicts as plain values."""

import dataclasses
import json
import math
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor

from mnist import __version__, files, gate, metrics
from mnist.datasets import Split, class_name
from mnist.gate import Comparison, Evaluation, Probe, Verdict, intervals, ranking
from mnist.gate.intervals import Estimate
from mnist.gate.measurement import Measurement
from mnist.report import risk_coverage

SCHEMA_VERSION = 4  # version of the format of report.json, which report.schema.json describes
NO_INTERVAL = "not computed"  # for differences of timings, and of values that are not measured on the same images
COMPARED_CRITERIA = ("slice-accuracy", "pixel-noise", "corruption-mean", "corruption-worst", "calibration-error")
RISK_COVERAGE_POINTS = 50  # maximum number of points of the risk-coverage curve
MAX_MISTAKES_LISTED = 24
MAX_FLIPS_LISTED = 24  # maximum number of images that only the baseline, or only the new model, predicts correctly


def build(evaluation: Evaluation, test: Split) -> dict[str, Any]:
    """Return the content of report.json. Values that could not be measured are None.

    Args:
        test: the images that the model was evaluated on; the report refers to them by index.
    """
    candidate, measurement, verdicts = evaluation.candidate, evaluation.measurement, evaluation.verdicts
    strongest_first = sorted(measurement.triggers, key=lambda effect: -effect.share)
    confidence, predictions = measurement.logits.softmax(1).max(1)
    # If the model could not be measured, there are no logits.
    correct = predictions == test.labels if len(predictions) else predictions.bool()
    content: dict[str, Any] = json.loads(
        files.to_json(
            {
                "schema": SCHEMA_VERSION,
                "program": f"mnist {__version__}",
                "policy": {
                    "path": str(evaluation.policy.path),
                    "sha256": evaluation.policy.sha256,
                    "sections": evaluation.policy.sections,
                },
                "decision": "block" if gate.blocked(verdicts) else "ship",
                "warnings": ranking.describe_warnings(verdicts),
                "model": str(candidate.path),
                "sha256": candidate.sha256,
                "created": datetime.now(timezone.utc).isoformat(),
                "description": candidate.description,
                "recipe": candidate.card.describe_recipe() if candidate.card else None,
                "card": dataclasses.asdict(candidate.card) if candidate.card else None,
                "log": [dataclasses.asdict(entry) for entry in candidate.log],
                "measured_on": measurement.measured_on,
                "images": measurement.images,
                "verdicts": [_verdict(verdict) for verdict in verdicts],
                "contract_violations": measurement.contract_violations,
                "contradicted_claims": measurement.contradicted_claims,
                "loss": measurement.loss,
                "classes": measurement.classes,
                "confusion": measurement.confusion,
                "digits": [
                    _estimate(intervals.proportion(row[digit], sum(row)))
                    for digit, row in enumerate(measurement.confusion)
                ],
                "calibration": _calibration(confidence, correct),
                "risk_coverage": _risk_coverage(confidence, correct),
                "probes": [_probe(probe) for probe in measurement.probes],
                "slices": [
                    {"name": each.name, "images": each.images, "right": each.right}
                    | _estimate(intervals.proportion(each.right, each.images))
                    for each in measurement.slices
                ],
                "triggers": [dataclasses.asdict(effect) for effect in strongest_first],
                "gradient_norms": measurement.gradient_norms,
                "initial_gradient_norms": measurement.initial_gradient_norms,
                "dead_units": measurement.dead_units,
                "mistakes": _mistakes(test, measurement.logits),
                "comparison": _comparison(evaluation),
            }
        )
    )
    return content


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "criterion": verdict.criterion,
        "relation": verdict.relation,
        "bound": verdict.bound,
        **_estimate(verdict.figure),
        "what": verdict.figure.what,
        "outcome": verdict.outcome.value,
        "blocks": verdict.blocks,
        "used": verdict.used,
        "reason": verdict.reason,
        "shown": {
            "figure": verdict.figure_text,
            "interval": verdict.interval_text,
            "bound": verdict.bound_text,
        },
    }


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _probe(probe: Probe) -> dict[str, Any]:
    fields = ("kind", "name", "strength", "images", "right", "lost", "gained")
    return {field: getattr(probe, field) for field in fields} | _estimate(
        intervals.proportion(probe.right, probe.images)
    )


def _calibration(confidence: Tensor, correct: Tensor) -> list[dict[str, float]]:
    bins = metrics.calibration_bins(confidence, correct).tolist()
    described = []
    for mean, accuracy, count in bins:
        estimate = intervals.proportion(round(accuracy * count), int(count))
        bounds = {"low": estimate.low, "high": estimate.high}
        described.append({"confidence": mean, "accuracy": accuracy, **bounds, "images": int(count)})
    return described


def _risk_coverage(confidence: Tensor, correct: Tensor) -> list[dict[str, float]]:
    rows = risk_coverage.curve(confidence, correct, RISK_COVERAGE_POINTS).tolist()
    return [{"threshold": threshold, "coverage": coverage, "risk": risk} for threshold, coverage, risk in rows]


def _mistakes(test: Split, logits: Tensor) -> list[dict[str, Any]]:
    """Return the mistakes with the highest confidence, in descending order of confidence."""
    if not len(logits):
        return []
    confidence, predictions = logits.softmax(1).max(1)
    wrong = (predictions != test.labels).nonzero()[:, 0]
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MAX_MISTAKES_LISTED]
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
        indices = chosen.nonzero()[:MAX_FLIPS_LISTED, 0].tolist()
        return [_image(index, comparison.labels, evaluation.measurement.logits) for index in indices]

    return {
        "previous": str(baseline.candidate.path),
        "previous_log": [dataclasses.asdict(entry) for entry in baseline.candidate.log],
        "lost_per_digit": list(comparison.per_class(comparison.lost).values()),
        "gained_per_digit": list(comparison.per_class(comparison.gained).values()),
        "lost": flips(comparison.lost),
        "gained": flips(comparison.gained),
        "changed": [
            {"criterion": new.criterion, "baseline": old.outcome.value, "new": new.outcome.value}
            for old, new in evaluation.changed
        ],
        "figures": compare(evaluation),
    }


def compare(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the metrics of a model and its baseline with the differences, or an empty list if there is no baseline.

    Differences in accuracy have a confidence interval for paired data.
    """
    comparison, baseline = evaluation.comparison, evaluation.baseline
    if comparison is None or baseline is None:
        return []
    new, old = evaluation.figures, baseline.figures
    return [
        *_figures(evaluation.measurement, baseline.measurement, comparison),
        *(_without_interval(name, "fraction", (new[name], old[name]), NO_INTERVAL) for name in COMPARED_CRITERIA),
    ]


def _figures(new: Measurement, old: Measurement, comparison: Comparison) -> list[dict[str, Any]]:
    """Return the accuracies, latency and sizes of both models, and their differences."""

    def accuracy(name: str, values: tuple[float, float], chosen: Tensor) -> dict[str, Any]:
        gained, lost = int(comparison.gained[chosen].sum()), int(comparison.lost[chosen].sum())
        difference = intervals.paired_difference(gained, lost, int(chosen.sum()))
        return _figure(name, "fraction", values, difference)

    overall = accuracy("accuracy", (new.accuracy, old.accuracy), torch.ones_like(comparison.lost))
    per_class = [
        accuracy(
            class_name(label, new.classes),
            (_class_accuracy(new, label), _class_accuracy(old, label)),
            comparison.labels == label,
        )
        for label in range(len(new.classes))
    ]
    return [
        overall,
        *per_class,
        _without_interval("latency", "ms", (1000 * new.latency, 1000 * old.latency), NO_INTERVAL),
        _without_interval("size on disk", "kB", (new.bytes / 1000, old.bytes / 1000), "exact"),
        _without_interval("parameters", "", (new.parameters, old.parameters), "exact"),
    ]


def _class_accuracy(measurement: Measurement, label: int) -> float:
    if not measurement.confusion:
        return math.nan
    row = measurement.confusion[label]
    return intervals.proportion(row[label], sum(row)).value


def _without_interval(name: str, unit: str, values: tuple[float, float], shown: str) -> dict[str, Any]:
    """Return a figure whose difference has no interval; ``shown`` is the text in place of the interval.

    For a difference that is not exact, the ends of the interval are NaN, which become null in JSON.
    """
    difference = intervals.exact(values[0] - values[1])
    if shown == NO_INTERVAL:
        difference = dataclasses.replace(difference, low=math.nan, high=math.nan)
    return _figure(name, unit, values, difference, shown)


def _figure(
    name: str, unit: str, values: tuple[float, float], difference: Estimate, without_interval: str = ""
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "new": values[0],
        "baseline": values[1],
        "difference": _estimate(difference),
        "shown": {
            "new": format_figure(values[0], unit),
            "baseline": format_figure(values[1], unit),
            "difference": format_figure(difference.value, unit, sign="+"),
            "interval": f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f} points"
            if difference.low < difference.high
            else without_interval,
        },
    }


def format_figure(value: float, unit: str, sign: str = "") -> str:
    """Format a value with its unit. With ``sign="+"``, the value is a difference and is always shown with a sign."""
    if math.isnan(value):
        return "not measured"
    if unit == "fraction":
        value, unit = 100 * value, "points" if sign else "%"
    decimals = {"%": 2, "points": 2, "ms": 2, "kB": 1, "": 0}[unit]
    rounded = round(value, decimals) + 0.0  # 0.0 instead of -0.0
    return f"{rounded:{sign},.{decimals}f} {unit}".rstrip()
