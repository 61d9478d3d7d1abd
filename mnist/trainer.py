"""The training loop and its result."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from mnist import architecture, randomization, transforms
from mnist.architecture import Classifier
from mnist.batches import Batches
from mnist.checkpointing import Checkpointing, Saver, State, check_restored, restore
from mnist.distributed import SINGLE_PROCESS, Group
from mnist.errors import MnistError
from mnist.optimizers import AdamW
from mnist.progress import LogEntry, ProgressTracker, Report, Usage
from mnist.recipes import Recipe
from mnist.shapes import IMAGE_SIDE

NEGATIVES_PER_IMAGE = 0.25  # negatives (images without a digit) per labelled image in a batch
NEGATIVES_WEIGHT = 0.5  # weight of the mean loss on negatives; the mean loss on labelled images has weight 1


class TrainingError(MnistError):
    """A training run whose final weights are not finite."""


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
    is interrupted and resumed. With several processes, the weights are those of a single process up to rounding.

    Args:
        init: initial weights, a ``state_dict`` of the same architecture; None: random weights.
        negatives: images that show none of the classes, uint8 [M, 1, 28, 28], for which the network learns to predict
            the same probability for every class (outlier exposure; Hendrycks et al., 2019, arXiv 1812.04606).
        device: the device to compute on; None: the CPU.
        report: is called about 50 times per run.
        checkpointing: when and how to save the state; None: never.
        state: the state of an interrupted run, as ``checkpointing`` saved it; None: start a new run.
        group: the processes that share the run; each of them receives all images.

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
    batches = Batches(recipe, len(images), generator)
    optimizer = build_optimizer(recipe, model)
    schedule = build_schedule(recipe, optimizer, batches.steps)
    tracker = ProgressTracker(batches, report, group)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches, "tracker": tracker}
    if state is not None:
        restore(parts, state)
        check_restored(optimizer, schedule, batches)
    saver = Saver(checkpointing, parts, batches, group)

    model.train()
    network = group.replicate(model)
    for batch in batches:
        # Every process draws the random numbers for the whole batch, and computes the loss of its own part.
        mine = group.share(batch)
        inputs = _augment(recipe, images, batch, group.part, generator)
        if negatives is not None:
            chosen = torch.randint(len(negatives), (math.ceil(NEGATIVES_PER_IMAGE * len(batch)),), generator=generator)
            inputs = torch.cat([inputs, _augment(recipe, negatives, chosen, group.part, generator)])
        with architecture.seeded(_seed_of_step(recipe.seed, batches.step, group.rank)):  # for layers such as dropout
            logits, of_negatives = network(inputs).tensor_split([len(mine)])
        # The gradients are averaged over the processes. Each loss is weighted by the size of its part, so that this
        # average is the gradient of the mean loss of the batch. The mean of an empty part would be NaN; its sum is 0.
        reduction = "mean" if len(mine) else "sum"
        loss = F.cross_entropy(logits, labels[mine], label_smoothing=recipe.label_smoothing, reduction=reduction)
        loss = loss * (group.size * len(mine) / len(batch))
        if negatives is not None:
            # Cross-entropy with the uniform distribution over the classes.
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


def _seed_of_step(seed: int, step: int, rank: int) -> int:
    """Return a seed for the random numbers of the network's layers, which depends only on these three numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7], "big")


def _augment(recipe: Recipe, images: Tensor, batch: Tensor, part: slice, generator: torch.Generator) -> Tensor:
    """Augment and normalize a batch (image indices, int64 [B]); return one part of it, float32 [b, 1, 28, 28]."""
    ranges = recipe.rotation, recipe.translation * IMAGE_SIDE, recipe.scaling
    moves = transforms.draw_affine(len(batch), *ranges, generator, shear=recipe.shear)
    if not recipe.randomization:
        return transforms.prepare(images[batch[part]], moves and moves[part])
    # Domain randomization pastes parts of images into others of the batch, so every process transforms the whole batch.
    moved = transforms.affine(transforms.to_float(images[batch]), moves)
    return transforms.normalize(randomization.randomize(moved, recipe.randomization, generator)[part])


def build_optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """Return AdamW, with weight decay only for the weights of convolutions and linear layers."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]  # biases, and batch norm's scales
    return AdamW(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def build_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Return the learning-rate schedule for a run of ``steps`` steps."""
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
