"""Track the progress of a training run: count its work, report regularly, and keep the training log."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from mnist import resources
from mnist.distributed import Group
from mnist.errors import MnistError

REPORTS_PER_RUN = 50  # approximately; at each report, the CPU waits for the device


class DivergedError(MnistError):
    """A training run whose loss is no longer a finite number."""


@dataclass(frozen=True)
class LogEntry:
    """One line of the training log. Loss and accuracy are means over the augmented images since the previous line."""

    step: int  # number of steps so far
    images: int  # number of images so far
    loss: float
    accuracy: float  # in [0, 1]
    learning_rate: float  # learning rate of this step
    images_per_second: float  # mean since the start of training


@dataclass(frozen=True)
class Progress(LogEntry):
    """One progress report: the line of the training log, and the remaining work."""

    epoch: int  # counted from 1
    epochs: int
    steps: int  # number of steps in the complete run
    seconds_left: float


Report = Callable[[Progress], None]


class Position(Protocol):
    """The position in a run, counted in batches. `mnist.batches.Batches` implements this protocol."""

    step: int  # number of batches so far
    steps: int  # number of batches in the run
    epoch: int  # counted from 1
    epochs: int
    images: int  # number of images over all epochs


@dataclass(frozen=True)
class Usage:
    """The time and memory that a run used, including the parts before an interruption."""

    images: int  # number of images seen over all epochs
    seconds: float  # time spent in the training loop
    startup_seconds: float  # time from the start of the process to the end of the first step
    peak_memory: int  # peak memory of the process, in bytes
    cpu_use: float  # CPU seconds per second; 2.0 means that two cores are fully used

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


class ProgressTracker:
    """Counts images, time and results of a run, reports and logs them regularly, and stops a run that has diverged.

    The log and the results since its last line are part of the state, so a resumed run continues the log without a
    gap. Only rank 0 saves its state. If a run is interrupted between two lines, the next line therefore covers only
    rank 0's share of the images before the interruption.
    """

    def __init__(self, position: Position, report: Report, group: Group) -> None:
        self._position, self._report, self._group = position, report, group
        self._interval = max(1, position.steps // REPORTS_PER_RUN)
        self._seen = 0
        # One row per line; NaN means not yet written. The fixed shape lets `checkpointing.restore` check a saved state.
        lines = math.ceil(position.steps / self._interval)
        self._log = torch.full((lines, len(dataclasses.fields(LogEntry))), torch.nan, dtype=torch.float64)
        # Results since the last line. Appending to a list is faster than adding tensors in each step.
        self._losses: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._n_correct_before = 0  # correct predictions between the last line and the last interruption
        self._images_before = 0  # images between the last line and the last interruption
        self._process = psutil.Process()
        self._startup = math.nan
        self._clock_offset = -time.perf_counter()
        self._processor_offset = -self._processor_seconds()

    def record(self, loss: Tensor, correct: Tensor, images: int, learning_rate: float) -> None:
        """Record one step.

        Args:
            loss: training loss of this process, float32 [].
            correct: whether each image of this process was classified correctly, bool [B].
            images: number of images in the batch, over all processes.
        """
        step = self._position.step
        self._seen += images
        self._losses.append(loss)
        self._correct.append(correct)
        if math.isnan(self._startup):
            self._startup = resources.process_age()
        if step % self._interval == 0 or step == self._position.steps:
            self._report_progress(learning_rate)

    def log(self) -> tuple[LogEntry, ...]:
        """Return the lines of the training log so far."""
        return tuple(
            LogEntry(int(step), int(images), *figures) for step, images, *figures in self._log.tolist() if step == step
        )

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "seen": self._seen,
            "seconds": self._seconds(),
            "processor_seconds": self._processor_spent(),
            "log": self._log,
            "losses": F.pad(torch.tensor(self._losses), (0, self._interval - len(self._losses))),
            "n_correct": self._n_correct_before + sum(int(correct.sum()) for correct in self._correct),
            "n_images": self._images_before + sum(map(len, self._correct)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]
        self._clock_offset += state["seconds"]
        self._processor_offset += state["processor_seconds"]
        if "log" in state:  # version 0.1.0 saved no log
            self._log = state["log"].clone()
            self._losses = list(state["losses"][: self._position.step % self._interval])
            self._n_correct_before, self._images_before = state["n_correct"], state["n_images"]

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

    def _report_progress(self, learning_rate: float) -> None:
        correct = torch.cat(self._correct)
        losses = torch.stack([loss.to(correct.device) for loss in self._losses])
        n_correct, n_images = correct.sum() + self._n_correct_before, len(correct) + self._images_before
        sums = [losses.mean() / self._group.size, n_correct.float(), torch.tensor(float(n_images)).to(correct.device)]
        loss, n_correct, n_images = self._group.sum(torch.stack(sums)).tolist()
        self._losses.clear()
        self._correct.clear()
        self._n_correct_before = self._images_before = 0
        step = self._position.step
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} after {step:,} steps (try a smaller learning rate)")
        rate = self._seen / self._seconds()
        entry = LogEntry(step, self._seen, loss, n_correct / n_images, learning_rate, rate)
        self._log[math.ceil(step / self._interval) - 1] = torch.tensor(dataclasses.astuple(entry), dtype=torch.float64)
        self._report(
            Progress(
                **vars(entry),
                epoch=self._position.epoch,
                epochs=self._position.epochs,
                steps=self._position.steps,
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
