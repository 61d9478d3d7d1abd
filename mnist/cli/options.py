"""Command-line options that several commands share."""

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from mnist import recipes
from mnist.cli import display
from mnist.cli.process import import_torch
from mnist.recipes import Recipe

if TYPE_CHECKING:
    from mnist.datasets import Dataset

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Path(click.Path):
    """A path that must not be empty, because an unset shell variable would otherwise mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


FILE_OR_FOLDER = _Path(path_type=Path)


def path(flag: str, default: str, meaning: str) -> Decorator:
    """Return an option for a path."""
    return click.option(flag, type=FILE_OR_FOLDER, default=default, show_default=True, help=meaning)


def optional_path(flag: str, meaning: str) -> Decorator:
    """Return an option for a path that has no default."""
    return click.option(flag, type=FILE_OR_FOLDER, help=meaning)


force = click.option("--force", is_flag=True, help="Replace the output file even if this program did not draw it.")


# ---- Hyperparameters -------------------------------------------------------------------------------------------------


def _complete_recipe(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recipes that begin with ``incomplete``; if there are none, let the shell complete a file name."""
    names = [name for name in recipes.RECIPES if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


recipe = click.option(
    "--recipe",
    show_default=recipes.DEFAULT,
    metavar="NAME|FILE.toml",
    shell_complete=_complete_recipe,
    help=f'Set of hyperparameters: {", ".join(recipes.RECIPES)}, or a TOML file with `base = "standard"` and the '
    "values that differ. Other options override individual hyperparameters.",
)


def import_architecture(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Check the name of an architecture, and import one that is named ``package.module:Class``; return the name."""
    if value is not None:
        import_torch()
        from mnist import user_networks

        user_networks.require(value)
    return value


def own_architecture(*, exposed: bool) -> Decorator:
    """Return the option for a network of the user's, for commands that accept no weights from other programs.

    Args:
        exposed: pass the name to the command as ``architecture``, not only import the network.
    """
    return click.option(
        "--architecture",
        metavar="MODULE:CLASS",
        expose_value=exposed,
        callback=import_architecture,
        help="Module and class of the network that the model was trained with, if it is your own (a model card never "
        "makes this program import a module).",
    )


def recipe_fields(*names: str) -> Decorator:
    """Return a decorator that adds an option for each field of a recipe, or for the named fields.

    If the user does not set an option, its value is None, and the recipe's value applies.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        kinds = typing.get_type_hints(Recipe)
        for field in reversed(Recipe.options()):
            if not names or field.name in names:
                flag = f"--{field.name.replace('_', '-')}"
                callback = import_architecture if field.name == "architecture" else None
                kind, help_text = kinds[field.name], field.metadata["help"]
                command = click.option(flag, field.name, type=kind, callback=callback, help=help_text)(command)
        return command

    return decorate


def given(choices: dict[str, Any]) -> dict[str, Any]:
    """Return only the options that the user has set."""
    return {name: value for name, value in choices.items() if value is not None}


def _parse_interval(context: click.Context, option: click.Parameter, value: str) -> dict[str, float]:
    """Parse ``500`` as training steps and ``30s`` as seconds, for the fields of :class:`mnist.runs.Settings`."""
    try:
        steps, seconds = (math.inf, float(value[:-1])) if value.endswith("s") else (float(int(value)), math.inf)
    except ValueError:
        steps = seconds = 0.0
    if not (steps > 0 and seconds > 0 and min(steps, seconds) < math.inf):
        raise click.BadParameter(f"{value!r} is neither a number of steps, like 500, nor of seconds, like 30s")
    return {"checkpoint_steps": steps, "checkpoint_seconds": seconds}


@dataclass(frozen=True)
class CheckpointOptions:
    """Options for resuming a run and for writing checkpoints."""

    resume: bool
    interval: dict[str, float]  # fields of `runs.Settings`
    folder: Path


def checkpoints(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for checkpoints; the command receives them as ``checkpoint_options``."""
    options: list[Decorator] = [
        click.option(
            "--resume", is_flag=True, help="Continue the newest interrupted run that matches the given options."
        ),
        click.option(
            "--checkpoint-interval",
            callback=_parse_interval,
            metavar="STEPS|SECONDSs",
            default="10s",
            show_default=True,
            help="Interval between checkpoints, in training steps (such as 500) or in seconds (such as 30s).",
        ),
        path("--checkpoints-dir", "checkpoints", "Folder for checkpoints; they are deleted when the model is saved."),
    ]

    return combined(
        options, ("resume", "checkpoint_interval", "checkpoints_dir"), "checkpoint_options", CheckpointOptions
    )(command)


device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Device to compute on."
)

# ---- Data ------------------------------------------------------------------------------------------------------------

AUTO_DATASET = (
    "MNIST, the offline subset of 5,000 MNIST images, or auto: MNIST if it is available, otherwise the subset."
)
MODEL_DATASET = "default: those of the data set that the model was trained on."
_OTHER_DATASETS = "Or fashion-mnist, kmnist, emnist-digits, qmnist, or a folder with images in subfolders 0 to 9."


def _parse_share(context: click.Context, option: click.Parameter, value: str) -> float:
    """Parse ``0.05`` or ``5%``. With decimal arithmetic, 2.9% equals 0.029 exactly."""
    try:
        share = float(Decimal(value.removesuffix("%")) / (100 if value.endswith("%") else 1))
    except (ArithmeticError, ValueError):
        share = math.nan
    if not 0 <= share < 1:
        raise click.BadParameter(
            f"{value!r} is not a share below 1, such as 0.05, or a percentage below 100%, such as 5%"
        )
    return share


@dataclass(frozen=True)
class DataOptions:
    """The data set that the user chose, and the location of its files."""

    name: str | None  # None: the default of the command
    data_dir: Path
    mirror: str | None
    skip_unusable: float  # maximum fraction of a folder's images that may be unusable and left out

    def load(self, default: str = "auto") -> "Dataset":
        """Load the user's data set, or ``default`` if the user chose none; print notices about downloads."""
        from mnist import datasets

        return datasets.load(
            self.name or default,
            self.data_dir,
            mirror=self.mirror,
            skip_unusable=self.skip_unusable,
            notify=display.notify,
        )


def data(default: str | None, meaning: str) -> Decorator:
    """Return a decorator that adds the options for the data set; the command receives them as ``data_options``."""
    options: list[Decorator] = [
        click.option(
            "--dataset",
            metavar="auto|mnist|subset|...",
            default=default,
            show_default=True,
            help=f"{meaning} {_OTHER_DATASETS}",
        ),
        path("--data-dir", "data", "Folder for downloaded data."),
        click.option(
            "--mirror",
            envvar="MNIST_MIRROR",
            show_envvar=True,
            help="URL or folder with MNIST's four .gz archives, tried before the public mirrors.",
        ),
        click.option(
            "--skip-unusable",
            callback=_parse_share,
            metavar="SHARE",
            default="0",
            show_default=True,
            help="Leave out unusable images of a folder, up to this share of all of them (such as 0.05 or 5%).",
        ),
    ]

    return combined(options, ("dataset", "data_dir", "mirror", "skip_unusable"), "data_options", DataOptions)


def combined(options: list[Decorator], names: Sequence[str], argument: str, kind: Callable[..., Any]) -> Decorator:
    """Return a decorator that adds options to a command and passes their values as one argument, ``kind(*values)``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def call(**values: Any) -> Any:
            combined = kind(*(values.pop(name) for name in names))
            return command(**values, **{argument: combined})

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(options):
            call = option(call)
        return call

    return decorate
