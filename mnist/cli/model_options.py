"""Command-line options for loading models and for judging them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist import confidence, files
from mnist.cli import display
from mnist.cli.options import (
    FILE_OR_FOLDER,
    Decorator,
    combined,
    import_architecture,
    optional_path,
    own_architecture,
    path,
)
from mnist.cli.process import import_torch
from mnist.errors import MnistError

if TYPE_CHECKING:
    from mnist.deploy.exported import ExportedModel
    from mnist.storage.artifacts import Artifact

min_confidence = click.option(
    "--min-confidence",
    type=float,
    callback=lambda context, option, value: confidence.check(value),
    help='Confidence from 0 to 1 below which a prediction is "not sure"; default: the threshold on the model card.',
)
model = click.argument("model", type=FILE_OR_FOLDER, required=False)
models_dir = path("--models-dir", "models", "Folder of trained models.")
reports_dir = path("--reports-dir", "reports", "Folder for reports of the gate.")


@dataclass(frozen=True)
class Chosen:
    """The model that the user names, or the folders in which to find the newest one that passed the gate."""

    model: Path | None
    models_dir: Path
    reports_dir: Path
    architecture: str | None  # the model must have this architecture; None: any

    def load(self, min_confidence: float | None = None) -> "Artifact":
        """Load the model. Print a notice if a newer model was not used, and a warning if none has passed the gate.

        Args:
            min_confidence: replaces the model's confidence threshold.

        Raises:
            MnistError: if there is no model, it cannot be loaded, or it has another architecture.
        """
        from mnist.storage import registry

        artifact, message = registry.load(self.model, self.models_dir, self.reports_dir, min_confidence)
        if message:
            display.notify(message)
        self._check_architecture(artifact.path, artifact.architecture)
        return artifact

    def load_to_predict(self, min_confidence: float | None) -> "Artifact | ExportedModel":
        """Load the model as :meth:`load` does, or load an ONNX file, which does not need PyTorch."""
        from mnist.deploy import inference

        if not (self.model and files.is_onnx(self.model)):
            import_torch()
        model, message = inference.load_with_message(self.model, self.models_dir, self.reports_dir, min_confidence)
        if message:
            display.notify(message)
        self._check_architecture(model.path, getattr(model, "architecture", None))
        return model

    def _check_architecture(self, path: Path, architecture: str | None) -> None:
        """Check that a loaded model has the architecture that the user named; that of an ONNX file is None."""
        if self.architecture in (None, architecture):
            return
        if architecture is None:
            raise MnistError(f"{path} is an ONNX file, which contains its network (remove --architecture)")
        raise MnistError(
            f"{path} has the architecture {architecture}, not {self.architecture} "
            "(remove --architecture, or name another model)"
        )


def chosen(argument: Decorator) -> Decorator:
    """Return a decorator that adds the options for choosing a model; the command receives them as ``chosen``."""
    options: list[Decorator] = [argument, own_architecture(exposed=True), models_dir, reports_dir]
    return combined(options, ("model", "models_dir", "reports_dir", "architecture"), "chosen", Chosen)


@dataclass(frozen=True)
class ModelOptions:
    """Options for models that were written by other programs."""

    architecture: str | None = None  # None: inferred from the names and shapes of the weights
    input_range: str = "auto"  # pixel range that an ONNX model expects


def foreign_models(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for models from other programs; the command receives them as ``model_options``."""
    options: list[Decorator] = [
        click.option(
            "--architecture",
            metavar="cnn|fast|...|MODULE:CLASS",
            callback=import_architecture,
            help="Architecture of weights from another program; weights with unknown names are matched by order and "
            "shape. For a network of your own: its module and class.",
        ),
        click.option(
            "--input-range",
            type=click.Choice(["auto", "0-1", "0-255", "normalized", "-1-1"]),
            default="auto",
            show_default=True,
            help="Pixel range that an ONNX model expects; auto: the range with the best results on training images.",
        ),
    ]

    return combined(options, ("architecture", "input_range"), "model_options", ModelOptions)(command)


@dataclass(frozen=True)
class GateOptions:
    """The policy and the baseline for judging a model, and the folder for its report."""

    policy: Path | None  # None: the default policy of the package
    baseline: Path | None  # None: no comparison
    reports_dir: Path


def gate(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the gate; the command receives them as ``gate_options``."""
    options: list[Decorator] = [
        optional_path("--policy", "File of bounds to use instead of mnist/gate/gate.toml."),
        optional_path("--baseline", "Older model to compare with; the new one must not be worse."),
        reports_dir,
    ]

    return combined(options, ("policy", "baseline", "reports_dir"), "gate_options", GateOptions)(command)
