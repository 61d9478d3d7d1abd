"""What is measured of a model: pure functions of tensors.

Accuracies and confidences are fractions in [0, 1]. What cannot be measured (no images, a digit that does not occur, a
model that fails) is NaN or empty, never a guess.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNCALIBRATED_THRESHOLD = 0.9  # of a model whose threshold nobody has determined
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Performance:
    """How good a model is on images that it was not trained on."""

    measured_on: str  # description of the images
    images: int
    loss: float  # mean cross-entropy
    accuracy: float
    per_digit: tuple[float, ...]  # accuracy on the images of each class
    threshold: float = UNCALIBRATED_THRESHOLD  # confidence from which on a prediction counts as sure

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")


def accuracy(labels: Tensor, predictions: Tensor) -> float:
    """Share of predictions, int64 [N], that equal their labels, int64 [N]; NaN for N = 0."""
    return (labels == predictions).float().mean().item()


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Counts, int64 [classes, classes]: row i, column j holds how many images of class i were taken for class j."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class's images that were recognized (its recall), float64 [classes]; NaN for an empty class."""
    return confusion.diag().double() / confusion.sum(1)


def calibration_bins(confidence: Tensor, right: Tensor) -> Tensor:
    """Up to 15 bins of equally many images each, by confidence: mean confidence, accuracy, images; float64 [bins, 3].

    Args:
        confidence: probability of the predicted class, float32 [N].
        right: whether that is the class, bool [N].
    """
    order = confidence.argsort(stable=True)
    bins = [indices for indices in order.tensor_split(BINS) if len(indices)]
    rows = [[confidence[b].double().mean().item(), right[b].double().mean().item(), len(b)] for b in bins]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 3)


def confidence_threshold(confidence: Tensor, right: Tensor, risk: float) -> float:
    """The least confidence that, where only answers from there on are given, keeps their share of mistakes to ``risk``.

    Selective classification (Geifman and El-Yaniv, 2017, arXiv 1705.08500), by the bare share. 1 where none does.
    Arguments are those of :func:`calibration_bins`.
    """
    order = confidence.argsort(descending=True, stable=True)
    ranked = confidence[order]
    mistakes = (~right[order]).double().cumsum(0) / torch.arange(1, len(order) + 1)
    ends = ranked.diff(append=ranked.new_tensor([-1.0])) != 0  # of those equally sure all are answered, or none
    enough = (ends & (mistakes <= risk)).nonzero()
    return ranked[enough[-1, 0]].item() if len(enough) else 1.0
