"""Run an ONNX model in a separate process, which does not import PyTorch.

:mod:`mnist.gate.onnx_models` starts the process, sends it requests, and kills it if it exceeds a limit. A message
consists of its length (8 bytes, big-endian) and its content. A request is two messages: settings as JSON, then a body.
The body of the first request is the ONNX file, and the body of every later request is a ``.npy`` file of pixels. The
answer is JSON. If a request with pixels succeeds, a ``.npy`` file of scores follows.
"""

import contextlib
import io
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mnist import onnx_sessions
from mnist.onnx_weights import ModelError, check_operators, count_not_finite, count_parameters, load_external_data
from mnist.shapes import CLASSES, IMAGE_SIDE, MEAN, STD

Pixels = NDArray[np.float32]  # [N, 28, 28], from 0 (background) to 255
Scores = NDArray[np.float32]  # [N, 10]

MAX_ERROR_CHARACTERS = 300
PROBABILITIES, DIGIT = "probabilities", "digit"  # names of the outputs that `mnist export` writes
SECONDS_BETWEEN_CHECKS = 1.0  # interval between two checks that the parent process still runs

# Functions that convert pixels from 0..255 to a range that a model can expect, in the order in which they are tried.
RANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "0-1": lambda pixels: pixels / np.float32(255),
    "normalized": lambda pixels: (pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD),
    "0-255": lambda pixels: pixels,
    "-1-1": lambda pixels: pixels / np.float32(255) * np.float32(2) - np.float32(1),
}
INTEGER_RANGE = "0-255"  # the only range of models with integer input

# The shape of an image in each layout, without the batch dimension.
LAYOUTS: dict[str, tuple[int, ...]] = {
    "[N, 1, 28, 28]": (1, IMAGE_SIDE, IMAGE_SIDE),
    "[N, 28, 28, 1]": (IMAGE_SIDE, IMAGE_SIDE, 1),
    "[N, 28, 28]": (IMAGE_SIDE, IMAGE_SIDE),
    "[N, 784]": (IMAGE_SIDE * IMAGE_SIDE,),
}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


# ---- The process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Read requests from standard input, and write the answers to standard output, until the input ends."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Redirect other output to standard error, so that text printed by libraries does not mix with the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    model = None
    while (content := receive(requests)) is not None:
        settings, body = json.loads(content), receive(requests) or b""
        _limit_memory(settings.pop("address_space", None))
        answer: dict[str, Any]
        scores = None
        try:
            if model is None:
                model = Model(body, **settings)
                answer = model.description
            else:
                pixels = np.load(io.BytesIO(body), allow_pickle=False)
                scores, answer = model.answer(pixels, **settings), {}
        except ModelError as error:
            answer = {"error": str(error)[:MAX_ERROR_CHARACTERS]}
        except MemoryError:
            answer = {"error": "it needs too much memory"}
        except Exception as error:  # ONNX and ONNX Runtime raise many types of exceptions
            message = (str(error).strip() or type(error).__name__).partition("\n")[0]
            answer = {"error": message[:MAX_ERROR_CHARACTERS]}
        send(answers, json.dumps(answer).encode())
        if scores is not None:
            send(answers, to_npy(scores))


