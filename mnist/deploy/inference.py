"""Recognize the digit in a user's image, or answer "not sure" if the model's confidence is too low.

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

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mnist import architecture, preparation, transforms
from mnist.preparation import ImageError, NoDigitError
from mnist.storage import registry
from mnist.storage.artifacts import Artifact

IMAGES_READ_AHEAD = 64


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    >>> doubtful = Prediction(("cat", "dog", "cow"), (0.5, 0.1, 0.4), threshold=0.9)
    >>> print(doubtful, doubtful.label)
    not sure: cat (50.0%) or cow (40.0%) None
    """

    classes: Sequence[str]
    probabilities: Sequence[float]  # in [0, 1], one for each class; empty if no digit was found
    threshold: float  # lowest probability at which a class is predicted
    problem: str = ""  # why no digit was found
    # Input of the network, uint8 [28, 28]; None if no digit was found.
    prepared: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The most probable class, or None if its probability is below the threshold."""
        return self.best[0] if self.probabilities and self.best[1] >= self.threshold else None

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
) -> Artifact:
    """Load a trained model from the weights file ``path``, or the newest one in ``models_dir`` that passed the gate.

    ``reports_dir`` holds the reports of the gate. If no model has passed, the newest one is loaded, with a warning.

    Raises:
        ArtifactError: if the file is missing or damaged.
    """
    artifact, message = registry.load(None if path is None else Path(path), Path(models_dir), Path(reports_dir))
    if message:
        warnings.warn(message, stacklevel=2)
    return artifact


def predict(model: Artifact, image: str | os.PathLike[str] | Image.Image | NDArray[np.uint8]) -> Prediction:
    """Predict the digit in an image: a path, a Pillow image, or a uint8 array [H, W] or [H, W, 3].

    The digit may be dark on light or light on dark, of any size and at any position: see
    :func:`mnist.preparation.prepare`.

    >>> import numpy as np
    >>> print(predict(load(), np.full((100, 100), 255, dtype=np.uint8)))
    no digit found

    Raises:
        ImageError: if the file is not an image, or the image is damaged, animated, or too large.
    """
    prepared: NDArray[np.uint8] | ImageError
    try:
        prepared = preparation.prepare(image)
    except NoDigitError as error:
        prepared = error
    prediction = next(_predict_prepared(model, [prepared]))
    if isinstance(prediction, ImageError):
        raise prediction
    return prediction


def predict_files(model: Artifact, paths: Iterable[Path]) -> Iterator[Prediction | ImageError]:
    """Yield for each file the prediction of ``model``, or the error if the file is not a usable image.

    The files are read lazily, one batch at a time.
    """
    return _predict_prepared(model, map(preparation.prepare_file, paths))


def _predict_prepared(
    model: Artifact, prepared: Iterable[NDArray[np.uint8] | ImageError]
) -> Iterator[Prediction | ImageError]:
    """Yield a prediction for each image and each :class:`NoDigitError`; pass other errors through unchanged."""
    remaining = iter(prepared)
    while batch := list(itertools.islice(remaining, IMAGES_READ_AHEAD)):
        images = [image for image in batch if not isinstance(image, ImageError)]
        probabilities = iter(_probabilities(model, images))
        for image in batch:
            if isinstance(image, NoDigitError):
                yield Prediction(model.classes, (), model.threshold, problem=str(image))
            elif isinstance(image, ImageError):
                yield image
            else:
                yield Prediction(model.classes, next(probabilities), model.threshold, prepared=image)


def _probabilities(model: Artifact, prepared: list[NDArray[np.uint8]]) -> list[list[float]]:
    """Return the probabilities of all classes for each image."""
    if not prepared:
        return []
    device = architecture.device_of(model.model)
    batch = torch.from_numpy(np.stack(prepared))[:, None].to(device)
    rows: list[list[float]] = architecture.predict(model.model, transforms.prepare(batch)).softmax(1).tolist()
    return rows
