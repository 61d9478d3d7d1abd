"""Run an ONNX model in a process of its own, which does not import PyTorch.

:mod:`mnist.gate.onnx_models` starts the process, sends it requests, and kills it if it exceeds a limit. A message
consists of its length (8 bytes, big-endian) and its content. A request is two messages: settings as JSON, then a body.
The body of the first request is the ONNX file. Every later request has pixels as a ``.npy`` file. The answer is JSON,
followed by scores as a ``.npy`` file if a request with pixels succeeds.
"""

import contextlib
import hashlib
import io
import json
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mnist.shapes import CLASSES, IMAGE_SIDE, MEAN, STD

Pixels = NDArray[np.float32]  # [N, 28, 28], from 0 (background) to 255
Scores = NDArray[np.float32]  # [N, 10]

MAX_EXTERNAL_BYTES = 100_000_000  # of all files with a model's weights
MAX_SHAPE_NUMBERS = 16  # longer lists of integers count as parameters
MAX_SETTINGS = 1_000  # numbers that do not count as parameters
MAX_CHARACTERS = 1_000  # of text that do not count as parameters
CHARACTERS_PER_NUMBER = 4
MAX_ERROR_CHARACTERS = 300
SECONDS_BETWEEN_CHECKS = 1.0  # whether the parent still runs

# Conversions of pixels between 0 and 255 to each range that a model can expect, in the order in which they are tried.
RANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "0-1": lambda pixels: pixels / np.float32(255),
    "normalized": lambda pixels: (pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD),
    "0-255": lambda pixels: pixels,
    "-1-1": lambda pixels: pixels / np.float32(255) * np.float32(2) - np.float32(1),
}
INTEGER_RANGE = "0-255"  # of models that take integers

# The shape of an image in each layout, without the batch.
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


class ModelError(Exception):
    """A model that cannot be used. The message is one line."""


# ---- The process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests from standard input on standard output until the input ends."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries that print do not disturb the answers
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
        except Exception as error:  # ONNX and ONNX Runtime raise exceptions of many kinds
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
    """Write a message."""
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
        folder: of the file; weights can be in other files there.
        threads: number of threads.
    """

    def __init__(self, content: bytes, folder: str, threads: int) -> None:
        import onnx
        import onnxruntime

        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # the implementations of protobuf have no common exception class
            raise ModelError("it is not an ONNX file") from error
        external, external_sha256 = load_external_data(model, Path(folder))
        if external:
            content = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal errors only; all others are raised as well
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"it has {len(inputs)} inputs ({', '.join(each.name for each in inputs)}), not one")
        (self._input,) = inputs
        if self._input.type not in DTYPES:
            raise ModelError(f"its input is a {self._input.type} (allowed: {', '.join(DTYPES)})")
        self._dtype = DTYPES[self._input.type]
        shape = [size if isinstance(size, int) and size > 0 else None for size in self._input.shape or []]
        self._batch = shape[0] if shape else None  # None: any
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
        """Return the scores of a batch, which is padded with blank images to ``size``."""
        missing = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
        outputs = self._session.run(None, {self._input.name: np.concatenate([images, missing])})
        for output in outputs:
            if (scores := to_scores(output, size)) is not None:
                return scores[: len(images)]
        shapes = ", ".join(str(list(np.shape(output))) for output in outputs)
        raise ModelError(f"no output has {CLASSES} scores for each image (for {size} images, the outputs are {shapes})")


def _fits(shape: list[int | None], image: tuple[int, ...]) -> bool:
    """Return True if a model's input accepts images of a layout; an empty shape is unknown and accepts all."""
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


# ---- The file --------------------------------------------------------------------------------------------------------


def load_external_data(model: Any, folder: Path) -> tuple[int, str]:
    """Read the weights that a model keeps in other files of its folder; return their size in bytes, and their SHA-256.

    Raises:
        ModelError: if a file is missing, is outside the folder, or the files are too large.
    """
    from onnx import external_data_helper

    total, digest = 0, hashlib.sha256()
    for tensor in _tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        path = _resolve(folder, place.get("location", ""))
        size = path.stat().st_size
        offset, length = int(place.get("offset", 0)), int(place.get("length", size))
        total += length
        if total > MAX_EXTERNAL_BYTES:
            raise ModelError(f"its weights in other files are larger than {MAX_EXTERNAL_BYTES:,} bytes")
        if not 0 <= offset <= offset + length <= size:
            raise ModelError(
                f"{path.name} has {size:,} bytes, but the weights are at bytes {offset:,} to {offset + length:,}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        digest.update(tensor.raw_data)
        del tensor.external_data[:]
        tensor.data_location = type(tensor).DEFAULT
    return total, digest.hexdigest()


def _resolve(folder: Path, location: str) -> Path:
    """Return the path of a file with weights, which must be a regular file in the folder of the model."""
    parts = PurePosixPath(location.replace("\\", "/")).parts
    path = folder.joinpath(*parts)
    if not parts or ".." in parts or folder.resolve() not in path.resolve().parents:
        raise ModelError(f"its weights are in {location!r}, which is not in the folder of the model")
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise ModelError(f"its weights are in {location}, which cannot be read: {error.strerror}") from error
    if not regular:
        raise ModelError(f"its weights are in {location}, which is not a file")
    return path


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph of a model, the graphs inside it, and the functions of the model."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [each for each in (attribute.g, *attribute.graphs) if each.ByteSize()]


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors that a model stores: its initializers, and those among the attributes of its operations."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def count_parameters(model: Any) -> int:
    """Return how many numbers an ONNX model stores.

    Numbers count wherever they are: as initializers, as constants, or as attributes of an operation, such as the nodes
    of a tree. The running statistics of a batch norm count if the file stores them. Single numbers and lists of up to
    16 integers are settings, such as shapes; the first 1,000 of these numbers do not count. Text counts as one number
    for every four characters beyond the first 1,000, because an operation can convert text to numbers.
    """
    from onnx import TensorProto

    integers = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL)
    sizes, characters = [], 0  # sizes: numbers of each list, and whether they are integers
    for tensor in _tensors(model):
        sizes.append((int(np.prod(tensor.dims, dtype=np.int64)), tensor.data_type in integers))
        characters += sum(map(len, tensor.string_data))
    for graph in _graphs(model):
        for node in graph.node:
            for attribute in node.attribute:
                sizes += [(len(attribute.floats), False), (len(attribute.ints), True)]
                characters += len(attribute.s) + sum(map(len, attribute.strings))
    settings = [size for size, integer in sizes if size <= (MAX_SHAPE_NUMBERS if integer else 1)]
    total = sum(size for size, _ in sizes) - min(sum(settings), MAX_SETTINGS)
    return total + max(0, characters - MAX_CHARACTERS) // CHARACTERS_PER_NUMBER


def count_not_finite(model: Any) -> int:
    """Return how many floating-point numbers that an ONNX model stores are NaN or infinite."""
    from onnx import numpy_helper

    total = 0
    for tensor in _tensors(model):
        if tensor.dims and tensor.data_type in _floating_point_types():
            total += int((~np.isfinite(numpy_helper.to_array(tensor).astype(np.float64))).sum())
    lists = [attribute.floats for graph in _graphs(model) for node in graph.node for attribute in node.attribute]
    return total + sum(int((~np.isfinite(np.array(numbers))).sum()) for numbers in lists)


def _floating_point_types() -> tuple[int, ...]:
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
