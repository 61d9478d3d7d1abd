"""Read and count the weights of an ONNX model, in its file and in external files, without importing PyTorch."""

import hashlib
import math
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
INT32_LIMIT = 2**31  # integers from -INT32_LIMIT to INT32_LIMIT - 1 fit into 32 bits
RANDOM_OPERATORS = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


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


def _messages(model: Any, kind: str) -> Iterator[Any]:
    """Yield all messages of a type, such as ``TensorProto``, wherever a model or its functions store them."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        if message.DESCRIPTOR.name == kind:
            yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else value


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors that a model stores; those of a sparse tensor are its values and its indices."""
    return _messages(model, "TensorProto")


def check_operators(model: Any) -> None:
    """Check that no operator draws random numbers: the predictions could change from call to call.

    Raises:
        ModelError: if there is such an operator.
    """
    for node in _messages(model, "NodeProto"):
        training = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
        if node.op_type in RANDOM_OPERATORS or training:
            hint = " with an input for the training mode" if training else ""
            raise ModelError(f"it contains the operator {node.op_type}{hint}, which draws random numbers")


def count_parameters(model: Any) -> int:
    """Return the number of parameters of an ONNX model: the numbers that it stores, except for a few settings.

    Numbers are counted wherever they are stored: as initializers, as constants, or as attributes of an operation, such
    as the nodes of a tree. Batch-norm running statistics are included if the file stores them. Single numbers and lists
    of up to 16 integers are settings, such as shapes; up to 1,000 of these numbers are not counted. Text counts as one
    number for every four characters beyond the first 1,000, because an operation can convert text to numbers. An
    integer that does not fit into 32 bits counts as two. An empty tensor counts as its dimensions, which an operation
    can read.

    Raises:
        ModelError: if a tensor has a negative dimension.
    """
    sizes, characters = [], 0  # sizes: length of each list, and whether it holds integers
    for tensor in _tensors(model):
        if any(size < 0 for size in tensor.dims):
            raise ModelError("a tensor has a negative dimension")
        size = math.prod(tensor.dims)
        integers = tensor.data_type in _integer_types()
        if tensor.data_type in _wide_integer_types() and 0 < size <= MAX_EXTERNAL_BYTES:
            size += _count_wide(tensor)
        sizes.append((size or len(tensor.dims), integers))
        characters += sum(map(len, tensor.string_data))
    for attribute in _messages(model, "AttributeProto"):
        wide = sum(not -INT32_LIMIT <= value < INT32_LIMIT for value in attribute.ints)
        sizes += [(len(attribute.floats), False), (len(attribute.ints) + wide, True)]
        sizes += [(1, True)] * (attribute.HasField("i") or attribute.HasField("f"))
        characters += len(attribute.s) + sum(map(len, attribute.strings))
    settings = [size for size, integer in sizes if size <= (MAX_SHAPE_NUMBERS if integer else 1)]
    total = sum(size for size, _ in sizes) - min(sum(settings), MAX_SETTINGS)
    return total + max(0, characters - MAX_CHARACTERS) // CHARACTERS_PER_NUMBER


def _count_wide(tensor: Any) -> int:
    """Return how many integers of a tensor of 64-bit integers do not fit into 32 bits."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    if values.dtype == np.uint64:
        return int((values >= 2 * INT32_LIMIT).sum())
    return int(((values < -INT32_LIMIT) | (values >= INT32_LIMIT)).sum())


def _integer_types() -> tuple[int, ...]:
    from onnx import TensorProto

    return (*_wide_integer_types(), TensorProto.INT32, TensorProto.UINT32, TensorProto.BOOL)


def _wide_integer_types() -> tuple[int, ...]:
    from onnx import TensorProto

    return (TensorProto.INT64, TensorProto.UINT64)


def count_not_finite(model: Any) -> int:
    """Return the number of floating-point numbers in an ONNX model that are NaN or infinite."""
    from onnx import numpy_helper

    total = 0
    for tensor in _tensors(model):
        if tensor.dims and tensor.data_type in _floating_point_types():
            total += int((~np.isfinite(numpy_helper.to_array(tensor).astype(np.float64))).sum())
    lists = [attribute.floats for attribute in _messages(model, "AttributeProto")]
    return total + sum(int((~np.isfinite(np.array(numbers))).sum()) for numbers in lists)


def _floating_point_types() -> tuple[int, ...]:
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
