"""Recognize the digit in a user's image, or report "not sure" if the model's confidence is too low.

>>> from mnist import load, predict
>>> model = load()
>>> predict(model, "seven.png").label
'7'
"""

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist import confidence, files, preparation
from mnist.deploy import exported
from mnist.deploy.exported import ExportedModel
from mnist.preparation import Box, Digit, Found, ImageError, NoDigitError, Reason

if TYPE_CHECKING:
    from mnist.storage.artifacts import Artifact

IMAGES_PER_BATCH = 64  # number of user images whose digits are passed to the model in one call


class Model(Protocol):
    """The model interface for predictions. ``Artifact`` (PyTorch) and ``ExportedModel`` (ONNX) implement it."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names."""

    @property
    def threshold(self) -> float:
        """The lowest probability at which a class is predicted."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, float32 [N, classes], for images, uint8 [N, 28, 28]."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image, or for one of the digits in it.

    >>> doubtful = Prediction(("cat", "dog", "cow"), (0.5, 0.1, 0.4), threshold=0.9)
    >>> print(doubtful, doubtful.label)
    not sure: cat (50.0%) or cow (40.0%) None
    """

    classes: Sequence[str]
    probabilities: Sequence[float]  # probability of each class, in [0, 1]; empty if no digit was found
    threshold: float  # lowest probability at which a class is predicted
    problem: str = ""  # message that says why no digit was found; empty if one was found
    reason: Reason | None = None  # why no digit was found, or why the prediction is "not sure" at any probability
    # Bounding box of the digit in pixels of the image, after EXIF orientation; None if no digit was found.
    box: Box | None = None
    note: str = ""  # describes what was not read, such as the other frames of an animation
    # Input of the network, uint8 [28, 28] (for a stretched crop, the first of several); None if no digit was found.
    prepared: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The most probable class, or None if its probability is below the threshold or there is a ``reason``."""
        sure = self.probabilities and self.reason is None and self.best[1] >= self.threshold
        return self.best[0] if sure else None

    @property
    def best(self) -> tuple[str, float]:
        """The most probable class and its probability; ("", 0.0) if no digit was found."""
        return self._ranked(0)

    @property
    def runner_up(self) -> tuple[str, float]:
        """The second most probable class and its probability; ("", 0.0) if no digit was found."""
        return self._ranked(1)

    def __str__(self) -> str:
        (first, probability), (second, runner_up) = self.best, self.runner_up
        if self.problem:
            return self.problem
        if self.label is None:
            return f"not sure: {first} ({probability:.1%}) or {second} ({runner_up:.1%})"
        return f"{first} ({probability:.1%}; next: {second}, {runner_up:.1%})"

    def _ranked(self, rank: int) -> tuple[str, float]:
        ranking = sorted(zip(self.probabilities, self.classes, strict=False), key=lambda pair: -pair[0])
        return (ranking[rank][1], ranking[rank][0]) if ranking else ("", 0.0)


def load(
    path: str | os.PathLike[str] | None = None,
    models_dir: str | os.PathLike[str] = "models",
    reports_dir: str | os.PathLike[str] = "reports",
    min_confidence: float | None = None,
) -> "Artifact | ExportedModel":
    """Load a trained model from the file ``path``, or the newest one in ``models_dir`` that passed the gate.

    The file is a weights file, or an ONNX file that ``mnist export`` wrote. An ONNX file needs ONNX Runtime instead of
    PyTorch. ``reports_dir`` contains the gate's reports. If no model has passed, the newest one is loaded, with a
    warning. Predictions with a confidence below ``min_confidence`` are "not sure"; by default, the threshold on the
    model card applies.

    Raises:
        ArtifactError: if there is no model, or its file is missing, damaged or of an unknown network.
        ExportedModelError: if the ONNX file is missing, damaged, or from another program.
        ThresholdError: a ``ValueError``, if ``min_confidence`` is not between 0 and 1.
    """
    chosen = None if path is None else Path(path)
    model, message = load_with_message(chosen, Path(models_dir), Path(reports_dir), min_confidence)
    if message:
        warnings.warn(message, stacklevel=2)
    return model


def load_with_message(
    path: Path | None, models_dir: Path, reports_dir: Path, min_confidence: float | None
) -> "tuple[Artifact | ExportedModel, str]":
    """Load a model as :func:`load` does; return the model and the warning, which is empty if there is none."""
    confidence.check(min_confidence)
    if path and files.is_onnx(path):
        return exported.load(path, min_confidence), ""
    from mnist.storage import registry  # imports PyTorch

    return registry.load(path, models_dir, reports_dir, min_confidence)


def predict(model: Model, image: Any) -> Prediction:
    """Predict the digit in an image.

    The digit may be dark on light or light on dark, of any size and at any position.

    Args:
        model: the trained model.
        image: a path, a file object opened in binary mode, bytes, a Pillow image of any mode, or a NumPy array or
            tensor [H, W], [H, W, 1], [H, W, 3], [H, W, 4], [1, H, W], [3, H, W] or [4, H, W] of bool, uint8, uint16, or
            a float type with values in [0, 1] or [0, 255]. It is not modified.

    >>> import numpy as np
    >>> print(predict(load(), np.full((100, 100), 255, dtype=np.uint8)))
    no digit found

    Raises:
        ImageError: if ``image`` is none of these, or the image is damaged or too large.
        OSError: if a file object cannot be read.
    """
    return _only(_predict_one(model, image, split=False))


def predict_all(model: Model, image: Any) -> list[Prediction]:
    """Predict each digit in an image that :func:`predict` accepts, in reading order.

    If no digit is found, the result is a single prediction with the reason.

    Raises:
        ImageError: if ``image`` is of another type, or the image is damaged or too large.
        OSError: if a file object cannot be read.
    """
    return _predict_one(model, image, split=True)


def predict_files(model: Model, paths: Iterable[Path]) -> Iterator[Prediction | ImageError]:
    """Yield the prediction of ``model`` for each file, or an error if the file is not a usable image.

    The files are read lazily, at most two batches ahead.
    """
    for predictions in _predict_found(model, preparation.find_in_files(paths, split=False)):
        yield predictions if isinstance(predictions, ImageError) else _only(predictions)


def predict_all_in_files(model: Model, paths: Iterable[Path]) -> Iterator[list[Prediction] | ImageError]:
    """Yield the predictions of all digits in each file, or an error if the file is not a usable image.

    The files are read lazily, at most two batches ahead.
    """
    return _predict_found(model, preparation.find_in_files(paths, split=True))


# ---- Steps -----------------------------------------------------------------------------------------------------------


def _predict_one(model: Model, image: Any, *, split: bool) -> list[Prediction]:
    found: Found | ImageError
    if isinstance(image, str | os.PathLike):
        found = preparation.find_in_file(Path(image), split=split)
    else:
        found = preparation.find(image, split=split)
    predictions = next(_predict_found(model, [found]))
    if isinstance(predictions, ImageError):
        raise predictions
    return predictions


def _only(predictions: Sequence[Prediction]) -> Prediction:
    (prediction,) = predictions
    return prediction


def _predict_found(model: Model, found: Iterable[Found | ImageError]) -> Iterator[list[Prediction] | ImageError]:
    """Yield the predictions for the digits in each image; pass errors through unchanged."""
    remaining = iter(found)
    while batch := list(itertools.islice(remaining, IMAGES_PER_BATCH)):
        digits = [
            digit for each in batch if isinstance(each, Found) for digit in each.digits if isinstance(digit, Digit)
        ]
        evaluations = _evaluate(model, digits)
        for each in batch:
            if isinstance(each, ImageError):
                yield each
            else:
                yield [_to_prediction(model, digit, each.note, evaluations) for digit in each.digits]


def _to_prediction(
    model: Model, digit: Digit | NoDigitError, note: str, evaluations: Iterator["_Evaluation"]
) -> Prediction:
    if isinstance(digit, NoDigitError):
        return Prediction(model.classes, (), model.threshold, problem=str(digit), reason=digit.reason, note=note)
    evaluation = next(evaluations)
    return Prediction(
        model.classes,
        evaluation.probabilities,
        model.threshold,
        reason=Reason.MAY_BE_TWO_DIGITS if digit.doubtful or evaluation.halves_are_clearer else None,
        box=digit.box,
        note=note,
        prepared=digit.prepared,
    )


class _Evaluation(NamedTuple):
    """The output of the network for one digit."""

    probabilities: list[float]  # of each class, averaged over the digit's aspect ratios
    halves_are_clearer: bool  # whether the network is more confident about each half than about the complete digit


def _evaluate(model: Model, digits: Sequence[Digit]) -> Iterator[_Evaluation]:
    """Yield the evaluation of each digit. All images are passed to the model in one call."""
    if not digits:
        return
    images = [[digit.prepared, *digit.narrower, *digit.halves] for digit in digits]
    probabilities = model.probabilities(np.concatenate(images))
    ends = np.cumsum([len(each) for each in images])
    for digit, each in zip(digits, np.split(probabilities, ends[:-1]), strict=True):
        views, halves = np.split(each, [1 + len(digit.narrower)])
        mean = views.mean(0)
        yield _Evaluation(mean.tolist(), bool(len(halves)) and bool(halves.max(1).min() > mean.max()))
