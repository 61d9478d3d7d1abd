"""The criteria of the gate. gate.toml holds their bounds."""

import math
from collections.abc import Callable, Mapping

from mnist.datasets import class_name
from mnist.gate import intervals
from mnist.gate.comparison import Comparison
from mnist.gate.intervals import Estimate
from mnist.gate.measurement import Measurement
from mnist.gate.verdicts import Criterion, at_least, at_most


def _exactly(figure: Callable[[Measurement], float]) -> Callable[[Measurement], list[Estimate]]:
    return lambda measurement: [intervals.exact(figure(measurement))]


def _per_digit(measurement: Measurement) -> list[Estimate]:
    rows = enumerate(measurement.confusion)
    names = measurement.classes
    return [intervals.proportion(row[label], sum(row), class_name(label, names)) for label, row in rows]


def _accuracy(measurement: Measurement) -> Estimate:
    rows = measurement.confusion
    return intervals.proportion(sum(row[digit] for digit, row in enumerate(rows)), sum(map(sum, rows)))


def _digit_spread(measurement: Measurement) -> list[Estimate]:
    digits = _per_digit(measurement)
    if not digits or any(math.isnan(digit.value) for digit in digits):
        return []
    worst, best = (choose(digits, key=lambda digit: digit.value) for choose in (min, max))
    return [intervals.difference(best, worst, f"{best.what} minus {worst.what.removeprefix('digit ')}")]


def _each_probe(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Return a function that computes the accuracy under each probe of a kind."""
    return lambda measurement: [
        intervals.proportion(probe.right, probe.images, probe.name)
        for probe in measurement.probes
        if probe.kind == kind
    ]


def _pooled(kind: str) -> Callable[[Measurement], list[Estimate]]:
    """Return the accuracy over all probes of a kind. Their images are treated as distinct, which most of them are."""

    def figures(measurement: Measurement) -> list[Estimate]:
        probes = [probe for probe in measurement.probes if probe.kind == kind]
        return [intervals.proportion(sum(probe.right for probe in probes), sum(probe.images for probe in probes))]

    return figures


def _noise_cost(measurement: Measurement) -> list[Estimate]:
    noise = [probe for probe in measurement.probes if probe.kind == "noise"]
    return [intervals.paired_difference(probe.lost, probe.gained, probe.images) for probe in noise]


def _unseen_advantage(measurement: Measurement) -> list[Estimate]:
    count, n_correct = measurement.seen
    return [intervals.difference(_accuracy(measurement), intervals.proportion(n_correct, count))]


def _confidence_wrong(measurement: Measurement) -> list[Estimate]:
    accuracy = _accuracy(measurement)
    return [intervals.exact(0.0, "no mistake") if accuracy.value == 1 else measurement.confidence_wrong]


def _contract_violations(measurement: Measurement) -> list[Estimate]:
    return [intervals.exact(len(measurement.contract_violations), "; ".join(measurement.contract_violations[:1]))]


def _named(values: Mapping[str, float]) -> list[Estimate]:
    return [intervals.exact(value, name) for name, value in values.items()]


def _digit_regressions(comparison: Comparison) -> list[Estimate]:
    digits = comparison.labels.unique().tolist()
    return [
        comparison.regression(comparison.labels == digit, len(digits), f"{class_name(digit, comparison.classes)}: ")
        for digit in digits
    ]


CRITERIA: tuple[Criterion[Measurement], ...] = (
    at_most("contract-violations", _contract_violations, ".0f", "10 finite logits per image, in batches of any size"),
    at_most("weights-not-finite", _exactly(lambda m: m.weights_not_finite), ",.0f", "all weights are finite numbers"),
    at_most("possibly-seen-images", _exactly(lambda m: m.possibly_seen), ",.0f", "no test image was used for training"),
    at_most("parameters", _exactly(lambda m: m.parameters), ",.0f", "fewer than 25,000 parameters"),
    at_most("size-on-disk", _exactly(lambda m: m.bytes / 1000), ",.1f", "size of the weights file, kB"),
    at_most("latency", _exactly(lambda m: m.latency * 1000), ".2f", "shortest time for a single image, ms"),
    at_least("accuracy", lambda m: [_accuracy(m)], ".2%", "accuracy on all images"),
    at_least("digit-accuracy", _per_digit, ".2%", "every digit is recognized"),
    at_most("digit-spread", _digit_spread, ".2%", "all digits are recognized about equally well"),
    at_most("unseen-advantage", _unseen_advantage, ".2%", "test images are not recognized better than training images"),
    at_most("noise-cost", _noise_cost, ".2%", "accuracy lost to slight noise (sigma 0.1)"),
    at_least("pixel-noise", _pooled("pixel noise"), ".2%", "accuracy under pixel noise of five strengths"),
    at_least("shift", _each_probe("shift"), ".2%", "digits shifted by two pixels are still recognized"),
    at_least("rotation", _each_probe("rotation"), ".2%", "digits rotated by 10 degrees are still recognized"),
    at_least("corruption-mean", _pooled("corruption"), ".2%", "mean accuracy under fifteen corruptions"),
    at_least("corruption-worst", _each_probe("corruption"), ".2%", "accuracy under the worst corruption"),
    at_least("confidence-right", lambda m: [m.confidence_right], ".2%", "correct predictions are confident"),
    at_most("confidence-wrong", _confidence_wrong, ".2%", "wrong predictions are not confident"),
    at_most("calibration-error", lambda m: [m.calibration_error], ".2%", "confidence agrees with accuracy"),
    at_most("batch-disagreement", _exactly(lambda m: m.batch_disagreement), ".1e", "images do not affect each other"),
    at_least("weakest-gradient", lambda m: _named(m.gradient_norms), ".1e", "no gradient vanishes"),
    at_most("strongest-gradient", lambda m: _named(m.gradient_norms), ".1e", "no gradient explodes"),
    at_least("weakest-initial-gradient", lambda m: _named(m.initial_gradient_norms), ".1e", "no gradient vanishes"),
    at_most("strongest-initial-gradient", lambda m: _named(m.initial_gradient_norms), ".1e", "no gradient explodes"),
    at_most("dead-units", lambda m: _named(m.dead_units), ".0%", "share of outputs that are always 0"),
)

REGRESSIONS: tuple[Criterion[Comparison], ...] = (
    at_least("regression", lambda c: [c.regression()], ".3f", "p-value: not significantly worse than the baseline"),
    at_least("digit-regression", _digit_regressions, ".3f", "p-value: not significantly worse on any digit"),
)

RELATIONS = {rule.name: rule.relation for rule in CRITERIA} | {rule.name: rule.relation for rule in REGRESSIONS}
