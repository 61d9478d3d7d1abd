"""The one training loop, and what it reports of itself."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from mnist import architecture, resources, transforms
from mnist.architecture import Classifier
from mnist.distributed import ALONE, Group
from mnist.errors import MnistError
from mnist.recipes import Recipe

REPORTS = 50  # of a run, about; for each the host waits for the device


class TrainingError(MnistError):
    """A run that cannot start, or that led nowhere."""


class Interrupted(Exception):  # noqa: N818
    """A run that was told to leave, and has saved the state that these ``step`` of its ``steps`` led to."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"interrupted after {step:,} of {steps:,} steps")
        self.step, self.steps = step, steps


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
State = Mapping[str, Any]


@dataclass(frozen=True)
class Keeping:
    """How a run is kept from being lost.

    save: is given the number of steps taken, and the state that they led to, from which a run can go on; stop: is asked
    after every step whether to save and leave; steps or seconds: how often to save. The end of training is saved, too.
    """

    save: Callable[[int, State], None]
    stop: Callable[[], bool] = lambda: False
    steps: float = math.inf
    seconds: float = math.inf


@dataclass(frozen=True)
class Run:
    """A trained model and what training it took, all of it where it was interrupted and has gone on.

    images: seen, over all epochs; seconds: of the loop; startup: seconds from the start of the process to the end of
    its first step; peak_memory: of the process so far, in bytes; cpu_use: processor seconds per second, so that 2.0 is
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
    init: Mapping[str, Tensor] | None = None,
    device: torch.device | None = None,
    report: Report = lambda progress: None,
    keeping: Keeping | None = None,
    state: State | None = None,
    group: Group = ALONE,
) -> Run:
    """Train a model on images, uint8 [N, 1, 28, 28], and labels, int64 [N], as the recipe says.

    It starts from weights drawn at random, or from ``init``, the state of a model of the same architecture.

    The same recipe, images, machine and number of threads give the same weights, bit for bit, on a CPU; also where the
    run was cut off in between, and goes on from a ``state`` that ``keeping`` has saved. Several processes, a ``group``,
    give the weights of one up to rounding; each has all the images, and ``report`` is of them all together.

    Raises:
        TrainingError: the loss or a weight is no longer a finite number, or the state is not of such a run.
        Interrupted: ``keeping`` said so.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    model = architecture.build(recipe.architecture, generator).to(memory_format=torch.channels_last).to(device)
    if init is not None:
        model.load_state_dict(init)
    images, labels = images.to(device), labels.to(device)
    batches = _Batches(recipe, len(images), generator)
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, batches.steps)
    journal = _Journal(batches, report, group)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches, "journal": journal}
    if state is not None:
        _restore(parts, state)
    saver = _Saver(keeping, parts, batches, group)

    model.train()
    network = group.replicate(model)
    for batch in batches:
        mine = group.share(batch)
        inputs = transforms.augment(
            images[mine], recipe.rotation, recipe.translation, recipe.scaling, generator,
            batch=len(batch), share=group.share,
        )  # fmt: skip
        logits = network(inputs)
        # Weighted so that the mean over processes, which is what their gradients become, is the mean over the batch.
        reduction = "mean" if len(mine) else "sum"  # the mean of no images is no number
        loss = F.cross_entropy(logits, labels[mine], label_smoothing=recipe.label_smoothing, reduction=reduction)
        loss = loss * (group.size * len(mine) / len(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        journal.record(loss.detach(), logits.argmax(1) == labels[mine], len(batch))
        saver.after_step()

    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise TrainingError("training ended with weights that are not finite (try a smaller learning rate)")
    return journal.close(model.eval())


def select_device(name: str) -> torch.device:
    """Return the device of that name; for ``auto`` CUDA if this machine has it, or MPS if it works, or the CPU.

    MPS works if it agrees with the CPU on a small training step. Some hosted machines report an MPS device that cannot
    be used, and batch norm in channels-last layout has given wrong results there (pytorch/pytorch issue 175189).

    Raises:
        TrainingError: if the name is unknown, or this machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        if present["cuda"]:
            return torch.device("cuda")
        return torch.device("mps" if present["mps"] and agrees_with_cpu(torch.device("mps")) else "cpu")
    if name not in present:
        raise TrainingError(f"no device is called {name!r} (there are: auto, {', '.join(present)})")
    if not present[name]:
        raise TrainingError(f"PyTorch finds no {name} device on this machine (leave the choice to 'auto')")
    return torch.device(name)


def agrees_with_cpu(device: torch.device) -> bool:
    """Return whether loss, gradients and batch norm's statistics of one step are the CPU's, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    model = architecture.build("fast", generator).to(memory_format=torch.channels_last)
    images, labels = torch.randn(32, 1, 28, 28, generator=generator), torch.arange(32) % 10
    try:
        expected, computed = (_step(copy.deepcopy(model), images, labels, target) for target in ("cpu", device))
    except RuntimeError:  # what PyTorch raises if the device cannot be used, or lacks an operation
        return False
    return all(torch.allclose(*pair, rtol=1e-2, atol=1e-4) for pair in zip(computed, expected, strict=True))


def _step(model: Classifier, images: Tensor, labels: Tensor, device: torch.device | str) -> list[Tensor]:
    """Return the loss, the gradients and the buffers after one step on ``device``, float32 on the CPU."""
    model = model.to(device).train()
    loss = F.cross_entropy(model(images.to(device)), labels.to(device))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [tensor.detach().cpu().float() for tensor in (loss, *gradients, *model.buffers())]


def images_per_epoch(epochs: float, count: int) -> list[int]:
    """Return the number of images of each epoch: ``count``, and less in a last epoch that is fractional."""
    whole, rest = divmod(max(1, round(epochs * count)), count)
    return [count] * whole + [rest] * (rest > 0)


def make_optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """Return AdamW with the recipe's settings; biases and the gains of norms have no weight decay."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Return the recipe's learning-rate schedule for a run of ``steps`` steps: one-cycle or constant."""
    if recipe.schedule == "one-cycle":
        return OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=steps,
            # OneCycleLR divides by the steps of the rise less one: on very few steps that would be zero.
            pct_start=max(recipe.warmup, 1.5 / steps) if steps > 1 else recipe.warmup,
            cycle_momentum=False,
        )
    return LambdaLR(optimizer, lambda step: 1.0)


class _Batches:
    """The indices of the images of every step, int64 [B], in an order drawn anew for each epoch; can be gone on with.

    step: how many have been handed out, of ``steps`` in all; epoch: the one that the last was of, of ``epochs``.
    """

    def __init__(self, recipe: Recipe, count: int, generator: torch.Generator) -> None:
        self._size, self._count, self._generator = recipe.batch_size, count, generator
        self._epochs = images_per_epoch(recipe.epochs, count)
        self.images, self.epochs = sum(self._epochs), len(self._epochs)
        self.steps = sum(math.ceil(images / self._size) for images in self._epochs)
        self.step = self.epoch = 0
        self._epoch_began = generator.get_state()

    def __iter__(self) -> Iterator[Tensor]:
        first = 0  # step of the epoch
        for epoch, images in enumerate(self._epochs, start=1):
            beyond = first + math.ceil(images / self._size)
            if self.step < beyond:
                self.epoch = epoch
                for batch in self._order(self.step > first)[:images].split(self._size)[self.step - first :]:
                    self.step += 1
                    yield batch
            first = beyond

    def _order(self, again: bool) -> Tensor:
        """The order of this epoch; ``again``: as drawn when the epoch began, with the generator left as it is now."""
        now = self._generator.get_state()
        if again:
            self._generator.set_state(self._epoch_began)
        else:
            self._epoch_began = now
        order = torch.randperm(self._count, generator=self._generator)
        if again:
            self._generator.set_state(now)
        return order

    def state_dict(self) -> State:
        return {"step": self.step, "epoch_began": self._epoch_began, "generator": self._generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.step, self._epoch_began = state["step"], state["epoch_began"]
        self._generator.set_state(state["generator"])


class _Saver:
    """Saves the state of a run when it is time to, and at its end."""

    def __init__(self, keeping: Keeping | None, parts: Mapping[str, Any], batches: _Batches, group: Group) -> None:
        self._keeping, self._parts, self._batches, self._group = keeping, parts, batches, group
        self._saved = time.monotonic()

    def after_step(self) -> None:
        """Save if it is time to, or if this or another process is to leave.

        Raises:
            Interrupted: it is to leave.
        """
        stop = self._group.any(self._keeping is not None and self._keeping.stop())
        if self._keeping and (stop or self._is_due(self._keeping)):
            self._keeping.save(self._batches.step, {name: part.state_dict() for name, part in self._parts.items()})
            self._saved = time.monotonic()
        if stop:
            raise Interrupted(self._batches.step, self._batches.steps)

    def _is_due(self, keeping: Keeping) -> bool:
        step = self._batches.step
        return (
            step == self._batches.steps
            or step % keeping.steps == 0
            or time.monotonic() - self._saved >= keeping.seconds
        )


def _restore(parts: Mapping[str, Any], state: State) -> None:
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise TrainingError("the saved state is not of such a run (start anew)") from error


class _Journal:
    """Counts what a run does, reports it now and then, and stops a run that has diverged."""

    def __init__(self, batches: _Batches, report: Report, group: Group) -> None:
        self._batches, self._report, self._group = batches, report, group
        self._interval = max(1, batches.steps // REPORTS)
        self._seen = 0
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._process = psutil.Process()
        self._startup = math.nan
        self._seconds_at_start = -time.perf_counter()
        self._processor_at_start = -self._processor_seconds()

    def record(self, loss: Tensor, right: Tensor, images: int) -> None:
        """One step: its loss, float32 [], which images this process had right, bool [B], and how many all had."""
        step = self._batches.step
        self._seen += images
        self._losses.append(loss)
        self._right.append(right)
        if math.isnan(self._startup):
            self._startup = resources.process_age()
        if step % self._interval == 0 or step == self._batches.steps:
            self._tell()

    def state_dict(self) -> State:
        return {"seen": self._seen, "seconds": self._seconds(), "processor_seconds": self._processor_spent()}

    def load_state_dict(self, state: State) -> None:
        self._seen = state["seen"]
        self._seconds_at_start += state["seconds"]
        self._processor_at_start += state["processor_seconds"]

    def close(self, model: Classifier) -> Run:
        seconds = self._seconds()
        return Run(
            model,
            images=self._seen,
            seconds=seconds,
            startup=self._startup,
            peak_memory=resources.peak_memory(),
            cpu_use=self._processor_spent() / seconds,
        )

    def _tell(self) -> None:
        losses, right = torch.stack(self._losses), torch.cat(self._right)
        sums = [losses.mean() / self._group.size, right.sum(), torch.tensor(len(right), device=right.device)]
        loss, right_in_all, images = self._group.sum(torch.stack([value.float() for value in sums])).tolist()
        self._losses.clear()
        self._right.clear()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} after {self._batches.step:,} steps (try a smaller learning rate)")
        rate = self._seen / self._seconds()
        self._report(
            Progress(
                epoch=self._batches.epoch,
                epochs=self._batches.epochs,
                step=self._batches.step,
                steps=self._batches.steps,
                loss=loss,
                accuracy=right_in_all / images,
                images_per_second=rate,
                seconds_left=(self._batches.images - self._seen) / rate,
            )
        )

    def _seconds(self) -> float:
        return time.perf_counter() + self._seconds_at_start

    def _processor_spent(self) -> float:
        return self._processor_seconds() + self._processor_at_start

    def _processor_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
