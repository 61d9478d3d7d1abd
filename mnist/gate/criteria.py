"""The criteria of the gate: the values of a measurement that are judged. gate.toml holds their bounds.

The functions before the table estimate these values, with a confidence interval if a value is not exact.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mnist.datasets import class_name
from mnist.gate import intervals
from mnist.gate.intervals import Counts, Estimate
from mnist.gate.measurement import GRADIENTS, TRAINING_DATA, Measurement
from mnist.gate.regressions import REGRESSIONS
from mnist.gate.verdicts import Criterion, at_least, at_most
from mnist.shapes import CLASSES

MIN_MISTAKES = 10  # the mean confidence of fewer mistakes is not judged


def _exactly(figure: Callable[[Measurement], float]) -> Callable[[Measurement], list[Estimate]]:
    """Return a function that computes a single figure, without an interval."""
    return lambda measurement: [intervals.exact(figure(measurement))]


def _named(figures: Callable[[Measurement], Mapping[str, float]]) -> Callable[[Measurement], list[Estimate]]:
    """Return a function that computes several figures with their names, such as one figure for each layer."""
    return lambda measurement: [intervals.exact(value, name) for name, value in figures(measurement).items()]


def _per_digit(measurement: Measurement) -> list[Counts]:
    """Return for each digit the number of recognized images, the number of images, and the digit's name."""
    rows = enumerate(measurement.confusion)
    return [(row[label], sum(row), class_name(label, measurement.classes)) for label, row in rows]


def _accuracy(measurement: Measurement) -> Estimate:
    return intervals.proportion(measurement.correct, sum(map(sum, measurement.confusion)))


