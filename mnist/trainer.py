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

    images: seen, over all epochs; seconds: of the loop; startup: seconds from the start of the process to the end of
    the first step; peak_memory: of the process so far, in bytes; cpu_use: processor seconds per second, so that 2.0 is
    two cores in full use.
    """

    model: Classifier
    images: int
    seconds: float
    startup: float
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
    epochs = _images_per_epoch(recipe.epochs, len(images))
    steps = sum(math.ceil(count / recipe.batch_size) for count in epochs)
    optimizer = _optimizer(recipe, model)
    schedule = _schedule(recipe, optimizer, steps)
    journal = _Journal(len(epochs), steps, sum(epochs), report)

    model.train()
    for epoch, count in enumerate(epochs, start=1):
        order = torch.randperm(len(images), generator=generator)[:count].to(images.device)
        for batch in order.split(recipe.batch_size):
            inputs = transforms.augment(images[batch], recipe.rotation, recipe.translation, recipe.scaling, generator)
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            journal.record(epoch, loss.detach(), logits.argmax(1) == labels[batch])

    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise TrainingError("training ended with weights that are not finite (try a smaller learning rate)")
    return journal.close(model.eval())


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


def _images_per_epoch(epochs: float, count: int) -> list[int]:
    """How many of ``count`` images each epoch sees: all of them, but for a last epoch that is a part of one."""
    whole, rest = divmod(max(1, round(epochs * count)), count)
    return [count] * whole + [rest] * (rest > 0)


def _optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]  # biases, and norms' gains
    return torch.optim.AdamW(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "one-cycle":
        return OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=steps,
            pct_start=recipe.warmup,
            cycle_momentum=False,
        )
    return LambdaLR(optimizer, lambda step: 1.0)


class _Journal:
    """Counts what a run does, reports it now and then, and stops a run that has diverged."""

    def __init__(self, epochs: int, steps: int, images: int, report: Report) -> None:
        self._epochs, self._steps, self._images = epochs, steps, images
        self._interval = max(1, steps // REPORTS)
        self._report = report
        self._step = self._seen = 0
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._process = psutil.Process()
        self._processor_at_start = self._processor_seconds()
        self._startup = math.nan
        self._started = time.perf_counter()

    def record(self, epoch: int, loss: Tensor, right: Tensor) -> None:
        """One step: its mean loss, float32 [], and which images it had right, bool [B]."""
        self._step += 1
        self._seen += len(right)
        self._losses.append(loss)
        self._right.append(right)
        if self._step == 1:
            self._startup = time.time() - self._process.create_time()
        if self._step % self._interval == 0 or self._step == self._steps:
            self._tell(epoch)

    def close(self, model: Classifier) -> Run:
        seconds = time.perf_counter() - self._started
        processor_seconds = self._processor_seconds() - self._processor_at_start
        return Run(
            model,
            images=self._seen,
            seconds=seconds,
            startup=self._startup,
            peak_memory=_peak_memory(self._process),
            cpu_use=processor_seconds / seconds,
        )

    def _tell(self, epoch: int) -> None:
        loss, accuracy = torch.stack(self._losses).mean().item(), torch.cat(self._right).float().mean().item()
        self._losses.clear()
        self._right.clear()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} after {self._step:,} steps (try a smaller learning rate)")
        rate = self._seen / (time.perf_counter() - self._started)
        self._report(
            Progress(
                epoch=epoch,
                epochs=self._epochs,
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