def _end_with_parent(parent: int) -> None:
    """End this process as soon as its parent has ended, even if a model is running."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_CHECKS)
    os._exit(1)


def send(stream: BinaryIO, content: bytes) -> None:
    """Write a message to a stream."""
    stream.write(struct.pack(">Q", len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read a message; return None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack(">Q", header)
    content = stream.read(length)
    return content if len(content) == length else None


def to_npy(array: NDArray[Any]) -> bytes:
    """Return an array as the content of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _limit_memory(address_space: int | None) -> None:
    """Limit the address space of this process in bytes, if the operating system supports it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        if address_space:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))


# ---- The model -------------------------------------------------------------------------------------------------------


class Model:
    """An ONNX model with one input for images and at least one output with ten scores per image.

    Args:
        content: the bytes of the ONNX file.
        folder: the folder of the ONNX file, in which other files can hold weights.
        threads: number of threads.
    """

    def __init__(self, content: bytes, folder: str, threads: int) -> None:
        import onnx

        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # the implementations of protobuf have no common exception class
            raise ModelError("it is not an ONNX file") from error
        external, external_sha256 = load_external_data(model, Path(folder))
        if external:
            content = model.SerializeToString()
        check_operators(model)
        self._session = onnx_sessions.create(content, threads)
        self._names = [each.name for each in self._session.get_outputs()]
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"it has {len(inputs)} inputs ({', '.join(each.name for each in inputs)}), not one")
        (self._input,) = inputs
        if self._input.type not in DTYPES:
            raise ModelError(f"its input is a {self._input.type} (allowed: {', '.join(DTYPES)})")
        self._dtype = DTYPES[self._input.type]
        shape = [size if isinstance(size, int) and size > 0 else None for size in self._input.shape or []]
        self._batch = shape[0] if shape else None  # fixed batch size; None: any size
        layouts = [name for name, image in LAYOUTS.items() if _fits(shape, image)]
        if not layouts:
            raise ModelError(f"its input has the shape {self._input.shape} (allowed: {', '.join(LAYOUTS)})")
        integers = not np.issubdtype(self._dtype, np.floating)
        self.description = {
            "layouts": layouts,
            "ranges": [INTEGER_RANGE] if integers else list(RANGES),
            "dtype": np.dtype(self._dtype).name,
            "batch": self._batch,
            "parameters": count_parameters(model),
            "weights_not_finite": count_not_finite(model),
            "external_bytes": external,
            "external_sha256": external_sha256,
        }

    def answer(self, pixels: Pixels, layout: str, pixel_range: str) -> Scores:
        """Return the scores of images whose pixels are between 0 and 255.

        Raises:
            ModelError: if no output has ten scores for each image.
        """
        values = RANGES[pixel_range](pixels)
        if not np.issubdtype(self._dtype, np.floating):
            values = np.rint(values).clip(0, 255)
        images = values.astype(self._dtype).reshape(-1, *LAYOUTS[layout])
        size = self._batch or max(1, len(images))
        parts = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.empty((0, CLASSES), np.float32)

    def _run(self, images: NDArray[Any], size: int) -> Scores:
        """Return the scores of a batch, after padding it to ``size`` with blank images."""
        missing = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
        outputs = self._session.run(None, {self._input.name: np.concatenate([images, missing])})
        # `mnist predict` uses the output "probabilities", which is not always the first one.
        in_order = sorted(zip(self._names, outputs, strict=True), key=lambda named: named[0] != PROBABILITIES)
        for _, output in in_order:
            if (scores := to_scores(output, size)) is not None:
                _check_digits(dict(in_order).get(DIGIT), scores)
                return scores[: len(images)]
        shapes = ", ".join(str(list(np.shape(output))) for output in outputs)
        raise ModelError(f"no output has {CLASSES} scores for each image (for {size} images, the outputs are {shapes})")


def _check_digits(digits: Any, scores: Scores) -> None:
    """Check that an output named "digit" has a class with the highest score for each image, if there is one.

    Raises:
        ModelError: if it has another class.
    """
    if not isinstance(digits, np.ndarray) or digits.shape != (len(scores),) or digits.dtype.kind not in "iu":
        return
    chosen = scores[np.arange(len(scores)), digits.clip(0, CLASSES - 1)]
    if not (np.isnan(scores).any(1) | ((chosen == scores.max(1)) & (digits >= 0) & (digits < CLASSES))).all():
        raise ModelError(f'its output "{DIGIT}" is not always the class with the highest score')


def _fits(shape: list[int | None], image: tuple[int, ...]) -> bool:
    """Return True if an input of this shape accepts images of a layout. If the shape is unknown (empty), accept all."""
    if not shape:
        return True
    return len(shape) == len(image) + 1 and all(
        size in (None, wanted) for size, wanted in zip(shape[1:], image, strict=True)
    )


def to_scores(output: Any, count: int) -> Scores | None:
    """Return an output of ONNX Runtime as scores, float32 [N, 10], or None if it does not hold scores.

    Args:
        output: a floating-point array with ten scores for each image, or, as skl2onnx writes by default, a list with
            one dictionary per image that maps the ten labels to scores.
        count: number of images.
    """
    if isinstance(output, list) and len(output) == count and all(isinstance(each, dict) for each in output):
        try:
            rows = [{int(label): float(score) for label, score in each.items()} for each in output]
        except ValueError:
            return None
        if any(sorted(row) != list(range(CLASSES)) for row in rows):
            return None
        output = np.array([[row[label] for label in range(CLASSES)] for row in rows])
    if not isinstance(output, np.ndarray) or not np.issubdtype(output.dtype, np.floating):
        return None
    if output.ndim < 2 or output.shape[0] != count or output.size != count * CLASSES:
        return None
    return output.reshape(count, CLASSES).astype(np.float32)
