"""Save figures as PNG files that this program can recognize as its own, and draw the inputs of a network."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mnist import files
from mnist.errors import MnistError

MAX_INPUTS_PER_ROW = 8
MAX_FIGURE_BYTES = 50_000_000
SOFTWARE = "mnist (figure)"  # value of the PNG text field "Software", which identifies figures drawn by this program


class ForeignFileError(MnistError):
    """A file that this program did not write and therefore does not replace."""


def draw_inputs(inputs: Sequence[tuple[NDArray[np.uint8], str]], path: Path) -> None:
    """Draw network inputs, uint8 [28, 28] each, with their titles, and save the figure."""
    columns = min(len(inputs), MAX_INPUTS_PER_ROW)
    rows = -(-len(inputs) // columns)
    figure = Figure(figsize=(1.6 * columns + 0.2, 1.9 * rows + 0.2), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.set_axis_off()
    for axis, (image, title) in zip(figure.axes, inputs, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title, fontsize=8, parse_math=False)  # a file name in the title may contain $
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file marked with ``SOFTWARE``; create its folder if it does not exist."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # warnings about characters that the font lacks
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": SOFTWARE})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, buffer.getvalue())


def check_replaceable(path: Path) -> None:
    """Check that a path does not exist, or is a figure that :func:`save_figure` wrote.

    Raises:
        ForeignFileError: if anything else is at this path.
    """
    if os.path.lexists(path) and not _is_marked(path):
        raise ForeignFileError(
            f"{path} exists and was not drawn by this program (choose another name; --force overwrites the file)"
        )


def _is_marked(path: Path) -> bool:
    try:
        content = files.read(path, MAX_FIGURE_BYTES)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:  # Pillow raises many types of errors for a damaged file
        return False
