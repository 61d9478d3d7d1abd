"""The training loop and its result."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from mnist import architecture, randomization, transforms
from mnist.architecture import Classifier
from mnist.checkpointing import Checkpointing, Saver, State, StateError, restore
from mnist.distributed import SINGLE_PROCESS, Group
from mnist.errors import MnistError
from mnist.optimizers import AdamW
from mnist.progress import LogEntry, ProgressTracker, Report, Usage
from mnist.recipes import Recipe
from mnist.shapes import IMAGE_SIDE

NEGATIVES_PER_IMAGE = 0.25  # in a batch
NEGATIVES_WEIGHT = 0.5  # of their mean loss, relative to that of the labelled images


class TrainingError(MnistError):
    """A run that ended with weights that are not finite."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained model, the time and memory used to train it, and its training log."""

    model: Classifier
    usage: Usage
    log: tuple[LogEntry, ...]


def train(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    *,
    init: Mapping[str, Tensor] | None = None,
    negatives: Tensor | None = None,
    device: torch.device | None = None,
    report: Report = lambda progress: None,
    checkpointing: Checkpointing | None = None,
    state: State | None = None,
    group: Group = SINGLE_PROCESS,
) -> TrainingResult:
    """Train a model on images, uint8 [N, 1, 28, 28], and labels, int64 [N].

    On a CPU, the same recipe, images, machine and number of threads give the same weights, bit for bit, even if the run
    is interrupted and resumed. Several processes give the weights of a single process up to rounding.

    Args:
        init: initial weights, a ``state_dict`` of the same architecture; None: drawn at random.
        negatives: images that show none of the classes, uint8 [M, 1, 28, 28], for which the network learns to give all
            classes the same probability (outlier exposure; Hendrycks et al., 2019, arXiv 1812.04606).
        report: is called about 50 times per run.
        state: of an interrupted run, as ``checkpointing`` saved it.
        group: the processes that share the run; each of them is given all images.

    Raises:
        DivergedError: if the loss is no longer finite.
        TrainingError: if a weight is not finite at the end.
        StateError: if ``state`` belongs to another run.
        Interrupted: if ``checkpointing.stop`` returns True.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    model = architecture.build(recipe.architecture, generator).to(memory_format=torch.channels_last).to(device)
    if init is not None:
        model.load_state_dict(init)
    images, labels = images.to(device), labels.to(device)
    negatives = None if negatives is None else negatives.to(device)
    batches = _Batches(recipe, len(images), generator)
    optimizer = build_optimizer(recipe, model)
    schedule = build_schedule(recipe, optimizer, batches.steps)
    tracker = ProgressTracker(batches, report, group)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches, "tracker": tracker}
    if state is not None:
        restore(parts, state)
        _check_restored(optimizer, schedule, batches)
    saver = Saver(checkpointing, parts, batches, group)

    model.train()
    network = group.replicate(model)
    for batch in batches:
        mine = group.share(batch)  # every process draws for the whole batch, and computes its own part
        inputs = _augment(recipe, images, batch, group.part, generator)
        if negatives is not None:
            chosen = torch.randint(len(negatives), (math.ceil(NEGATIVES_PER_IMAGE * len(batch)),), generator=generator)
            inputs = torch.cat([inputs, _augment(recipe, negatives, chosen, group.part, generator)])
        logits, of_negatives = network(inputs).tensor_split([len(mine)])
        # The mean of the processes' gradients is the gradient of the mean over the batch if the losses are weighted
        # by the sizes of the parts. The mean of an empty part would be NaN; its sum is 0.
        reduction = "mean" if len(mine) else "sum"
        loss = F.cross_entropy(logits, labels[mine], label_smoothing=recipe.label_smoothing, reduction=reduction)
        loss = loss * (group.size * len(mine) / len(batch))
        if negatives is not None:
            to_uniform = -of_negatives.log_softmax(1).mean(1).sum() / len(chosen)
            loss = loss + NEGATIVES_WEIGHT * group.size * to_uniform
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate = float(schedule.get_last_lr()[0])
        tracker.record(loss.detach(), logits.argmax(1) == labels[mine], len(batch), rate)
        schedule.step()
        saver.after_step()

    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise TrainingError("training ended with weights that are not finite (try a smaller learning rate)")
    return TrainingResult(model.eval(), tracker.usage(), tracker.log())


def _augment(recipe: Recipe, images: Tensor, batch: Tensor, part: slice, generator: torch.Generator) -> Tensor:
    """Return a part of an augmented batch, float32 [b, 1, 28, 28], as the network takes it."""
    ranges = recipe.rotation, recipe.translation * IMAGE_SIDE, recipe.scaling
    moves = transforms.draw_affine(len(batch), *ranges, generator, shear=recipe.shear)
    if not recipe.randomization:
        return transforms.prepare(images[batch[part]], moves and moves[part])
    # An image may show a piece of another one, which can belong to another process: transform the whole batch.
    pixels = transforms.to_float(images[batch])
    moved = transforms.affine(pixels, moves) if moves else pixels
    return transforms.normalize(randomization.randomize(moved, recipe.randomization, generator)[part])


def build_optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """Return AdamW, with weight decay on the weights of convolutions and linear layers alone."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]  # biases, and batch norm's scales
    return AdamW(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def _check_restored(optimizer: torch.optim.Optimizer, schedule: LRScheduler, batches: "_Batches") -> None:
    """Check that the restored schedule is at the step of the run, and that AdamW has the moments of every parameter.

    Raises:
        StateError: if that is not the case.
    """
    total_steps = schedule.total_steps if isinstance(schedule, OneCycleLR) else batches.steps
    if (schedule.last_epoch, total_steps) != (batches.step, batches.steps):
        raise StateError("the saved learning-rate schedule belongs to another run (start a new one, without --resume)")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            kinds = {"step": (torch.float32, torch.Size())}
            kinds |= dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.dtype, parameter.shape))
            if not isinstance(state, dict) or kinds != {
                name: (value.dtype, value.shape) for name, value in state.items() if isinstance(value, Tensor)
            }:
                raise StateError("the saved state of the optimizer is incomplete (start a new run, without --resume)")


