"""The one training loop, and what it reports of itself."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from mnist import architecture, transforms
from mnist.architecture import Classifier
from mnist.errors import MnistError
from mnist.recipes import Recipe

REPORTS = 50  # of a run, about; for each the host waits for the device


class TrainingError(MnistError):
    """A run that cannot start, or that led nowhere."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Loss and accuracy are means over the augmented images since the last report."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Run:
    """A trained model and what training it took.

    images: seen, over all epochs; peak_memory: of the process so far, in bytes; cpu_use: processor seconds per second,
    so that 2.0 is two cores in full use.
    """

    model: Classifier
    images: int
    seconds: float
    peak_memory: int
    cpu_use: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


def train(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    *,
    device: torch.device | None = None,
    report: Report = lambda progress: None,
) -> Run:
    """Train a new model on images, uint8 [N, 1, 28, 28], and labels, int64 [N], as the recipe says.

    The same recipe, images, machine and number of threads give the same weights, bit for bit, on a CPU.

    Raises:
        TrainingError: the loss or a weight is no longer a finite number.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    model = architecture.build(recipe.architecture, generator).to(memory_format=torch.channels_last).to(device)
    images, labels = images.to(device), labels.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
    schedule = _schedule(recipe, optimizer, steps=recipe.epochs * math.ceil(len(images) / recipe.batch_size))
    journal = _Journal(recipe, len(images), report)

    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for batch in order.split(recipe.batch_size):
            inputs = transforms.augment(images[batch], recipe.rotation, recipe.translation, recipe.scaling, generator)
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            journal.record(loss.detach(), logits.argmax(1) == labels[batch])

    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise TrainingError("training ended with weights that are not finite (try a smaller learning rate)")
    return journal.close(model)


def select_device(name: str) -> torch.device:
    """The device of that name; for ``auto`` the first of CUDA, MPS and CPU that this machine has.

    Raises:
        TrainingError: it is unknown, or not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_present in present.items() if is_present))
    if name not in present:
        raise TrainingError(f"no device is called {name!r} (there are: auto, {', '.join(present)})")
    if not present[name]:
        raise TrainingError(f"PyTorch finds no {name} device on this machine (leave the choice to 'auto')")
    return torch.device(name)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "one-cycle":
        return OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=steps, cycle_momentum=False)
    return LambdaLR(optimizer, lambda step: 1.0)


class _Journal:
    """Counts what a run does, reports it now and then, and stops a run that has diverged."""

    def __init__(self, recipe: Recipe, images_per_epoch: int, report: Report) -> None:
        self._recipe = recipe
        self._steps_per_epoch = math.ceil(images_per_epoch / recipe.batch_size)
        self._steps = self._steps_per_epoch * recipe.epochs
        self._interval = max(1, self._steps // REPORTS)
        self._images = images_per_epoch * recipe.epochs
        self._report = report
        self._step = self._seen = 0
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._process = psutil.Process()
        self._processor_at_start = self._processor_seconds()
        self._started = time.perf_counter()

    def record(self, loss: Tensor, right: Tensor) -> None:
        """One step: its mean loss, float32 [], and which images it had right, bool [B]."""
        self._step += 1
        self._seen += len(right)
        self._losses.append(loss)
        self._right.append(right)
        if self._step % self._interval == 0 or self._step == self._steps:
            self._tell()

    def close(self, model: Classifier) -> Run:
        seconds = time.perf_counter() - self._started
        processor_seconds = self._processor_seconds() - self._processor_at_start
        return Run(model, self._seen, seconds, _peak_memory(self._process), processor_seconds / seconds)

    def _tell(self) -> None:
        loss, accuracy = torch.stack(self._losses).mean().item(), torch.cat(self._right).float().mean().item()
        self._losses.clear()
        self._right.clear()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} after {self._step:,} steps (try a smaller learning rate)")
        rate = self._seen / (time.perf_counter() - self._started)
        self._report(
            Progress(
                epoch=(self._step - 1) // self._steps_per_epoch + 1,
                epochs=self._recipe.epochs,
                step=self._step,
                steps=self._steps,
                loss=loss,
                accuracy=accuracy,
                images_per_second=rate,
                seconds_left=(self._images - self._seen) / rate,
            )
        )

    def _processor_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _peak_memory(process: psutil.Process) -> int:
    """The most memory that the process has held, in bytes."""
    if sys.platform == "win32":
        return process.memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
