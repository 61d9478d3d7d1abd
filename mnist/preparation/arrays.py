"""Convert NumPy arrays and PyTorch tensors to images."""

from typing import Any

import numpy as np
from PIL import Image

from mnist.preparation.problems import ImageError

SHAPES = "[H, W], [H, W, 1], [H, W, 3], [H, W, 4], [1, H, W], [3, H, W] or [4, H, W]"
CHANNELS = (1, 3, 4)
_NOT_AN_IMAGE = "an object of type {} is not an image (use a path, an image or an array)"


def to_image(values: Any) -> Image.Image:
    """Convert an array or a tensor of grey levels, RGB or RGBA values to a Pillow image.

    Args:
        values: an array with a shape in ``SHAPES`` and of type bool, uint8, uint16 (0 to 65,535), or a float type with
            values in [0, 1] or [0, 255].

    Raises:
        ImageError: if ``values`` has another shape or type, or a value is NaN or out of range.
    """
    array = _to_array(values)
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS) or not array.size:
        raise ImageError(f"an array of shape {list(array.shape)} is not an image (use {SHAPES})")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array)))


def _to_array(values: Any) -> np.ndarray[Any, Any]:
    if hasattr(values, "detach"):  # a tensor; converted to float32 because NumPy has no bfloat16
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImageError(_NOT_AN_IMAGE.format(type(values).__name__)) from error
    if array.ndim == 0:
        raise ImageError(_NOT_AN_IMAGE.format(type(values).__name__))
    return array


def _to_uint8(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # in any byte order
        return np.asarray((array.astype(np.uint32) + 128) // 257, dtype=np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(f"an array of {array.dtype} is not an image (use bool, uint8, uint16 or a float type)")
    if not (array.min() >= 0 and array.max() <= 255):  # also true if a value is NaN
        raise ImageError("some values of the array are outside 0 to 255, or NaN (use the range 0 to 1 or 0 to 255)")
    scale = 255 if array.max() <= 1 else 1
    return np.asarray(np.rint(array.astype(np.float64) * scale), dtype=np.uint8)