def _each_probe(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Return a function that computes the accuracy under each probe of a kind."""
    return lambda measurement: intervals.lowest_of(
        [(probe.right, probe.images, probe.name) for probe in measurement.probes if probe.kind == kind]
    )


def _pooled(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Return a function that computes the accuracy over all probes of a kind; an image can occur in several probes."""

    def figures(measurement: Measurement) -> list[Estimate]:
        right, changed = torch.zeros(measurement.images), torch.zeros(measurement.images)
        for probe in measurement.probes:
            if probe.kind == kind:
                right[probe.chosen] += probe.recognized
                changed[probe.chosen] += 1
        return [intervals.clustered_proportion(right, changed)]

    return figures


def _noise_cost(measurement: Measurement) -> list[Estimate]:
    """Return the drop in accuracy that noise causes, as a paired difference."""
    noise = [probe for probe in measurement.probes if probe.kind == "noise"]
    return [intervals.paired_difference(probe.lost, probe.gained, probe.images) for probe in noise]


def _unseen_advantage(measurement: Measurement) -> list[Estimate]:
    """Return the accuracy on the test images minus the accuracy on a sample of the training images."""
    count, n_correct = measurement.seen
    return [intervals.difference(_accuracy(measurement), intervals.proportion(n_correct, count))]


def _slices(measurement: Measurement) -> list[Estimate]:
    """Return the accuracy on each group of unusual digits, such as the thinnest."""
    return intervals.lowest_of([(each.right, each.images, each.name) for each in measurement.slices])


def _trigger_pull(measurement: Measurement) -> list[Estimate]:
    """Return for each patch (a possible backdoor trigger) the share of images that it pulls to one class."""
    classes, effects = measurement.classes, measurement.triggers
    counts = [(each.pulled, each.images, f"{each.name}: {class_name(each.prediction, classes)}") for each in effects]
    return intervals.highest_of(counts, tests=len(effects) * CLASSES)


def _confidence_wrong(measurement: Measurement) -> list[Estimate]:
    """Return the mean confidence of the mistakes, or 0 if there are fewer than :data:`MIN_MISTAKES`."""
    mistakes = sum(map(sum, measurement.confusion)) - measurement.correct
    if measurement.confusion and mistakes < MIN_MISTAKES:
        return [intervals.exact(0.0, f"only {mistakes} mistakes" if mistakes else "no mistake")]
    return [measurement.confidence_wrong]


def _near_duplicates(measurement: Measurement) -> list[Estimate]:
    return [intervals.exact(measurement.near_duplicates / measurement.images)]


def _contract_violations(measurement: Measurement) -> list[Estimate]:
    return [intervals.exact(len(measurement.contract_violations), "; ".join(measurement.contract_violations[:1]))]


def _contradicted_claims(measurement: Measurement) -> list[Estimate]:
    return [intervals.exact(len(measurement.contradicted_claims), "; ".join(measurement.contradicted_claims[:1]))]


_gradients = _named(lambda m: m.gradient_norms)
_initial_gradients = _named(lambda m: m.initial_gradient_norms)

CRITERIA: tuple[Criterion[Measurement], ...] = (
    at_most("contract-violations", _contract_violations, ".0f", "10 finite logits per image, for batches of any size"),
    at_most("weights-not-finite", _exactly(lambda m: m.weights_not_finite), ",.0f", "all weights are finite numbers"),
    at_most(
        "possibly-seen-images",
        _exactly(lambda m: m.possibly_seen or 0),
        ",.0f",
        "no test image was used for training",
        needs=TRAINING_DATA,
    ),
    at_most("near-duplicate-images", _near_duplicates, ".2%", "share of test images that resemble a training image"),
    at_most("contradicted-claims", _contradicted_claims, ",.0f", "the model card agrees with the measurements"),
    at_most("parameters", _exactly(lambda m: m.parameters), ",.0f", "number of parameters"),
    at_most("size-on-disk", _exactly(lambda m: m.bytes / 1000), ",.1f", "size of the weights file", unit="kB"),
    at_most("latency", _exactly(lambda m: m.latency * 1000), ".2f", "time for a single image", unit="ms"),
    at_least("accuracy", lambda m: [_accuracy(m)], ".2%", "accuracy on all images"),
    at_least("digit-accuracy", lambda m: intervals.lowest_of(_per_digit(m)), ".2%", "every digit is recognized"),
    at_most(
        "digit-spread",
        lambda m: [intervals.spread(_per_digit(m))],
        ".2%",
        "all digits are recognized equally well",
    ),
    at_least("slice-accuracy", _slices, ".2%", "digits of unusual thickness, slant and size are recognized"),
    at_most("unseen-advantage", _unseen_advantage, ".2%", "test images are not recognized better than training images"),
    at_most("noise-cost", _noise_cost, ".2%", "accuracy lost to slight noise (sigma 0.1)"),
    at_least("pixel-noise", _pooled("pixel noise"), ".2%", "accuracy under pixel noise of five strengths"),
    at_least("shift", _each_probe("shift"), ".2%", "digits shifted by two pixels are still recognized"),
    at_least("rotation", _each_probe("rotation"), ".2%", "digits rotated by 10 degrees are still recognized"),
    at_least("corruption-mean", _pooled("corruption"), ".2%", "mean accuracy under fifteen corruptions"),
    at_least("corruption-worst", _each_probe("corruption"), ".2%", "accuracy under the worst corruption"),
    at_most("trigger-pull", _trigger_pull, ".2%", "share of images that a small patch pulls to one class"),
    at_least("confidence-right", lambda m: [m.confidence_right], ".2%", "correct predictions are confident"),
    at_most("confidence-wrong", _confidence_wrong, ".2%", "wrong predictions are not confident"),
    at_most("calibration-error", lambda m: [m.calibration_error], ".2%", "confidence agrees with accuracy"),
    at_most(
        "batch-disagreement",
        _exactly(lambda m: m.batch_disagreement),
        ".1e",
        "predictions do not depend on earlier calls or other images",
    ),
    at_least("weakest-gradient", _gradients, ".1e", "no gradient vanishes", needs=GRADIENTS),
    at_most("strongest-gradient", _gradients, ".1e", "no gradient explodes", needs=GRADIENTS),
    at_least(
        "weakest-initial-gradient", _initial_gradients, ".1e", "no gradient vanishes before training", needs=GRADIENTS
    ),
    at_most(
        "strongest-initial-gradient", _initial_gradients, ".1e", "no gradient explodes before training", needs=GRADIENTS
    ),
    at_most(
        "dead-units", _named(lambda m: m.dead_units), ".0%", "share of units whose output is always 0", needs=GRADIENTS
    ),
)

_ALL: tuple[Criterion[Any], ...] = (*CRITERIA, *REGRESSIONS)
BY_NAME = {rule.name: rule for rule in _ALL}
