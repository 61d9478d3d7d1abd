"""``mnist train``."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from mnist import files, recipe_files, recipes, resources
from mnist.cli import display, options, results, tables
from mnist.cli import model_options as choices
from mnist.cli.help import GroupedCommand
from mnist.cli.judging import BLOCKED_HINT, Loader, check_gate_options, judge
from mnist.cli.model_options import GateOptions, ModelOptions
from mnist.cli.options import CheckpointOptions, DataOptions
from mnist.cli.process import SIGNAL_BASE, DeferredSignals, import_torch
from mnist.errors import MnistError

if TYPE_CHECKING:
    from mnist.distributed import Group
    from mnist.progress import Progress, Report
    from mnist.runs import Result, Settings, TrainingCallbacks

SECONDS_BEFORE_LOAD_WARNING = 0.5  # training time over which the load from other processes is measured

# Hints that replace BLOCKED_HINT if a model of the recipe is blocked, unless --epochs was given.
BLOCKED_HINTS = {
    "baseline": "run make train RECIPE=standard, or make train RECIPE=baseline EPOCHS=3 (about half of all correctly "
    "trained baseline models are blocked: after one epoch at a constant learning rate, the accuracy on some digit is "
    "often near its bound)",
}


OPTION_GROUPS = {
    "Recipe and network": ("recipe", "architecture", "init"),
    "Hyperparameters, which override those of the recipe": (
        *(field.name for field in recipes.Recipe.options() if field.name != "architecture"),
    ),
    "Data": ("dataset", "data_dir", "mirror", "skip_unusable", "negatives", "validation"),
    "Run": ("device", "models_dir", "resume", "checkpoint_interval", "checkpoints_dir"),
    "Gate": ("judged", "policy", "baseline", "reports_dir"),
}


@click.command(cls=GroupedCommand, groups=OPTION_GROUPS)
@options.recipe
@options.recipe_fields()
@options.optional_path("--init", "Start training from the weights of this model instead of random ones.")
@options.data("auto", options.AUTO_DATASET)
@click.option(
    "--negatives",
    metavar="emnist-letters|FOLDER",
    help="Also train on images that show no digit: EMNIST's letters, or a folder. The network learns to predict equal "
    "probabilities for them.",
)
@click.option(
    "--validation",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train on all but the last N training images, and measure on those N instead of the test images.",
)
@choices.models_dir
@options.device
@options.checkpoints
@click.option(
    "--gate/--no-gate", "judged", default=True, show_default=True, help="Run the quality gate on the trained model."
)
@choices.gate
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: the report, or, with --no-gate, the model and its card. Progress goes to stderr.",
)
def train(
    recipe: str | None,
    init: Path | None,
    data_options: DataOptions,
    negatives: str | None,
    validation: int | None,
    models_dir: Path,
    device: str,
    checkpoint_options: CheckpointOptions,
    judged: bool,
    gate_options: GateOptions,
    as_json: bool,
    **overrides: Any,
) -> int:
    """Train a model, save it with its model card, and judge it on images it was not trained on.

    A blocked model is saved as well; the exit code is 1. Unless --epochs is given, the number of epochs is scaled so
    that the number of training steps is about the same as on MNIST. --validation does not change the number of epochs.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 stop the run and save its state. --resume continues the run, also after a crash,
    and leads to the same weights as an uninterrupted run. If there is no interrupted run, --resume starts a new one.
    """
    overrides = options.given(overrides)
    recipe_files.get(recipe or recipes.DEFAULT, **overrides)  # report invalid values before the slow import
    import_torch()
    from mnist import runs

    settings = runs.Settings(
        recipe=recipe,
        overrides=overrides,
        init=init,
        dataset=data_options.name or "auto",
        data_dir=data_options.data_dir,
        mirror=data_options.mirror,
        skip_unusable=data_options.skip_unusable,
        negatives=negatives,
        validation=validation or 0,
        device=device,
        resume=checkpoint_options.resume,
        checkpoints_dir=checkpoint_options.folder,
        models_dir=models_dir,
        **checkpoint_options.interval,
    )

    def check() -> None:
        if judged:
            files.check_writable(gate_options.reports_dir)
        check_gate_options(gate_options, ModelOptions())

    result = _run(settings, check, tables.console(err=True) if as_json else tables.out)
    if result is None:
        return 0  # only rank 0 judges the model
    if not as_json:
        results.show_training(result)
    if judged:
        return _judge(result, gate_options, as_json, hint="epochs" not in overrides)
    if as_json:
        display.write_json(_describe_unjudged(result))
    else:
        display.write(result.path)
    return 0


def _judge(result: "Result", gate_options: GateOptions, as_json: bool, *, hint: bool) -> int:
    """Judge the trained model, print the verdicts, and return the exit code.

    Args:
        hint: if the model is blocked, print the hint for its recipe, if there is one, instead of the general hint.
    """
    from mnist import architecture

    loader = Loader(architecture.device_of(result.model))
    try:
        baseline = loader.load_baseline(gate_options, result.dataset)
    except MnistError as error:
        raise MnistError(f"{error}; the trained model is {result.path}, which was not judged") from error
    outcome = judge(loader.load(result.path, result.dataset), result.dataset, gate_options, baseline)
    outcome.warn(result.dataset)
    if as_json:
        display.write_json(outcome.content)
        return outcome.finish()
    outcome.show(result.dataset, BLOCKED_HINTS.get(result.recipe.name, BLOCKED_HINT) if hint else BLOCKED_HINT)
    return outcome.finish()


def _describe_unjudged(result: "Result") -> dict[str, Any]:
    """Return the fields of report.json that can be filled in for a model that has no verdicts yet."""
    from mnist.storage import card as cards

    card = cards.read(cards.card_path(result.path))
    assert card is not None
    return {
        "decision": None,
        "model": str(result.path),
        "sha256": card.sha256,
        "recipe": card.describe_recipe(),
        "card": dataclasses.asdict(card),
    }


def _run(settings: "Settings", check: Callable[[], None], progress: Console) -> "Result | None":
    """Train with a progress display; if a signal interrupts the training, exit with its exit code."""
    from mnist import runs

    received: list[int | None] = []  # the signal that interrupted the training, or None
    try:
        return runs.train(
            settings,
            notify=display.notify,
            check=check,
            callbacks=lambda group: _training_callbacks(group, received, progress),
        )
    except runs.RunInterrupted as interruption:
        if str(interruption):
            display.write(f"{interruption} (continue: make train RESUME=1, or mnist train --resume)", err=True)
    sys.exit(SIGNAL_BASE + (received[0] or signal.SIGINT))


@contextmanager
def _training_callbacks(group: "Group", received: list[int | None], progress: Console) -> "Iterator[TrainingCallbacks]":
    """Yield the callbacks of a training run, and append the signal that stopped it, or None, to ``received``."""
    from mnist.runs import TrainingCallbacks

    with DeferredSignals() as signals, contextlib.ExitStack() as stack:
        stack.callback(lambda: received.append(signals.received))

        def stop() -> bool:
            return signals.received is not None

        if group.rank > 0:
            yield TrainingCallbacks(stop=stop)
            return
        report = stack.enter_context(display.show_progress(progress))
        yield TrainingCallbacks(_warn_of_other_load(report) if group.device.type == "cpu" else report, stop)


def _warn_of_other_load(report: "Report") -> "Report":
    """Wrap a report function; the wrapper warns once, early in training, if other processes slow down the training."""
    import torch

    load, threads = resources.OtherLoad(), torch.get_num_threads()
    watching = threads > 1

    def watch(progress: "Progress") -> None:
        nonlocal watching
        if watching and load.seconds >= SECONDS_BEFORE_LOAD_WARNING:
            watching, busy = False, load.busy()
            if busy + threads >= load.processors + 0.5:
                display.notify(
                    f"WARNING: other processes keep {busy:.1f} of {load.processors} processors busy. The {threads} "
                    "training threads then wait for each other; a single thread can be several times faster. To train "
                    "with one thread, press Ctrl-C and run the command again with OMP_NUM_THREADS=1 in front"
                )
        report(progress)

    return watch
