"""Every picture, drawn from data that others computed."""

import io
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mnist import files


def draw_augmentation(originals: Tensor, augmented: Tensor, labels: Tensor, subtitle: str, path: Path) -> None:
    """Draw originals in the top row, and below each its augmented versions; write a PNG.

    Args:
        originals: pixels in [0, 1], float32 [columns, 28, 28].
        augmented: likewise, float32 [rows, columns, 28, 28].
        labels: the digits shown, int64 [columns].
        subtitle: what was drawn from, and how strongly it was augmented.
    """
    pictures = torch.cat([originals.unsqueeze(0), augmented])
    rows, columns = pictures.shape[:2]
    figure = Figure(figsize=(0.8 * columns + 0.6, 0.8 * rows + 1.0), layout="constrained")
    figure.suptitle(f"Augmentation: a new draw for every image\n{subtitle}", fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axis = grid[row, column]
            axis.imshow(pictures[row, column].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color="tab:orange" if row == 0 else "black", linewidth=2 if row == 0 else 0.5)
        grid[row, 0].set_ylabel("augmented" if row else "original", fontsize=9)
    for axis, label in zip(grid[0], labels.tolist(), strict=True):
        axis.set_title(str(label), fontsize=10)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, buffer.getvalue())
