"""A user's image in, a digit out; or an honest "not sure", where the model is no better than that.

>>> from mnist import load, predict
>>> model = load()
>>> predict(model, "seven.png").label
'7'
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mnist import architecture, preparation, transforms
from mnist.preparation import ImageError, NoDigitError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

BATCH = 64  # images that wait for each other, so that the network sees them at once


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    probabilities: by class, in [0, 1]; none where nothing was found. threshold: the least that an answer needs to be
    given. problem: why nothing was found. prepared: what the network saw, uint8 [28, 28]; None where it saw nothing.

    >>> doubtful = Prediction(("cat", "dog", "cow"), (0.5, 0.1, 0.4), threshold=0.9)
    >>> print(doubtful, doubtful.label)
    not sure: cat (50.0%) or cow (40.0%) None
    """

    classes: Sequence[str]
    probabilities: Sequence[float]
    threshold: float
    problem: str = ""
    prepared: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The name of the class, if the model is sure enough of it."""
        return self.best[0] if self.probabilities and self.best[1] >= self.threshold else None

    @property
    def best(self) -> tuple[str, float]:
        """The most probable class and its probability, however small; no name and 0 where nothing was found."""
        return self._ranked(0)

    @property
    def runner_up(self) -> tuple[str, float]:
        """The class that comes after it, likewise."""
        return self._ranked(1)

    def __str__(self) -> str:
        (name, probability), (other, less) = self.best, self.runner_up
        if self.problem:
            return self.problem
        if self.label is None:
            return f"not sure: {name} ({probability:.1%}) or {other} ({less:.1%})"
        return f"{name} ({probability:.1%}; next: {other}, {less:.1%})"

    def _ranked(self, rank: int) -> tuple[str, float]:
        ranking = sorted(zip(self.probabilities, self.classes, strict=False), key=lambda pair: -pair[0])
        return (ranking[rank][1], ranking[rank][0]) if ranking else ("", 0.0)


def load(path: str | os.PathLike[str] | None = None, models_dir: str | os.PathLike[str] = "models") -> Artifact:
    """A trained model: the one in that weights file, or the newest in ``models_dir``.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    return artifacts.load(artifacts.require_newest(Path(models_dir)) if path is None else Path(path))


def predict(model: Artifact, image: str | os.PathLike[str] | Image.Image | NDArray[np.uint8]) -> Prediction:
    """What ``model`` says of an image: a file's path, what Pillow has opened, or uint8 [H, W] or [H, W, 3].

    The digit may be dark on light or light on dark, of any size, anywhere in it: see :func:`mnist.preparation.prepare`.

    >>> import numpy as np
    >>> print(predict(load(), np.full((100, 100), 255, dtype=np.uint8)))
    no digit found

    Raises:
        ImageError: it is no image, damaged, animated, or too large.
    """
    if isinstance(image, str | os.PathLike):
        prepared = preparation.prepare_file(Path(image))
    else:
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        try:
            prepared = preparation.prepare(preparation.to_pixels(opened))
        except NoDigitError as error:
            prepared = error
    answer = next(_answer(model, [prepared]))
    if isinstance(answer, ImageError):
        raise answer
    return answer


def predict_files(model: Artifact, paths: Iterable[Path]) -> Iterator[Prediction | ImageError]:
    """What ``model`` says of the image in each file, in turn, or why it is none."""
    return _answer(model, map(preparation.prepare_file, paths))


def _answer(model: Artifact, prepared: Iterable[NDArray[np.uint8] | ImageError]) -> Iterator[Prediction | ImageError]:
    waiting = iter(prepared)
    while batch := list(itertools.islice(waiting, BATCH)):
        seen = [image for image in batch if not isinstance(image, ImageError)]
        probabilities = iter(_probabilities(model, seen))
        for image in batch:
            if isinstance(image, NoDigitError):
                yield Prediction(model.classes, (), model.threshold, problem=str(image))
            elif isinstance(image, ImageError):
                yield image
            else:
                yield Prediction(model.classes, next(probabilities), model.threshold, prepared=image)


def _probabilities(model: Artifact, prepared: list[NDArray[np.uint8]]) -> list[list[float]]:
    if not prepared:
        return []
    device = next(model.model.parameters()).device
    batch = torch.from_numpy(np.stack(prepared))[:, None].to(device)
    rows: list[list[float]] = architecture.predict(model.model, transforms.prepare(batch)).softmax(1).tolist()
    return rows
