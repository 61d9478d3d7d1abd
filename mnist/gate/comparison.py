"""Compare two models on the same images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist.datasets import DIGITS, class_name
from mnist.gate import intervals
from mnist.gate.intervals import Estimate


@dataclass(frozen=True)
class Comparison:
    """The images that only one of two models recognizes."""

    labels: Tensor  # int64 [N]
    lost: Tensor  # images that only the baseline recognizes, bool [N]
    gained: Tensor  # images that only the new model recognizes, bool [N]
    classes: Sequence[str] = DIGITS
    margin: float = 0.0  # acceptable loss of accuracy
    digit_margin: float = 0.0  # acceptable loss of accuracy on one digit

    def per_class(self, chosen: Tensor) -> dict[str, int]:
        """Return the number of chosen images (bool [N]) in each class, keyed by class name."""
        counts = torch.bincount(self.labels[chosen], minlength=len(self.classes)).tolist()
        return {class_name(label, self.classes): count for label, count in enumerate(counts)}

    def digits(self) -> Iterator[tuple[Tensor, int, str]]:
        """For each digit, yield its images (bool [N]), the number of digits, and a prefix for messages."""
        labels = self.labels.unique().tolist()
        for label in labels:
            yield self.labels == label, len(labels), f"{class_name(label, self.classes)}: "

    def loss(self, chosen: Tensor | None = None, tests: int = 1, what: str = "") -> Estimate:
        """Return the loss of accuracy of the new model on the chosen images (bool [N]; default: all).

        Args:
            tests: number of losses that are judged together, for the Bonferroni correction.
            what: prefix of the description, such as "digit 3: ".
        """
        lost, gained, count = self._count(chosen)
        return intervals.paired_difference(lost, gained, count, f"{what}{lost} lost, {gained} gained", tests)

    def regression(self, margin: float, chosen: Tensor | None = None, tests: int = 1, what: str = "") -> Estimate:
        """Return McNemar's p-value for the chosen images (bool [N]; default: all), or 1 if the loss is acceptable.

        Args:
            margin: acceptable loss of accuracy, regardless of its significance.
            tests: number of tests performed together, for the Bonferroni correction.
            what: prefix of the description, such as "digit 3: ".
        """
        lost, gained, count = self._count(chosen)
        if count == 0:
            return intervals.exact(math.nan, what)
        p = min(1.0, tests * intervals.mcnemar(lost, gained)) if lost - gained > margin * count else 1.0
        return intervals.exact(p, f"{what}{lost} lost, {gained} gained")

    def _count(self, chosen: Tensor | None) -> tuple[int, int, int]:
        """Return the numbers of lost, gained and all chosen images."""
        chosen = torch.ones_like(self.lost) if chosen is None else chosen
        return int(self.lost[chosen].sum()), int(self.gained[chosen].sum()), int(chosen.sum())


def compare(labels: Tensor, logits: Tensor, baseline: Tensor, classes: Sequence[str] = DIGITS) -> Comparison:
    """Compare the logits of a model and a baseline, float32 [N, 10] each, on images with labels, int64 [N].

    The comparison is empty if the lengths differ or a logit is not finite.
    """
    if not len(labels) == len(logits) == len(baseline) or not torch.cat([logits, baseline]).isfinite().all():
        labels, logits, baseline = labels[:0], logits[:0], baseline[:0]
    now, before = logits.argmax(1) == labels, baseline.argmax(1) == labels
    return Comparison(labels, lost=before & ~now, gained=now & ~before, classes=classes)
