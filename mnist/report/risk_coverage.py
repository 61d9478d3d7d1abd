"""The risk-coverage curve of a report: the error rate of the accepted predictions, by confidence threshold."""

import torch
from torch import Tensor


def curve(confidence: Tensor, correct: Tensor, points: int) -> Tensor:
    """Return the error rate of the predictions at or above a confidence threshold, for up to ``points`` thresholds.

    The thresholds divide the images into groups of nearly equal size. For ``confidence`` and ``correct``, see
    :func:`mnist.metrics.calibration_bins`.

    Returns:
        The threshold, the coverage (fraction of the images at or above the threshold) and the risk (fraction of these
        images that are misclassified), float64 [points, 3], in descending order of the threshold.
    """
    ranked = confidence.sort(descending=True).values
    ends = [int(part[-1]) for part in torch.arange(len(ranked)).tensor_split(points) if len(part)]
    thresholds = ranked[ends].unique().flip(0)
    sure = confidence >= thresholds[:, None]
    answered = sure.sum(1).double()
    wrong = (sure & ~correct).sum(1).double()
    return torch.stack([thresholds.double(), answered / max(len(ranked), 1), wrong / answered], 1)
