"""One training run from the data to the saved model: start or resume, train, evaluate, save."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mnist import checkpointing, devices, distributed, starting, trainer
from mnist.architecture import Classifier
from mnist.datasets import Dataset
from mnist.datasets.splits import Notify
from mnist.distributed import Group
from mnist.gate import performance
from mnist.metrics import Performance
from mnist.progress import Report, Usage
from mnist.recipes import Recipe
from mnist.starting import RunError as RunError
from mnist.starting import Settings as Settings
from mnist.storage import artifacts, environment
from mnist.storage.artifacts import Artifact
from mnist.storage.card import Origin, TrainingStats
from mnist.storage.checkpoints import Checkpoint, CheckpointWriter


class RunInterrupted(Exception):  # noqa: N818
    """The run was stopped on request. The message says whether its state was saved, and where."""


@dataclass(frozen=True)
class Result:
    """A finished run."""

    path: Path  # path of the saved weights
    recipe: Recipe
    dataset: Dataset
    init: Origin | None  # None: random initial weights
    model: Classifier
    performance: Performance  # measured on the validation images if there are any, otherwise on the test images
    usage: Usage


@dataclass(frozen=True)
class TrainingCallbacks:
    """The callbacks of the training loop."""

    report: Report = lambda progress: None  # called with the progress about 50 times per run
    stop: Callable[[], bool] = lambda: False  # called after every step; if True, the run saves its state and stops


CallbackFactory = Callable[[Group], AbstractContextManager[TrainingCallbacks]]


def train(
    settings: Settings,
    *,
    notify: Notify = lambda line: None,
    check: Callable[[], None] = lambda: None,
    callbacks: CallbackFactory = lambda group: contextlib.nullcontext(TrainingCallbacks()),
) -> Result | None:
    """Train a model and save it with its card.

    Unless ``settings.overrides`` sets the number of epochs, the recipe's number is scaled to the size of the data set,
    to give about as many training steps as on MNIST. A validation split reduces the number of training images, but
    not the number of epochs: generalization depends on how often the network sees each image, so a validation run with
    the same number of epochs predicts the result of training on all images.

    Args:
        notify: is called with one line for each event that a user should know about.
        check: is called in the first process before the data is loaded. It raises an error if the run must not start.
        callbacks: takes the group of processes; returns a context manager that yields the training loop's callbacks.

    Returns:
        The finished run, or None in all processes of a group except the first.

    Raises:
        MnistError: if the settings, the data or the saved state cannot be used, or the training diverges.
        RunInterrupted: if the callbacks asked the run to stop.
        OSError: if a folder cannot be written to.
    """
    environment.source_commit()  # caches the commit for the card, because the source tree can change during the run
    with contextlib.ExitStack() as stack:
        with distributed.join(lambda: devices.select(settings.device)) as group:
            tell = notify if group.rank == 0 else lambda line: None
            group.attempt(lambda: check() if group.rank == 0 else None)
            init = group.attempt(lambda: starting.load_init(settings, group))
            start, dataset, negatives, folder = starting.start(settings, init, group, tell, stack)
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
        result = _save(settings, start, dataset, trained, init)
        folder.remove()
        return result


def _save(
    settings: Settings, start: Checkpoint, dataset: Dataset, trained: trainer.TrainingResult, init: Artifact | None
) -> Result:
    """Evaluate the model, determine its confidence threshold, and save it with its card."""
    model, usage = trained.model, trained.usage
    origin, digests = starting.describe_training_images(settings, start, dataset, init)
    measured = performance.evaluate_for_card(model, dataset, seed=start.recipe.seed)
    path = artifacts.save(
        model,
        settings.models_dir,
        recipe=start.recipe,
        dataset=start.dataset,
        training=TrainingStats(
            device=start.machine.device,
            threads=start.machine.threads,
            processes=start.machine.processes,
            init=origin,
            resumed=start.resumed,
            images=usage.images,
            seconds=usage.seconds,
            startup_seconds=usage.startup_seconds,
            images_per_second=usage.images_per_second,
            peak_memory_bytes=usage.peak_memory,
            cpu_use=usage.cpu_use,
        ),
        measured=measured,
        digests=digests,
        log=trained.log,
    )
    return Result(path, start.recipe, dataset, origin, model, measured, usage)
