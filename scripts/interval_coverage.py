"""Simulate how often the gate's 95 % confidence intervals cover the true value.

    python scripts/interval_coverage.py                  takes about 5 minutes; updates docs/gate.md
    python scripts/interval_coverage.py --repetitions 20 --no-document     takes seconds

For every criterion with a confidence interval, and for several realistic true values, the script randomly draws a
model's results on n images and computes the criterion's estimates from these results as the gate does. Then it checks
whether the interval contains the true value. If a criterion judges the worst of several estimates, its interval should
cover the true worst value. For a lower bound, this interval extends from the lowest lower end to the lowest upper end
of the estimates' intervals; for an upper bound, from the highest lower end to the highest upper end. Samples with too
few mistakes to be judged are not counted.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import documents
import torch
from arguments import positive
from torch import Tensor

from mnist.gate import Measurement, Probe, compare, intervals, triggers
from mnist.gate.criteria import BY_NAME, MIN_MISTAKES
from mnist.gate.measurement import IMAGES_PER_PROBE, IMAGES_PER_TRIGGER, TRAINING_SAMPLE
from mnist.gate.sampling import evenly_spaced
from mnist.gate.slices import MIN_SLICE_IMAGES, SLICE_SHARE, Slice
from mnist.gate.triggers import TriggerEffect
from mnist.metrics import CALIBRATION_BINS
from mnist.shapes import CLASSES

DOCUMENT = documents.DOCS / "gate.md"
IMAGES = (300, 1_000, 10_000)
LARGE_SAMPLE = 400_000  # number of images from which the true mean of a distribution is computed
CORRELATION = 0.5  # correlation between the difficulties of an image under two corruptions

Draw = Callable[
    [int, torch.Generator], Any
]  # number of images -> subject of the criterion; None if it cannot be judged


@dataclass(frozen=True)
class Case:
    """A criterion, and a simulated model for which the true value is known."""

    criterion: str
    truth: float
    draw: Draw


def main() -> None:
    """Simulate all cases, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=positive, default=400, help="simulations per case (default: %(default)s)")
    parser.add_argument("--no-document", action="store_true", help="only print the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["criterion", *(f"n = {images:,}: mean (lowest)" for images in IMAGES)]
    rows = []
    for criterion, cases in by_criterion().items():
        columns = [_show([coverage(case, images, options.repetitions) for case in cases]) for images in IMAGES]
        rows.append([criterion, *columns])
        print(documents.row(rows[-1]), flush=True)
    if not options.no_document:
        documents.replace_section(DOCUMENT, "coverage", documents.table(header, rows, "lrrr"))


def by_criterion() -> dict[str, list[Case]]:
    """Return all cases, keyed by the name of their criterion."""
    grouped: dict[str, list[Case]] = {}
    for case in cases():
        grouped.setdefault(case.criterion, []).append(case)
    return grouped


def coverage(case: Case, images: int, repetitions: int) -> float:
    """Return the share of simulated samples of ``images`` images whose interval covers the true value.

    The result is NaN if fewer than a quarter of the samples can be judged.
    """
    generator = torch.Generator().manual_seed(0)
    rule, covered, judged = BY_NAME[case.criterion], 0, 0
    for _ in range(repetitions):
        subject = case.draw(images, generator)
        if subject is None:
            continue
        figures = rule.figures(subject)
        choose = min if rule.relation == "at_least" else max
        low, high = choose(figure.low for figure in figures), choose(figure.high for figure in figures)
        covered += low - 1e-12 <= case.truth <= high + 1e-12
        judged += 1
    return covered / judged if judged >= repetitions / 4 else math.nan


def _show(shares: Sequence[float]) -> str:
    shares = [share for share in shares if not math.isnan(share)]
    return f"{sum(shares) / len(shares):.3f} ({min(shares):.3f})" if shares else "not judged"


# ---- Cases -----------------------------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """Yield all cases. The true values are typical of models from `baseline` to `accurate` and of some worse models."""
    for accuracy in (0.9, 0.95, 0.98, 0.99, 0.995, 0.998):
        yield Case("accuracy", accuracy, _digits([accuracy] * CLASSES))
        for other in (0.0, 0.005, 0.02):
            yield Case(
                "unseen-advantage",
                accuracy - min(1.0, accuracy + other),
                _training(accuracy, min(1.0, accuracy + other)),
            )
    for best, step in ((0.98, 0.0), (0.99, 0.002), (0.995, 0.005), (0.999, 0.001), (0.97, 0.008)):
        rates = [best - step * digit for digit in range(CLASSES)]
        one_worse = [best] * (CLASSES - 1) + [best - 0.05]
        for each in (rates, one_worse):
            yield Case("digit-accuracy", min(each), _digits(each))
            yield Case("digit-spread", max(each) - min(each), _digits(each))
    for best, step in ((0.99, 0.0), (0.98, 0.01), (0.95, 0.02), (0.9, 0.0)):
        yield Case("slice-accuracy", best - 5 * step, _slices([best - step * number for number in range(6)]))
        yield Case("shift", best - 3 * step, _probes("shift", [best - step * number for number in range(4)]))
        yield Case("rotation", best - step, _probes("rotation", [best, best - step]))
    for worst, best in ((0.9, 0.99), (0.75, 0.95), (0.5, 0.95), (0.85, 0.85)):
        rates = [best - (best - worst) * number / 4 for number in range(5)]
        yield Case("pixel-noise", sum(rates) / 5, _probes("pixel noise", rates))
    for worst, best in ((0.2, 0.97), (0.1, 0.95), (0.6, 0.99), (0.8, 0.8)):
        rates = [best - (best - worst) * number / 14 for number in range(15)]
        yield Case("corruption-mean", sum(rates) / 15, _probes("corruption", rates))
        yield Case("corruption-worst", worst, _probes("corruption", rates))
    for lost, gained in ((0.002, 0.002), (0.02, 0.01), (0.05, 0.01), (0.005, 0.0), (0.0, 0.0)):
        yield Case("noise-cost", lost - gained, _noise(lost, gained))
        yield Case("accuracy-loss", lost - gained, _comparison([lost] * CLASSES, [gained] * CLASSES))
        losses = [lost + 0.003 * digit for digit in range(CLASSES)]
        yield Case("digit-loss", losses[-1] - gained, _comparison(losses, [gained] * CLASSES))
        yield Case("digit-loss", lost - gained, _comparison([lost] * CLASSES, [gained] * CLASSES))
    for strongest, others in ((0.02, 0.02), (0.3, 0.05), (0.5, 0.5), (0.9, 0.1)):
        yield Case("trigger-pull", strongest, _triggers(strongest, others))
    for distribution in ((5.0, 2.0, 1.0), (4.0, 2.0, 1.5), (6.0, 2.5, 0.7), (3.0, 1.5, 1.0), (7.0, 2.0, 2.0)):
        yield from _confidences(*distribution)


def _measurement(images: int, **fields: Any) -> Measurement:
    values = {"possibly_seen": 0, "near_duplicates": 0, "parameters": 1, "bytes": 1, "weights_not_finite": 0}
    return Measurement("simulated images", images, contract_violations=(), **{**values, **fields})


def _binomial(count: int, rate: float, generator: torch.Generator) -> int:
    return int((torch.rand(count, generator=generator) < rate).sum())


def _confusion(rates: Sequence[float], images: int, generator: torch.Generator) -> tuple[tuple[int, ...], ...]:
    """Return a confusion matrix with these accuracies, in which every wrong prediction is the next class."""
    rows = []
    for digit, rate in enumerate(rates):
        count = images // CLASSES
        right = _binomial(count, rate, generator)
        row = [0] * CLASSES
        row[digit], row[(digit + 1) % CLASSES] = right, count - right
        rows.append(tuple(row))
    return tuple(rows)


def _digits(rates: Sequence[float]) -> Draw:
    return lambda images, generator: _measurement(images, confusion=_confusion(rates, images, generator))


def _training(accuracy: float, on_training: float) -> Draw:
    def draw(images: int, generator: torch.Generator) -> Measurement:
        seen = min(TRAINING_SAMPLE, 4 * images)
        return _measurement(
            images,
            confusion=_confusion([accuracy] * CLASSES, images, generator),
            seen=(seen, _binomial(seen, on_training, generator)),
        )

    return draw


def _slices(rates: Sequence[float]) -> Draw:
    def draw(images: int, generator: torch.Generator) -> Measurement:
        count = max(MIN_SLICE_IMAGES, round(SLICE_SHARE * images))
        each = [Slice(f"slice {number}", count, _binomial(count, rate, generator)) for number, rate in enumerate(rates)]
        return _measurement(images, slices=tuple(each))

    return draw


def _probes(kind: str, rates: Sequence[float]) -> Draw:
    """Draw probes with correlated results: an image that is difficult under one change is difficult under others."""
    thresholds = torch.special.ndtri(torch.tensor(rates))

    def draw(images: int, generator: torch.Generator) -> Measurement:
        difficulty = torch.randn(images, generator=generator) * math.sqrt(CORRELATION)
        count = min(IMAGES_PER_PROBE, images)
        probes = []
        for number, threshold in enumerate(thresholds):
            chosen = evenly_spaced(images, count, number)
            own = torch.randn(count, generator=generator) * math.sqrt(1 - CORRELATION)
            probes.append(_probe(kind, f"{kind} {number}", chosen, difficulty[chosen] + own < threshold))
        return _measurement(images, probes=tuple(probes))

    return draw


def _noise(lost: float, gained: float) -> Draw:
    def draw(images: int, generator: torch.Generator) -> Measurement:
        count = min(IMAGES_PER_PROBE, images)
        chance = torch.rand(count, generator=generator)
        n_lost, n_gained = int((chance < lost).sum()), int((chance >= 1 - gained).sum())
        probe = _probe("noise", "noise", torch.arange(count), chance >= lost, lost=n_lost, gained=n_gained)
        return _measurement(images, probes=(probe,))

    return draw


def _probe(kind: str, name: str, chosen: Tensor, recognized: Tensor, lost: int = 0, gained: int = 0) -> Probe:
    right = int(recognized.sum())
    return Probe(kind, name, 1.0, len(chosen), right, lost, gained, torch.empty(0), chosen, recognized)


def _comparison(lost: Sequence[float], gained: Sequence[float]) -> Draw:
    def draw(images: int, generator: torch.Generator) -> Any:
        labels = torch.arange(images) % CLASSES
        chance = torch.rand(images, generator=generator)
        is_lost, is_gained = chance < torch.tensor(lost)[labels], chance >= 1 - torch.tensor(gained)[labels]
        right, wrong = torch.eye(CLASSES)[labels], torch.eye(CLASSES)[(labels + 1) % CLASSES]
        new = torch.where(is_lost[:, None], wrong, right)
        return compare(labels, new, torch.where(is_gained[:, None], wrong, right))

    return draw


def _triggers(strongest: float, others: float) -> Draw:
    count_of_triggers = len(list(triggers.family()))

    def draw(images: int, generator: torch.Generator) -> Measurement:
        count = min(IMAGES_PER_TRIGGER, images) * (CLASSES - 1) // CLASSES
        effects = []
        for number in range(count_of_triggers):
            rates = [strongest if number == 0 and digit == 0 else others for digit in range(CLASSES)]
            pulled = max(_binomial(count, rate, generator) for rate in rates)
            effects.append(TriggerEffect(f"patch {number}", 0, count, pulled))
        return _measurement(images, triggers=tuple(effects))

    return draw


def _confidences(middle: float, width: float, temperature: float) -> Iterator[Case]:
    """Yield the cases about confidence, for confidences whose log-odds are normally distributed.

    Args:
        temperature: the true log-odds are the log-odds of the confidence divided by the temperature; if it is above 1,
            the model is overconfident.
    """

    def draw(images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_odds = (middle + width * torch.randn(images, generator=generator)).clamp(min=-1.5)
        correct = torch.rand(images, generator=generator) < torch.sigmoid(log_odds / temperature)
        return torch.sigmoid(log_odds.double()), correct

    def measure(images: int, generator: torch.Generator) -> Measurement:
        confidence, correct = draw(images, generator)
        right, mistakes = int(correct.sum()), int((~correct).sum())
        return _measurement(
            images,
            confusion=((right, mistakes, *[0] * 8), *[(0,) * CLASSES] * 9),
            confidence_right=intervals.mean(confidence[correct]),
            confidence_wrong=intervals.mean(confidence[~correct]),
            calibration_error=intervals.calibration_error(confidence, correct),
        )

    def measure_mistakes(images: int, generator: torch.Generator) -> Measurement | None:
        measured = measure(images, generator)
        return measured if measured.confusion[0][1] >= MIN_MISTAKES else None

    confidence, _ = draw(LARGE_SAMPLE, torch.Generator().manual_seed(1))
    true_accuracy = torch.sigmoid(torch.logit(confidence) / temperature)
    bins = confidence.argsort().tensor_split(CALIBRATION_BINS)
    error = sum(abs((confidence[b] - true_accuracy[b]).sum().item()) for b in bins) / LARGE_SAMPLE
    right = (confidence * true_accuracy).sum() / true_accuracy.sum()
    wrong = (confidence * (1 - true_accuracy)).sum() / (1 - true_accuracy).sum()
    yield Case("confidence-right", right.item(), measure)
    yield Case("confidence-wrong", wrong.item(), measure_mistakes)
    yield Case("calibration-error", error, measure)


if __name__ == "__main__":
    main()
