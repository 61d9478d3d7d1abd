"""Metrics computed from labels, predictions and confidences: pure functions of tensors.

Accuracies and confidences are fractions in [0, 1]. The accuracy over zero images is NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mnist.confidence import UNCALIBRATED_THRESHOLD

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Performance:
    """The accuracy and loss of a model on images that it was not trained on."""

    measured_on: str  # description of the images
    images: int
    loss: float  # mean cross-entropy
    accuracy: float
    per_digit: tuple[float, ...]  # accuracy on the images of each class
    threshold: float = UNCALIBRATED_THRESHOLD  # predictions with a lower confidence are reported as "not sure"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")


def accuracy(labels: Tensor, predictions: Tensor) -> float:
    """Return the accuracy: the fraction of predictions (int64 [N]) that equal the labels (int64 [N])."""
    return (labels == predictions).float().mean().item()


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Return the number of images of each true class (row) and predicted class (column), int64 [classes, classes]."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Return the recall of each class: the fraction of its images that were recognized, float64 [classes]."""
    return confusion.diag().double() / confusion.sum(1)


def calibration_bins(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sort images by confidence, and divide them into up to 15 bins of nearly equal size.

    Args:
        confidence: probability of the predicted class, float32 [N].
        correct: whether the prediction is correct, bool [N].

    Returns:
        Mean confidence, accuracy and number of images of each bin, float64 [bins, 3].
    """
    order = confidence.argsort(stable=True)
    bins = [indices for indices in order.tensor_split(CALIBRATION_BINS) if len(indices)]
    rows = [[confidence[b].double().mean().item(), correct[b].double().mean().item(), len(b)] for b in bins]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 3)


def confidence_threshold(confidence: Tensor, correct: Tensor, max_error_rate: float) -> float:
    """Return the lowest threshold such that at most ``max_error_rate`` of the predictions at or above it are wrong.

    This is selective classification (Geifman and El-Yaniv, 2017, arXiv 1705.08500) with the observed error rate. The
    result is 1 if no lower threshold is sufficient. ``confidence`` and ``correct`` are as in :func:`calibration_bins`.
    """
    order = confidence.argsort(descending=True, stable=True)
    ranked = confidence[order]
    error_rates = (~correct[order]).double().cumsum(0) / torch.arange(1, len(order) + 1)
    ends = ranked.diff(append=ranked.new_tensor([-1.0])) != 0  # a threshold cannot separate images of equal confidence
    sufficient = (ends & (error_rates <= max_error_rate)).nonzero()
    return ranked[sufficient[-1, 0]].item() if len(sufficient) else 1.0
