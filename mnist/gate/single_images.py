"""Predictions for single images and for batches of many sizes: their latency, and their differences."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

IMAGES = 32
MIN_ROUNDS = 5  # over all images; with fewer, the fastest call for an image could still be slowed by other load
MAX_ROUNDS = 10
# Other sizes than those of the other measurements. A model that is deployed can get batches of any size.
BATCH_SIZES = (2, 3, 5, 6, 7, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 100, 128, 200, 256, 1000)
MAX_SECONDS = 0.5  # after this time, no further round starts, except to reach MIN_ROUNDS


def measure(predict: Callable[[Tensor], Tensor], pixels: Tensor, in_batch: Tensor) -> tuple[float, float]:
    """Return the latency and the batch disagreement; see :class:`mnist.gate.measurement.Measurement`.

    PyTorch computes with one thread: several threads would wait for each other if other processes use the processors.

    Args:
        predict: returns the logits of images, [B, 10], on the CPU.
        pixels: float32 [N, 1, 28, 28] in [0, 1].
        in_batch: the logits of the same images in a batch, float32 [N, 10].
    """
    seconds = torch.full((MAX_ROUNDS, len(pixels)), math.inf, dtype=torch.float64)
    disagreement, end = 0.0, time.perf_counter() + MAX_SECONDS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, in_round in enumerate(seconds):
            if number >= MIN_ROUNDS and time.perf_counter() > end:
                break
            for position, image in enumerate(pixels.split(1)):
                started = time.perf_counter()
                alone = predict(image)  # includes the computation on a GPU, because the result is on the CPU
                in_round[position] = time.perf_counter() - started
                difference = alone.softmax(1) - in_batch[position].softmax(0)
                disagreement = max(disagreement, difference.abs().max().item())
    finally:
        torch.set_num_threads(threads)
    return seconds.amin(0).max().item(), disagreement


def disagreement_of_batches(predict: Callable[[Tensor, int], Tensor], pixels: Tensor, expected: Tensor) -> float:
    """Return the largest difference between probabilities in batches of many sizes and the expected ones.

    Args:
        predict: returns the logits of images, [B, 10], on the CPU, given the images and the size of the batch.
        pixels: float32 [N, 1, 28, 28] in [0, 1].
        expected: the logits of the same images, float32 [N, 10].
    """
    differences = [
        (predict(pixels[:size], size).softmax(1) - expected[:size].softmax(1)).abs().max().item()
        for size in BATCH_SIZES
    ]
    return max(differences)
