"""What changed against another model, image by image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist.datasets import DIGITS, class_name
from mnist.gate import intervals
from mnist.gate.intervals import Estimate


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images: the digits, bool [N], that only the old or only the new one recognized."""

    labels: Tensor
    lost: Tensor
    gained: Tensor
    classes: Sequence[str] = DIGITS

    def per_class(self, chosen: Tensor) -> dict[str, int]:
        """Return how many of the chosen images, bool [N], are of each class, by its name."""
        counts = torch.bincount(self.labels[chosen], minlength=len(self.classes)).tolist()
        return {class_name(label, self.classes): count for label, count in enumerate(counts)}


def compare(labels: Tensor, logits: Tensor, previous: Tensor, classes: Sequence[str] = DIGITS) -> Comparison:
    """What changed for images of these labels, int64 [N], between two models' logits, float32 [N, 10].

    Without finite logits of both nothing can be compared, and the comparison is empty.
    """
    if not len(labels) == len(logits) == len(previous) or not torch.cat([logits, previous]).isfinite().all():
        labels, logits, previous = labels[:0], logits[:0], previous[:0]
    now, before = logits.argmax(1) == labels, previous.argmax(1) == labels
    return Comparison(labels, lost=before & ~now, gained=now & ~before, classes=classes)


def regression(comparison: Comparison, chosen: Tensor, tests: int, what: str = "") -> Estimate:
    """McNemar's p-value where the new model is the worse, times the number of tests (Bonferroni), else 1."""
    lost, gained = int(comparison.lost[chosen].sum()), int(comparison.gained[chosen].sum())
    if not chosen.any():
        return intervals.exact(math.nan, what)
    p = min(1.0, tests * intervals.mcnemar(lost, gained)) if lost > gained else 1.0
    return intervals.exact(p, f"{what}{lost} lost, {gained} gained")
