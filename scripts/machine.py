"""Measure and describe the machine that a benchmark runs on."""

import datetime
import platform
import time

import psutil
import torch

from mnist import resources

MATRIX_SIDE = 2048
MATRIX_PRODUCTS = 10  # number of timed products; the fastest one counts


def matrix_multiplication_rate(threads: int) -> float:
    """Return the rate of float32 matrix products in GFLOP/s, an upper bound of the rate of any network."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE)
    seconds = []
    for _ in range(MATRIX_PRODUCTS):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads_before)
    return 2 * MATRIX_SIDE**3 / min(seconds) / 1e9


def describe(rates: dict[int, float]) -> str:
    """Return the date, processors, memory, versions and matrix multiplication rates; ``rates`` is keyed by threads."""
    rate = ", ".join(f"{rate:.0f} GFLOP/s on {threads} thread{'s' * (threads > 1)}" for threads, rate in rates.items())
    return (
        f"{datetime.date.today()}; {resources.processors()} processors ({resources.processor_name()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}.\n"
        f"Matrix multiplication: {rate}."
    )
