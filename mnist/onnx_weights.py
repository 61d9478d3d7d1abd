"""Read and count the weights of an ONNX model, in its file and in external files, without importing PyTorch."""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

MAX_EXTERNAL_BYTES = 100_000_000  # total size of a model's weights in external files
MAX_SHAPE_NUMBERS = 16  # longer lists of integers count as parameters
MAX_SETTINGS = 1_000  # up to this many numbers in shorter lists are not counted as parameters
MAX_CHARACTERS = 1_000  # up to this many characters of text are not counted as parameters
CHARACTERS_PER_NUMBER = 4  # characters beyond MAX_CHARACTERS that count as one parameter


class ModelError(Exception):
    """A model that cannot be used. The message is one line."""


def load_external_data(model: Any, folder: Path) -> tuple[int, str]:
    """Load a model's external weights from its folder into the model; return their size in bytes and their SHA-256.

    Raises:
        ModelError: if a file is missing, too short or outside the folder, or if the weights are too large.
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
            raise ModelError(f"its external weights are larger than {MAX_EXTERNAL_BYTES:,} bytes")
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
    """Return the path of an external weights file, which must be a regular file in the model's folder."""
    parts = PurePosixPath(location.replace("\\", "/")).parts
    path = folder.joinpath(*parts)
    if not parts or ".." in parts or folder.resolve() not in path.resolve().parents:
        raise ModelError(f"its weights are in {location!r}, which is not in the model's folder")
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise ModelError(f"its weights are in {location}, which cannot be read: {error.strerror}") from error
    if not regular:
        raise ModelError(f"its weights are in {location}, which is not a file")
    return path


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph of a model, the model's functions, and all subgraphs of these."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [each for each in (attribute.g, *attribute.graphs) if each.ByteSize()]


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors that a model stores: its initializers, and the tensors in the attributes of its nodes."""
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
    """Return the number of parameters of an ONNX model: the numbers that it stores, except for a few settings.

    Numbers are counted wherever they are stored: as initializers, as constants, or as attributes of an operation, such
    as the nodes of a tree. Batch-norm running statistics are included if the file stores them. Single numbers and lists
    of up to 16 integers are settings, such as shapes; up to 1,000 of these numbers are not counted. Text counts as one
    number for every four characters beyond the first 1,000, because an operation can convert text to numbers.
    """
    from onnx import TensorProto

    integers = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL)
    sizes, characters = [], 0  # sizes: length of each list, and whether it holds integers
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
    """Return the number of floating-point numbers in an ONNX model that are NaN or infinite."""
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
