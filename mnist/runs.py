"""One training run from the data to the saved model: start or resume, train, evaluate, save."""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnist import architecture, checkpointing, datasets, devices, distributed, files, recipe_files, recipes, trainer
from mnist.architecture import Classifier
from mnist.datasets import Dataset, Negatives, overlap
from mnist.datasets.overlap import Digests
from mnist.datasets.splits import Notify
from mnist.distributed import Group
from mnist.errors import MnistError
from mnist.gate import measurement
from mnist.metrics import Performance
from mnist.progress import Report, Usage
from mnist.recipes import Recipe
from mnist.storage import artifacts, checkpoints, environment
from mnist.storage.artifacts import Artifact
from mnist.storage.card import DatasetInfo, Origin, TrainingStats
from mnist.storage.checkpoints import Checkpoint, CheckpointWriter, Machine, RunFolder


class RunError(MnistError):
    """Settings that contradict each other, or an interrupted run whose data has changed."""


class RunInterrupted(Exception):  # noqa: N818
    """The run was stopped on request. The message says whether and where its state is saved."""


@dataclass(frozen=True)
class Settings:
    """What to train, on which data, and where to write."""

    recipe: str | None = None  # name, or path of a .toml file; None: "standard", or the recipe of the run to resume
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe to replace
    init: Path | None = None  # weights file to start from; None: random weights
    dataset: str = "auto"  # a name or a folder, as `datasets.load` takes it
    data_dir: Path = Path("data")
    mirror: str | None = None  # URL or folder to try before the public mirrors
    skip_unusable: float = 0.0  # share of a folder's images that may be left out
    negatives: str | None = None  # images without a digit, as `datasets.load_negatives` takes it; None: none
    validation: int = 0  # training images to evaluate on instead of the test set; 0: none, or as in the resumed run
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

    report: Report = lambda progress: None  # receives the progress, about 50 times per run
    stop: Callable[[], bool] = lambda: False  # is called after every step; True: save the state and stop


CallbackFactory = Callable[[Group], AbstractContextManager[TrainingCallbacks]]


