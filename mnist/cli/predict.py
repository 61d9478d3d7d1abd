"""``mnist predict``."""

import glob
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from mnist.cli import display, options
from mnist.cli import model_options as choices
from mnist.cli.model_options import Chosen
from mnist.cli.process import BAD_INPUT
from mnist.errors import MnistError
from mnist.shapes import DIGITS
from mnist.text import one_line

if TYPE_CHECKING:
    from mnist.deploy.exported import ExportedModel
    from mnist.deploy.inference import Model, Prediction
    from mnist.storage.artifacts import Artifact

MAX_DRAWN_IMAGES = 64  # maximum number of images that `mnist predict --show` draws
DEFAULT_DRAWING = Path("figures/seen.png")
MAX_TITLE_CHARACTERS = 24  # a longer file name is shortened in the title of its drawing


@click.command()
@click.argument("patterns", nargs=-1, metavar="IMAGE...")
@choices.chosen(
    options.optional_path(
        "--model", "Weights file, or ONNX file of mnist export; by default the newest model that passed the gate."
    )
)
@choices.min_confidence
@click.option("--split", is_flag=True, help="Predict each digit in an image that shows several, in reading order.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image, or per digit with --split.")
@click.option(
    "--show",
    type=options.FILE_OR_FOLDER,
    is_flag=False,
    flag_value=DEFAULT_DRAWING,
    help=f"Draw the network's inputs for the first {MAX_DRAWN_IMAGES} digits found; default file: {DEFAULT_DRAWING}. "
    "Without a file, put the option after the images.",
)
@options.force
def predict(
    patterns: tuple[str, ...],
    chosen: Chosen,
    min_confidence: float | None,
    split: bool,
    as_json: bool,
    show: Path | None,
    force: bool,
) -> int:
    """Recognize the digit in each IMAGE: a file that Pillow reads, a folder, or a pattern like 'scans/*.png'.

    An image can be a scan, a photo of paper or a blackboard, or a drawing, of any size and colour. A prediction with a
    low confidence is "not sure". The exit code is 2 if a file is not an image; the others are still recognized.
    """
    if not patterns:
        taken = show if show != DEFAULT_DRAWING else None
        hint = f", because {taken} was taken for the value of --show; put the images before --show" if taken else ""
        raise click.UsageError(f"Missing argument 'IMAGE...'{hint}")
    if show and show.suffix != ".png":
        raise MnistError(f"--show must end in .png, not {show}")
    drawings = _import_drawings() if show else None
    if show and drawings and not force:
        # A user may run `mnist predict --show scan.png` with scan.png meant as the input; do not overwrite it.
        drawings.check_replaceable(show)
    paths = [path for pattern in patterns for path in _expand(pattern)]
    model = chosen.load_to_predict(min_confidence)
    _show_model(model)
    started = time.perf_counter()
    predictions, n_read = [], 0
    for path, found in _predictions(model, paths, split):
        n_read += 1
        if note := found[0].note:
            display.notify(f"{path}: {note}")
        for prediction in found:
            predictions.append((path, prediction))
            display.write(_to_json(path, prediction) if as_json else f"{path}: {_describe(prediction, split)}")
    if len(paths) > 1 or split:
        rate = len(paths) / (time.perf_counter() - started)
        sure = sum(prediction.label is not None for _, prediction in predictions)
        total = f"{len(predictions):,} shapes" if split else f"{len(paths):,} images"
        display.notify(
            f"{sure:,} of {total} recognized; {len(predictions) - sure:,} uncertain or without a digit "
            f"({rate:,.0f} images/s)"
        )
    drawn = [(p.prepared, _title(path, p)) for path, p in predictions if p.prepared is not None][:MAX_DRAWN_IMAGES]
    if drawn and drawings:
        drawings.draw_inputs(drawn, show)
        display.notify(f"drawn: {show}")
    return BAD_INPUT if n_read < len(paths) else 0


def _import_drawings() -> ModuleType:
    """Import and return the module that draws figures.

    Raises:
        MnistError: if Matplotlib is not installed.
    """
    try:
        from mnist import drawings
    except ModuleNotFoundError as error:
        raise MnistError("--show needs the package matplotlib (python -m pip install matplotlib)") from error
    return drawings


def _show_model(model: "Artifact | ExportedModel") -> None:
    trained_on = model.training_data or "unknown data (the model has no card)"
    display.notify(f"model: {model.path}, trained on {trained_on}")
    if model.classes != DIGITS:
        display.notify(
            f"WARNING: the classes are not digits but {', '.join(model.classes)}; images are prepared as for digits"
        )


def _predictions(model: "Model", paths: list[Path], split: bool) -> "Iterator[tuple[Path, list[Prediction]]]":
    """Yield the path and the predictions of each image; print an error for each file that is not an image."""
    from mnist.deploy import inference
    from mnist.preparation import ImageError

    if split:
        results = inference.predict_all_in_files(model, paths)
    else:
        single = inference.predict_files(model, paths)
        results = (found if isinstance(found, ImageError) else [found] for found in single)
    for path, found in zip(display.track(paths), results, strict=True):
        if isinstance(found, ImageError):
            display.write(f"error: {found}", err=True)
        else:
            yield path, found


def _describe(prediction: "Prediction", split: bool) -> str:
    """Return the prediction as text; with ``--split``, the digit's position follows."""
    if not split or not prediction.box:
        return str(prediction)
    return f"{prediction} at x {prediction.box.left}, y {prediction.box.top}"


def _expand(pattern: str) -> list[Path]:
    """Return the image files of an argument: a file, all images in a folder, or all files that match a pattern."""
    from mnist import preparation

    if not pattern:
        raise MnistError("an IMAGE is empty (is a variable of the shell unset?)")
    path = Path(pattern)
    if path.suffix in (".pth", ".pt", ".onnx"):
        raise MnistError(f"{path} is a model, not an image (name it with --model)")
    if path.is_dir():
        paths = preparation.find_images(path)
    elif glob.has_magic(pattern) and not path.exists():
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path.glob accepts no absolute patterns
        paths = [Path(match) for match in matches if not Path(match).is_dir()]
    else:
        paths = [path]
    if not paths:
        raise MnistError(f"there is no image in {path}" if path.is_dir() else f"no file matches {pattern}")
    return paths


def _to_json(path: Path, prediction: "Prediction") -> str:
    """Return the line that ``--json`` prints for an image."""
    from mnist import files

    (best, confidence), (runner_up, runner_up_confidence) = prediction.best, prediction.runner_up
    values = {
        "image": str(path),
        "outcome": "not found" if prediction.problem else "not sure" if prediction.label is None else "sure",
        "label": prediction.label,
        "best": best or None,
        "confidence": confidence,
        "runner_up": runner_up or None,
        "runner_up_confidence": runner_up_confidence,
        "probabilities": dict(zip(prediction.classes, prediction.probabilities, strict=False)),
        "problem": prediction.problem or None,
        "reason": prediction.reason.value if prediction.reason else None,
        "box": prediction.box._asdict() if prediction.box else None,
        "note": prediction.note or None,
    }
    return files.to_json(values, indent=None).decode().rstrip()


def _title(path: Path, prediction: "Prediction") -> str:
    (best, confidence), (runner_up, runner_up_confidence) = prediction.best, prediction.runner_up
    doubt = "not sure: " * (prediction.label is None)
    name = one_line(path.name)[-MAX_TITLE_CHARACTERS:]
    return f"{name}\n{doubt}{best}, {confidence:.1%}\nnext: {runner_up}, {runner_up_confidence:.1%}"
