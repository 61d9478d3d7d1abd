"""Compare the time of a training step with the time of its kernels, with one thread.

The kernels are the operations that compute values. The rest of a step's time is spent in Python, autograd, operator
dispatch and memory allocation. `scripts/benchmark.py` uses this module.
"""

import statistics
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from mnist import datasets, recipes, trainer

STEPS = 50
ROUNDS = 5

# Operations that only allocate memory, create views, or call other operations.
_WITHOUT_COMPUTATION = {
    f"aten::{name}"
    for name in (
        *("empty", "empty_like", "empty_strided", "resize_", "as_strided", "view", "reshape", "alias", "detach"),
        *("t", "transpose", "permute", "slice", "select", "narrow", "unsqueeze", "squeeze", "expand", "split"),
        *("tensor_split", "to", "_to_copy", "lift_fresh", "item", "_local_scalar_dense", "result_type", "is_nonzero"),
        *("convolution", "_convolution", "conv2d", "linear", "max_pool2d", "cross_entropy_loss", "matmul", "stack"),
    )
}


class StepTime(NamedTuple):
    """The time of one training step and of its kernels, in milliseconds."""

    step: float
    kernels: float


def measure(recipe: str) -> StepTime:
    """Train a recipe for some steps on the offline subset, alternately with and without the profiler."""
    torch.set_num_threads(1)
    train = datasets.load_subset().train
    chosen = recipes.get(recipe, epochs=STEPS * recipes.get(recipe).batch_size / len(train))

    def seconds() -> float:
        return trainer.train(chosen, train.images, train.labels).usage.seconds

    seconds()  # the first run imports modules and fills caches
    steps, kernels = [], []
    for _ in range(ROUNDS):
        steps.append(seconds())
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            seconds()
        kernels.append(sum(each.self_cpu_time_total for each in profiler.key_averages() if _is_kernel(each.key)))
    return StepTime(1e3 * statistics.median(steps) / STEPS, statistics.median(kernels) / 1e3 / STEPS)


def _is_kernel(name: str) -> bool:
    return name.startswith("aten::") and name not in _WITHOUT_COMPUTATION