def build_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Return the learning-rate schedule of a run of ``steps`` steps."""
    if recipe.schedule == "one-cycle":
        return OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=steps,
            # OneCycleLR divides by the number of warm-up steps minus one, which must not be zero.
            pct_start=max(recipe.warmup, 1.5 / steps) if steps > 1 else recipe.warmup,
            cycle_momentum=False,
        )
    return LambdaLR(optimizer, lambda step: 1.0)


def images_per_epoch(epochs: float, count: int) -> list[int]:
    """Return how many of ``count`` images each epoch uses: all of them, except in a last, partial epoch."""
    whole, rest = divmod(max(1, round(epochs * count)), count)
    return [count] * whole + [rest] * (rest > 0)


class _Batches:
    """Yields the image indices of each step, int64 [B], in a new random order for each epoch; can be resumed."""

    def __init__(self, recipe: Recipe, count: int, generator: torch.Generator) -> None:
        self._size, self._count, self._generator = recipe.batch_size, count, generator
        self._epochs = images_per_epoch(recipe.epochs, count)
        self.images, self.epochs = sum(self._epochs), len(self._epochs)
        self.steps = sum(math.ceil(images / self._size) for images in self._epochs)
        self.step = 0  # number of batches yielded so far
        self.epoch = 0  # of the last batch, counted from 1
        self._state_at_epoch_start = generator.get_state()

    def __iter__(self) -> Iterator[Tensor]:
        first = 0  # step at which the epoch begins
        for epoch, images in enumerate(self._epochs, start=1):
            end = first + math.ceil(images / self._size)
            if self.step < end:
                self.epoch = epoch
                order = self._order(resumed=self.step > first)
                for batch in order[:images].split(self._size)[self.step - first :]:
                    self.step += 1
                    yield batch
            first = end

    def _order(self, *, resumed: bool) -> Tensor:
        """Draw the order of an epoch; for a resumed epoch, repeat its draw and leave the generator unchanged."""
        now = self._generator.get_state()
        if resumed:
            self._generator.set_state(self._state_at_epoch_start)
        else:
            self._state_at_epoch_start = now
        order = torch.randperm(self._count, generator=self._generator)
        if resumed:
            self._generator.set_state(now)
        return order

    def state_dict(self) -> State:
        return {"step": self.step, "epoch_began": self._state_at_epoch_start, "generator": self._generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        if not 0 < state["step"] <= self.steps:
            raise ValueError(f"there is no step {state['step']} in a run of {self.steps} steps")
        self.step, self._state_at_epoch_start = state["step"], state["epoch_began"]
        self._generator.set_state(self._state_at_epoch_start)  # raises an error if it is not a state
        self._generator.set_state(state["generator"])
