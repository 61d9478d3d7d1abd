"""Predictions for single images: their latency, and their differences from the predictions for a batch."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

IMAGES = 32
MIN_ROUNDS = 5  # over all images; with fewer, the fastest call for an image could still be slowed by other load
MAX_ROUNDS = 10
MAX_SECONDS = 0.5  # after this time, no further round starts, except to reach MIN_ROUNDS


def measure(predict: Callable[[Tensor], Tensor], pixels: Tensor, in_batch: Tensor) -> tuple[float, float]:
    """Return the latency and the batch disagreement; see :class:`mnist.gate.measurement.Measurement`.

    Args:
        predict: returns the logits of images, [B, 10], on the CPU.
        pixels: float32 [N, 1, 28, 28] in [0, 1].
        in_batch: the logits of the same images in a batch, float32 [N, 10].
    """
    seconds = torch.full((MAX_ROUNDS, len(pixels)), math.inf, dtype=torch.float64)
    disagreement, end = 0.0, time.perf_counter() + MAX_SECONDS
    for number, in_round in enumerate(seconds):
        if number >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for position, image in enumerate(pixels.split(1)):
            started = time.perf_counter()
            alone = predict(image)  # includes the computation on a GPU, because the result is on the CPU
            in_round[position] = time.perf_counter() - started
            difference = alone.softmax(1) - in_batch[position].softmax(0)
            disagreement = max(disagreement, difference.abs().max().item())
    return seconds.amin(0).max().item(), disagreement
