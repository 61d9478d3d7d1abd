"""Convert a user's picture to the format of MNIST: white on black, fitted into 20 x 20 pixels, centred in 28 x 28.

A picture goes through four steps: :mod:`reading`, :mod:`ink` (how much each pixel differs from the background),
:mod:`search` (which connected components are a digit), and :mod:`placement` in 28 x 28 pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist.preparation.components import Box
from mnist.preparation.picture import Picture
from mnist.preparation.placement import BOX_SIDE, CENTRE, fit
from mnist.preparation.problems import ImageError, NoDigitError, Reason
from mnist.preparation.reading import MAX_IMAGE_FILE_BYTES, find_images, read, to_picture
from mnist.preparation.search import Digit, find_digit, find_digits

__all__ = [
    "BOX_SIDE",
    "CENTRE",
    "MAX_IMAGE_FILE_BYTES",
    "Box",
    "Digit",
    "ImageError",
    "NoDigitError",
    "Picture",
    "Reason",
    "find_digit",
    "find_digits",
    "find_images",
    "fit",
    "prepare",
    "prepare_file",
    "read",
    "to_picture",
]


def prepare(source: Any) -> NDArray[np.uint8]:
    """Convert a picture, or anything that :func:`to_picture` reads, to an image like MNIST's, uint8 [28, 28].

    The digit may be dark on light or light on dark, in any colours and under uneven light.

    Raises:
        NoDigitError: if the picture does not show exactly one digit.
        ImageError: if it cannot be read.
    """
    return find_digit(to_picture(source)).prepared


def prepare_file(path: Path) -> NDArray[np.uint8] | ImageError:
    """Read and prepare an image file; return uint8 [28, 28], or the error if that fails."""
    try:
        return find_digit(read(path)).prepared
    except ImageError as error:
        return error
    except OSError as error:  # one unreadable file must not stop the processing of the others
        return ImageError(f"{path} cannot be read: {error.strerror or error}")
