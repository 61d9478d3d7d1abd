"""Describe the machine that a benchmark runs on."""

import datetime
import platform
import time
from pathlib import Path

import psutil
import torch

from mnist import resources


def matrix_multiplication_rate(threads: int) -> float:
    """GFLOP/s of float32 products of 2048 x 2048 matrices, the best of ten: no network computes faster here."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(2, 2048, 2048)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return 2 * 2048**3 / min(seconds) / 1e9


def describe(rates: dict[int, float]) -> str:
    """Describe processors, memory, versions and the rates of matrix multiplication, by number of threads."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    rate = ", ".join(f"{rate:.0f} GFLOP/s on {threads} thread{'s' * (threads > 1)}" for threads, rate in rates.items())
    return (
        f"{datetime.date.today()}; {resources.processors()} processors ({model}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}.\n"
        f"Multiplying matrices: {rate}."
    )
