"""Run an ONNX file that ``mnist export`` wrote, without PyTorch.

The file is not trusted. ONNX Runtime runs only its own operators, so a file cannot run other code. However, a hostile
file can use too much memory or time. (The gate judges files from any source and therefore runs them in a process with
limits.) The program checks the inputs, outputs and metadata of a file when it loads the file, and the probabilities of
each prediction.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist import confidence, files, onnx_sessions
from mnist.errors import MnistError, first_line
from mnist.shapes import CLASSES, IMAGE_SIDE

MAX_ONNX_BYTES = 20_000_000
IMAGES_PER_RUN = 256
MAX_ROUNDING_ERROR = 1e-5  # for a probability and for the sum of all probabilities

# Name, type and shape (without the variable batch dimension) of the input and of the output that is used.
INPUT = ("images", "tensor(uint8)", (1, IMAGE_SIDE, IMAGE_SIDE))
OUTPUT = ("probabilities", "tensor(float)", (CLASSES,))


class ExportedModelError(MnistError):
    """The ONNX file is missing, damaged or from another program, the model fails, or ONNX Runtime is missing."""


@dataclass(frozen=True)
class ExportedModel:
    """A model that was loaded from an ONNX file."""

    path: Path
    classes: tuple[str, ...]  # class names
    threshold: float  # lowest probability at which a class is predicted
    training_data: str | None  # description of the training data; None: unknown
    session: Any = field(repr=False, compare=False)  # onnxruntime.InferenceSession

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, float32 [N, classes], for images, uint8 [N, 28, 28].

        Raises:
            ExportedModelError: if the model cannot be run, or its output is not probabilities of this shape.
        """
        starts = range(0, len(images), IMAGES_PER_RUN)
        runs = [self._run(images[start : start + IMAGES_PER_RUN]) for start in starts]
        return np.concatenate(runs) if runs else np.empty((0, len(self.classes)), np.float32)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32]
        try:
            (found,) = self.session.run([OUTPUT[0]], {INPUT[0]: images[:, None]})
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ExportedModelError(f"{self.path} cannot be run: {first_line(error)}") from error
        if found.shape != (len(images), len(self.classes)):
            raise ExportedModelError(f"{self.path}: for {len(images)} images, the output has the shape {found.shape}")
        sums_to_1 = abs(found.sum(1) - 1) <= MAX_ROUNDING_ERROR  # False for NaN
        if not (sums_to_1.all() and (found >= -MAX_ROUNDING_ERROR).all()):
            raise ExportedModelError(f"{self.path}: for an image, the outputs are not probabilities that sum to 1")
        return found


def load(path: Path, min_confidence: float | None = None) -> ExportedModel:
    """Load an ONNX file that ``mnist export`` wrote.

    If the file has no model card, the threshold is ``confidence.UNCALIBRATED_THRESHOLD``, as for a weights file.

    Args:
        min_confidence: replaces the threshold on the model card in the file.

    Raises:
        ExportedModelError: if the file is missing, damaged or from another program, or if ONNX Runtime is missing.
        ThresholdError: if ``min_confidence`` is not between 0 and 1.
    """
    confidence.check(min_confidence)
    try:
        content = files.read(path, MAX_ONNX_BYTES)
    except FileNotFoundError:
        raise ExportedModelError(f"there is no model at {path}") from None
    except files.UnreadableError as error:
        raise ExportedModelError(f"{error} (mnist export writes an .onnx file)") from error
    session = _open(bytes(content), path)
    try:
        _check_signature(session)
        classes, threshold, training_data = _parse(session.get_modelmeta().custom_metadata_map)
    except (ValueError, RecursionError) as error:
        raise ExportedModelError(
            f"{path} is not an ONNX file that mnist export wrote: {first_line(error)} "
            "(only mnist gate and mnist compare accept files from other programs)"
        ) from error
    return ExportedModel(path, classes, threshold if min_confidence is None else min_confidence, training_data, session)


def _open(content: bytes, path: Path) -> Any:
    """Return an ONNX Runtime session with one thread.

    One thread suffices, because the network takes much less time than the search for digits, which uses all processors.
    """
    try:
        return onnx_sessions.create(content, threads=1)
    except ImportError as error:
        raise ExportedModelError(
            f"an ONNX file needs the package onnxruntime (python -m pip install onnxruntime): {first_line(error)}"
        ) from error
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise ExportedModelError(f"{path} is not an ONNX file, or is damaged: {first_line(error)}") from error


def _check_signature(session: Any) -> None:
    """Check the inputs and outputs.

    Raises:
        ValueError: if they differ from those that ``mnist export`` writes.
    """
    inputs, outputs = ([_describe(each) for each in found] for found in (session.get_inputs(), session.get_outputs()))
    if inputs != [INPUT]:
        raise ValueError(f"its inputs are {inputs}, not {[INPUT]}")
    if OUTPUT not in outputs:
        raise ValueError(f"its outputs are {outputs}, without {OUTPUT}")


def _describe(value: Any) -> tuple[str, str, tuple[int | str | None, ...]]:
    """Return the name, type and shape of an input or output. A variable batch dimension is left out of the shape."""
    batch, *shape = value.shape or [None]
    return value.name, value.type, tuple(shape) if not isinstance(batch, int) else (batch, *shape)


def _parse(metadata: dict[str, str]) -> tuple[tuple[str, ...], float, str | None]:
    """Return the names of the classes, the threshold, and the description of the training data.

    Raises:
        ValueError: if the metadata differ from those that ``mnist export`` writes.
    """
    if "classes" not in metadata:
        raise ValueError("it has no metadata entry 'classes'")
    classes = json.loads(metadata["classes"])
    if not isinstance(classes, list) or len(classes) != CLASSES or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"its metadata entry 'classes' is not a list of {CLASSES} names")
    if "card" not in metadata:
        return tuple(classes), confidence.UNCALIBRATED_THRESHOLD, None
    try:
        card = json.loads(metadata["card"])
        threshold, training_data = card["measured"]["threshold"], card["dataset"]["train"]
    except (KeyError, TypeError) as error:
        raise ValueError("its metadata entry 'card' is not a model card") from error
    if not isinstance(threshold, int | float) or not isinstance(training_data, str):
        raise ValueError("its metadata entry 'card' has a value of the wrong type")
    confidence.check(threshold)
    return tuple(classes), float(threshold), training_data
