"""One training run from the data to the saved model: start or resume, train, evaluate, save."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnist import checkpointing, datasets, devices, distributed, files, recipes, trainer
from mnist.architecture import Classifier
from mnist.datasets import Dataset, overlap
from mnist.datasets.overlap import Digests
from mnist.datasets.splits import Notify
from mnist.distributed import Group
from mnist.errors import MnistError
from mnist.gate import measurement
from mnist.metrics import Performance
from mnist.progress import Report, Usage
from mnist.recipes import Recipe
from mnist.storage import artifacts, checkpoints
from mnist.storage.artifacts import Artifact
from mnist.storage.card import DatasetInfo, Origin, TrainingStats
from mnist.storage.checkpoints import Checkpoint, CheckpointWriter, Machine, RunFolder


class RunError(MnistError):
    """Settings that contradict each other, or an interrupted run whose data has changed."""


class RunInterrupted(Exception):  # noqa: N818
    """Run stopped on request. The message says whether and where its state is saved."""


@dataclass(frozen=True)
class Settings:
    """What to train, on which data, and where to write."""

    recipe: str | None = None  # name; None: "standard", or the recipe of the run to resume
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe to replace
    init: Path | None = None  # weights file to start from; None: random weights
    dataset: str = "auto"  # a name or a folder, as `datasets.load` takes it
    data_dir: Path = Path("data")
    mirror: str | None = None  # URL or folder to try before the public mirrors
    validation: int = 0  # training images to measure on instead of the test set; 0: none, or as the run to resume
    device: str = "auto"  # or cpu, cuda, mps
    resume: bool = False  # continue the newest interrupted run that agrees with these settings, if there is one
    checkpoint_steps: float = math.inf  # training steps between two checkpoints
    checkpoint_seconds: float = 10.0  # between two checkpoints
    checkpoints_dir: Path = Path("checkpoints")
    models_dir: Path = Path("models")


@dataclass(frozen=True)
class Result:
    """A finished run."""

    path: Path  # of the saved weights
    recipe: Recipe
    dataset: Dataset
    init: Origin | None  # None: random initial weights
    model: Classifier
    performance: Performance  # on the test images, or on the validation images
    usage: Usage


@dataclass(frozen=True)
class TrainingCallbacks:
    """The callbacks of the training loop."""

    report: Report = lambda progress: None  # is given the progress, about 50 times per run
    stop: Callable[[], bool] = lambda: False  # is called after every step; True: save the state and stop


CallbackFactory = Callable[[Group], AbstractContextManager[TrainingCallbacks]]


def train(
    settings: Settings,
    *,
    notify: Notify = lambda line: None,
    callbacks: CallbackFactory = lambda group: contextlib.nullcontext(TrainingCallbacks()),
) -> Result | None:
    """Train a model and save it with its card.

    Unless ``overrides`` sets the epochs, their number is scaled to the size of the data set, so that the number of
    training steps is about the same as on MNIST. With a validation part, the model is trained on fewer images, and the
    number of epochs is the same as without: how well a recipe generalizes depends on how often it shows each image, and
    a validation run is meant to predict the result of the same epochs on all training images.

    Args:
        notify: is called with one line for each event that a user should know of.
        callbacks: is given the group of processes; returns a context manager that yields the callbacks of the training
            loop.

    Returns:
        The finished run; None in all processes of a group but the first.

    Raises:
        MnistError: if the settings, the data or the saved state cannot be used, or the training diverges.
        RunInterrupted: if the callbacks asked the run to stop.
        OSError: if a folder cannot be written to.
    """
    for path in (settings.models_dir, settings.checkpoints_dir):
        files.check_writable(path)
    device = devices.select(settings.device)
    init = artifacts.load(settings.init) if settings.init else None
    with contextlib.ExitStack() as stack:
        with distributed.join(device.type) as group:
            tell = notify if group.rank == 0 else lambda line: None
            start, dataset, folder = _start(settings, init, group, tell)
            if folder:
                stack.callback(folder.close)
            writer = CheckpointWriter(start, folder, tell)
            try:
                with callbacks(group) as training:
                    trained = trainer.train(
                        start.recipe,
                        dataset.train.images,
                        dataset.train.labels,
                        init=init.model.state_dict() if init else None,
                        device=group.device,
                        report=training.report,
                        checkpointing=checkpointing.Checkpointing(
                            writer.save,
                            training.stop,
                            steps=settings.checkpoint_steps,
                            seconds=settings.checkpoint_seconds,
                        ),
                        state=start.training,
                        group=group,
                    )
            except checkpointing.Interrupted as interruption:
                raise RunInterrupted(writer.describe(interruption.step, str(interruption))) from interruption
        if folder is None:
            return None  # the first process evaluates and saves
        result = _save(settings, start, dataset, trained, _digests(start, dataset, init))
        folder.remove()
        return result


def _start(
    settings: Settings, init: Artifact | None, group: Group, notify: Notify
) -> tuple[Checkpoint, Dataset, RunFolder | None]:
    """Return the state to train from, the data, and the folder for checkpoints, which only the first process has."""
    overrides = dict(settings.overrides)
    if init:
        if overrides.get("architecture", init.architecture) != init.architecture:
            raise RunError(f"{init.path} is of architecture {init.architecture}, not {overrides['architecture']}")
        overrides["architecture"] = init.architecture
    recipe = recipes.get(settings.recipe or recipes.DEFAULT, **overrides)
    folder, interrupted = _find_interrupted(settings, overrides, init, group, notify)
    name = interrupted.dataset.name if interrupted else settings.dataset
    dataset = datasets.load(name, settings.data_dir, mirror=settings.mirror, notify=notify)
    training_images = len(dataset.train)
    if validation := interrupted.dataset.validation if interrupted else settings.validation:
        dataset = dataset.with_validation(validation)
    machine = Machine(group.device.type, torch.get_num_threads(), group.size)
    if interrupted:
        return _resume(interrupted, dataset, machine, notify), dataset, folder
    if "epochs" not in overrides:
        recipe = recipe.scaled_to(training_images)
    origin = Origin(init.path.name, init.sha256, tuple(sorted(init.trained_on))) if init else None
    if init and init.classes != dataset.train.classes:
        notify(f"{init.path.name} was trained on other classes ({', '.join(init.classes)}); it learns the new ones")
    folder = checkpoints.start(settings.checkpoints_dir) if group.rank == 0 else None
    return Checkpoint(recipe, DatasetInfo.of(dataset), machine, init=origin), dataset, folder


def _find_interrupted(
    settings: Settings, overrides: Mapping[str, Any], init: Artifact | None, group: Group, notify: Notify
) -> tuple[RunFolder | None, Checkpoint | None]:
    """Find the run to resume; return its folder, in the first process alone, and its last checkpoint."""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if not (settings.resume or restarted):
        return None, None
    wanted = {**overrides, "name": settings.recipe} if settings.recipe else overrides

    def matches(checkpoint: Checkpoint) -> bool:
        if init and (checkpoint.init is None or checkpoint.init.sha256 != init.sha256):
            return False
        same_recipe = all(getattr(checkpoint.recipe, name) == value for name, value in wanted.items())
        # Paths are compared, so that a slash at the end of a folder's name makes no difference.
        same_data = settings.dataset == "auto" or Path(settings.dataset) == Path(checkpoint.dataset.name)
        same_split = settings.validation in (0, checkpoint.dataset.validation)
        return same_recipe and same_data and same_split

    found = checkpoints.find(settings.checkpoints_dir, matches, notify) if group.rank == 0 else None
    content = group.from_first(checkpoints.pack(found[1]) if found else None)
    if content is None:
        notify(f"no interrupted run with these settings is in {settings.checkpoints_dir}: starting a new one")
        return None, None
    return found[0] if found else None, checkpoints.unpack(content, "the checkpoint")


def _resume(checkpoint: Checkpoint, dataset: Dataset, machine: Machine, notify: Notify) -> Checkpoint:
    """Return the state to resume from on this data and this machine."""
    if checkpoint.dataset.sha256 != dataset.fingerprint:
        raise RunError("the data has changed since the run was interrupted (start a new run, without --resume)")
    before, now = dataclasses.asdict(checkpoint.machine), dataclasses.asdict(machine)
    if changed := [f"{name}: {before[name]}, now {value}" for name, value in now.items() if before[name] != value]:
        notify(f"WARNING: rounding will make the weights differ from an uninterrupted run's ({'; '.join(changed)})")
    return dataclasses.replace(checkpoint, machine=machine, resumed=checkpoint.resumed + 1)


def _digests(start: Checkpoint, dataset: Dataset, init: Artifact | None) -> Digests | None:
    """Return the digests of all training images, including those of the model that the run started from.

    Return None if the latter are unknown: that model has no digest file, or a resumed run is not given the model again.
    """
    digests = overlap.digests(dataset.train.images)
    if start.init is None:
        return digests
    return None if init is None or init.digests is None else np.concatenate([digests, init.digests])


def _save(
    settings: Settings, start: Checkpoint, dataset: Dataset, trained: trainer.TrainingResult, digests: Digests | None
) -> Result:
    """Evaluate the model, determine its confidence threshold, and save it with its card."""
    model, usage = trained.model, trained.usage
    performance = measurement.evaluate_for_card(model, dataset, seed=start.recipe.seed)
    path = artifacts.save(
        model,
        settings.models_dir,
        recipe=start.recipe,
        dataset=start.dataset,
        training=TrainingStats(
            device=start.machine.device,
            threads=start.machine.threads,
            processes=start.machine.processes,
            init=start.init,
            resumed=start.resumed,
            images=usage.images,
            seconds=usage.seconds,
            startup_seconds=usage.startup_seconds,
            images_per_second=usage.images_per_second,
            peak_memory_bytes=usage.peak_memory,
            cpu_use=usage.cpu_use,
        ),
        measured=performance,
        digests=digests,
    )
    return Result(path, start.recipe, dataset, start.init, model, performance, usage)
