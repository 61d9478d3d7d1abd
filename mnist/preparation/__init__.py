"""Convert a user's picture to the format of MNIST: white on black, fitted into 20 x 20 pixels, centred in 28 x 28.

A picture goes through four steps: :mod:`reading`, :mod:`ink` (how much each pixel differs from the background),
:mod:`search` (which connected components form a digit), and :mod:`placement` in a 28 x 28 pixel image.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist.preparation.components import Box
from mnist.preparation.finding import Found, find, find_in_file, find_in_files, prepare_file, prepare_files
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
    "Found",
    "ImageError",
    "NoDigitError",
    "Picture",
    "Reason",
    "find",
    "find_digit",
    "find_digits",
    "find_images",
    "find_in_file",
    "find_in_files",
    "fit",
    "prepare",
    "prepare_file",
    "prepare_files",
    "read",
    "to_picture",
]


def prepare(source: Any) -> NDArray[np.uint8]:
    """Convert a picture, or anything that :func:`to_picture` reads, to an image like MNIST's, uint8 [28, 28].

    The digit may be dark on light or light on dark, in any colours and under uneven light.

    Raises:
        NoDigitError: if the picture does not show exactly one digit.
        ImageError: if the picture cannot be read.
    """
    return find_digit(to_picture(source)).prepared
