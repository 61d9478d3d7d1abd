"""The progress of a training run: what it has done so far, and regular reports."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from mnist import resources
from mnist.distributed import Group
from mnist.errors import MnistError

REPORTS_PER_RUN = 50  # approximately; for each of them the host waits for the device


class DivergedError(MnistError):
    """A training run whose loss is no longer a finite number."""


@dataclass(frozen=True)
class Progress:
    """One progress report. Loss and accuracy are means over the augmented images since the report before it."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


Report = Callable[[Progress], None]


class Position(Protocol):
    """How far a run has advanced, counted in batches. `mnist.trainer` has the implementation."""

    step: int  # number of batches so far
    steps: int
    epoch: int  # counted from 1
    epochs: int
    images: int  # of all epochs together


@dataclass(frozen=True)
class Usage:
    """The time and memory that a run used, including the parts before an interruption."""

    images: int  # seen over all epochs
    seconds: float  # of the training loop
    startup_seconds: float  # from the start of the process to the end of the first step
    peak_memory: int  # of the process, bytes
    cpu_use: float  # processor seconds per second: 2.0 is two cores in full use

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


class ProgressTracker:
    """Counts images, time and results of a run, reports them regularly, and stops a run that has diverged."""

    def __init__(self, position: Position, report: Report, group: Group) -> None:
        self._position, self._report, self._group = position, report, group
        self._interval = max(1, position.steps // REPORTS_PER_RUN)
        self._seen = 0
        self._losses: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._process = psutil.Process()
        self._startup = math.nan
        self._clock_offset = -time.perf_counter()
        self._processor_offset = -self._processor_seconds()

    def record(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Record one step.

        Args:
            loss: float32 [].
            correct: for each image of this process, whether it was classified correctly, bool [B].
            images: number of images of all processes.
        """
        step = self._position.step
        self._seen += images
        self._losses.append(loss)
        self._correct.append(correct)
        if math.isnan(self._startup):
            self._startup = resources.process_age()
        if step % self._interval == 0 or step == self._position.steps:
            self._report_progress()

    def state_dict(self) -> Mapping[str, Any]:
        return {"seen": self._seen, "seconds": self._seconds(), "processor_seconds": self._processor_spent()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]
        self._clock_offset += state["seconds"]
        self._processor_offset += state["processor_seconds"]

    def usage(self) -> Usage:
        """Return the time and memory that the run has used so far."""
        seconds = self._seconds()
        return Usage(
            images=self._seen,
            seconds=seconds,
            startup_seconds=self._startup,
            peak_memory=resources.peak_memory(),
            cpu_use=self._processor_spent() / seconds,
        )

    def _report_progress(self) -> None:
        losses, correct = torch.stack(self._losses), torch.cat(self._correct)
        sums = [losses.mean() / self._group.size, correct.sum(), torch.tensor(len(correct), device=correct.device)]
        loss, n_correct, images = self._group.sum(torch.stack([value.float() for value in sums])).tolist()
        self._losses.clear()
        self._correct.clear()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} after {self._position.step:,} steps (try a smaller learning rate)")
        rate = self._seen / self._seconds()
        self._report(
            Progress(
                epoch=self._position.epoch,
                epochs=self._position.epochs,
                step=self._position.step,
                steps=self._position.steps,
                loss=loss,
                accuracy=n_correct / images,
                images_per_second=rate,
                seconds_left=(self._position.images - self._seen) / rate,
            )
        )

    def _seconds(self) -> float:
        return time.perf_counter() + self._clock_offset

    def _processor_spent(self) -> float:
        return self._processor_seconds() + self._processor_offset

    def _processor_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