def train(
    settings: Settings,
    *,
    notify: Notify = lambda line: None,
    check: Callable[[], None] = lambda: None,
    callbacks: CallbackFactory = lambda group: contextlib.nullcontext(TrainingCallbacks()),
) -> Result | None:
    """Train a model and save it with its card.

    Unless ``overrides`` sets the epochs, their number is scaled to the size of the data set, so that the number of
    training steps is about the same as on MNIST. A validation part reduces the number of training images, but does not
    change the number of epochs: generalization depends on how often the network sees each image, and a validation run
    is meant to predict the result of training on all images for the same number of epochs.

    Args:
        notify: is called with one line for each event that a user should know of.
        check: is called in the first process before the data is loaded; raises an error if the run must not start.
        callbacks: takes the group of processes; returns a context manager that yields the callbacks of the training
            loop.

    Returns:
        The finished run; None in all processes of a group but the first.

    Raises:
        MnistError: if the settings, the data or the saved state cannot be used, or the training diverges.
        RunInterrupted: if the callbacks asked the run to stop.
        OSError: if a folder cannot be written to.
    """
    environment.source_commit()  # caches the commit for the card: the source tree can change during the run
    with contextlib.ExitStack() as stack:
        with distributed.join(lambda: devices.select(settings.device)) as group:
            tell = notify if group.rank == 0 else lambda line: None
            group.attempt(lambda: check() if group.rank == 0 else None)
            init = group.attempt(lambda: _load_init(settings, group))
            start, dataset, negatives, folder = _start(settings, init, group, tell, stack)
            writer = CheckpointWriter(start, folder, tell)
            try:
                with callbacks(group) as training:
                    trained = trainer.train(
                        start.recipe,
                        dataset.train.images,
                        dataset.train.labels,
                        init=init.model.state_dict() if init else None,
                        negatives=negatives.images if negatives else None,
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


def _load_init(settings: Settings, group: Group) -> Artifact | None:
    """Check that the first process can write to the folders, and load the model to start from."""
    if group.rank == 0:
        for path in (settings.models_dir, settings.checkpoints_dir):
            files.check_writable(path)
    return artifacts.load(settings.init) if settings.init else None


def _start(
    settings: Settings, init: Artifact | None, group: Group, notify: Notify, stack: contextlib.ExitStack
) -> tuple[Checkpoint, Dataset, Negatives | None, RunFolder | None]:
    """Return the state to train from, the data, the negatives if any, and the folder for checkpoints.

    Only the first process has the folder.

    Every process prepares its own state. If one process fails, or the states differ, all processes stop.

    Args:
        stack: closes the folder.
    """
    overrides, recipe = group.attempt(lambda: _choose_recipe(settings, init))
    folder, interrupted = _find_interrupted(settings, overrides, init, group, notify)
    if folder:
        stack.callback(folder.close)
    dataset = _load_data(settings, interrupted, group, notify)
    negatives = _load_negatives(settings, interrupted, group, notify)
    validation = interrupted.dataset.validation if interrupted else settings.validation
    machine = Machine(group.device.type, torch.get_num_threads(), group.size)

    def prepare() -> tuple[Checkpoint, Dataset]:
        data = dataset.with_validation(validation) if validation else dataset
        if interrupted:
            return _resume(interrupted, data, negatives, machine, notify), data
        chosen = recipe if "epochs" in overrides else recipe.scaled_to(len(dataset.train))
        origin = Origin(init.path.name, init.sha256, tuple(sorted(init.trained_on))) if init else None
        if init and init.classes != data.train.classes:
            notify(f"{init.path.name} was trained on other classes ({', '.join(init.classes)}); it learns the new ones")
        return Checkpoint(chosen, DatasetInfo.of(data, negatives), machine, init=origin), data

    start, dataset = group.attempt(prepare)
    group.agree(_facts(start, init))
    if not interrupted:
        folder = group.attempt(lambda: checkpoints.start(settings.checkpoints_dir) if group.rank == 0 else None)
        if folder:
            stack.callback(folder.close)
    return start, dataset, negatives, folder


def _choose_recipe(settings: Settings, init: Artifact | None) -> tuple[dict[str, Any], Recipe]:
    """Return the fields that the user overrides, plus the architecture of ``init``, and the recipe of a new run."""
    overrides = dict(settings.overrides)
    if init:
        if overrides.get("architecture", init.architecture) != init.architecture:
            raise RunError(f"{init.path} is of architecture {init.architecture}, not {overrides['architecture']}")
        overrides["architecture"] = init.architecture
    return overrides, recipe_files.get(settings.recipe or recipes.DEFAULT, **overrides)


def _find_interrupted(
    settings: Settings, overrides: Mapping[str, Any], init: Artifact | None, group: Group, notify: Notify
) -> tuple[RunFolder | None, Checkpoint | None]:
    """Find the run to resume; return its folder (None except in the first process) and its last checkpoint.

    The first process looks for it if any process is to resume, not only if the first one is: after the crash of one
    machine, the restart counts of the machines differ.
    """
    restarts = group.attempt(lambda: distributed.environment_number("TORCHELASTIC_RESTART_COUNT", default=0))
    if not any(group.gather(settings.resume or restarts > 0)):
        return None, None
    wanted = _wanted(settings, overrides)

    def matches(checkpoint: Checkpoint) -> bool:
        if init and (checkpoint.init is None or checkpoint.init.sha256 != init.sha256):
            return False
        same_recipe = all(getattr(checkpoint.recipe, name) == value for name, value in wanted.items())
        # Paths are compared, so that a slash at the end of a folder's name makes no difference.
        same_data = settings.dataset == "auto" or Path(settings.dataset) == Path(checkpoint.dataset.name)
        same_split = settings.validation in (0, checkpoint.dataset.validation)
        negatives = checkpoint.dataset.negatives
        same_negatives = settings.negatives is None or (
            negatives is not None and Path(settings.negatives) == Path(negatives.name)
        )
        return same_recipe and same_data and same_split and same_negatives

    def unpack(content: bytes) -> Checkpoint:
        checkpoint = checkpoints.unpack(content, "the checkpoint")
        if not matches(checkpoint):
            raise RunError("the run that rank 0 resumes has other options (start all processes with the same ones)")
        return checkpoint

    found = group.attempt(
        lambda: checkpoints.find(settings.checkpoints_dir, matches, notify) if group.rank == 0 else None
    )
    content = group.from_first(checkpoints.pack(found[1]) if found else None)
    if content is None:
        notify(f"no interrupted run with these settings is in {settings.checkpoints_dir}: starting a new one")
        return None, None
    return found[0] if found else None, group.attempt(lambda: unpack(content))


def _wanted(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe that a run to resume must have.

    For a recipe file these are all its values, because the file may have changed. The seed and the epochs, which are
    scaled to the data, matter only if the user sets them.
    """
    if settings.recipe is None:
        return dict(overrides)
    recipe = recipe_files.get(settings.recipe, **overrides)
    if not recipe_files.is_file(settings.recipe):
        return {**overrides, "name": recipe.name}
    values = dataclasses.asdict(recipe)
    return {name: value for name, value in values.items() if name not in ("epochs", "seed") or name in overrides}


def _load_data(settings: Settings, interrupted: Checkpoint | None, group: Group, notify: Notify) -> Dataset:
    """Load the data set. The first process loads it before the others, and resolves ``auto`` for all of them."""
    name = interrupted.dataset.name if interrupted else settings.dataset

    def load(name: str) -> Dataset:
        return datasets.load(
            name,
            settings.data_dir,
            mirror=settings.mirror,
            skip_unusable=settings.skip_unusable,
            notify=notify,
        )

    first = group.attempt(lambda: load(name) if group.rank == 0 else None)
    chosen = group.from_first(first and first.name)
    return group.attempt(lambda: first or load(chosen if name == "auto" and chosen else name))


def _load_negatives(
    settings: Settings, interrupted: Checkpoint | None, group: Group, notify: Notify
) -> Negatives | None:
    """Load the negatives, if any. The first process loads them before the others, so that only it downloads them."""
    used = interrupted.dataset.negatives if interrupted else None
    name = used.name if used else settings.negatives
    if name is None:
        return None

    def load() -> Negatives:
        return datasets.load_negatives(name, settings.data_dir, notify)

    first = group.attempt(lambda: load() if group.rank == 0 else None)
    return group.attempt(lambda: first or load())


def _facts(start: Checkpoint, init: Artifact | None) -> dict[str, str]:
    """Return descriptions of what must be equal in all processes, by name."""
    network = architecture.build(start.recipe.architecture, torch.Generator())
    layout = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return {
        "data": f"{start.dataset.training_images:,} training images, SHA-256 {start.dataset.sha256[:16]}",
        "validation images": str(start.dataset.validation),
        "negatives": f"SHA-256 {negatives.sha256[:16]}" if (negatives := start.dataset.negatives) else "none",
        **{f"recipe's {name}": str(value) for name, value in dataclasses.asdict(start.recipe).items()},
        "layers": f"SHA-256 {hashlib.sha256(repr(layout).encode()).hexdigest()[:16]}",
        # Random weights are not compared: all processes get those of the first one, bit for bit.
        "initial weights": f"SHA-256 {init.sha256[:16]}" if init else "random",
        "steps before the start": str(start.step),
    }


def _resume(
    checkpoint: Checkpoint, dataset: Dataset, negatives: Negatives | None, machine: Machine, notify: Notify
) -> Checkpoint:
    """Return the state to resume from on this data and this machine."""
    used = checkpoint.dataset
    before = used.sha256, used.negatives and used.negatives.sha256
    if before != (dataset.fingerprint, negatives and negatives.fingerprint):
        raise RunError("the data has changed since the run was interrupted (start a new run, without --resume)")
    old, new = dataclasses.asdict(checkpoint.machine), dataclasses.asdict(machine)
    if changed := [f"{name}: {old[name]}, now {value}" for name, value in new.items() if old[name] != value]:
        notify(f"WARNING: rounding will make the weights differ from an uninterrupted run's ({'; '.join(changed)})")
    return dataclasses.replace(checkpoint, machine=machine, resumed=checkpoint.resumed + 1)


def _digests(start: Checkpoint, dataset: Dataset, init: Artifact | None) -> Digests | None:
    """Return the digests of all training images, including those of the model that the run started from.

    Return None if the latter are unknown: that model has no digest file, or ``init`` was not given when resuming.
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
        log=trained.log,
    )
    return Result(path, start.recipe, dataset, start.init, model, performance, usage)
