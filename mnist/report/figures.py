"""Every picture, drawn from data that others computed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mnist import files, transforms
from mnist.datasets import Split
from mnist.recipes import Recipe
from mnist.shapes import CLASSES


def draw_augmented_samples(split: Split, recipe: Recipe, columns: int, draws: int, path: Path) -> None:
    """Draw random images of a split, one class after the other, and ``draws`` augmented versions of each; write a PNG.

    The recipe's seed determines which images and which augmentations are drawn.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    shuffled = torch.randperm(len(split), generator=generator)
    of_class = [shuffled[split.labels[shuffled] == label] for label in range(CLASSES)]
    picked = torch.stack(
        [of_class[column % CLASSES][column // CLASSES % len(of_class[column % CLASSES])] for column in range(columns)]
    )
    originals = transforms.to_float(split.images[picked])
    augmented = transforms.random_affine(
        originals.repeat(draws, 1, 1, 1), recipe.rotation, recipe.translation, recipe.scaling, generator
    )
    subtitle = (
        f"rotation ±{recipe.rotation:g}°, shift ±{recipe.translation:.0%}, scale ±{recipe.scaling:.0%}; "
        f"{split.description}"
    )
    names = [split.classes[label] for label in split.labels[picked].tolist()]
    draw_augmentation(originals[:, 0], augmented.view(draws, columns, *originals.shape[2:]), names, subtitle, path)


def draw_augmentation(originals: Tensor, augmented: Tensor, names: Sequence[str], subtitle: str, path: Path) -> None:
    """Draw originals in the top row, and below each its augmented versions; write a PNG.

    Args:
        originals: pixels in [0, 1], float32 [columns, 28, 28].
        augmented: likewise, float32 [rows, columns, 28, 28].
        names: of the digits shown.
        subtitle: what was drawn from, and how strongly it was augmented.
    """
    pictures = torch.cat([originals.unsqueeze(0), augmented])
    rows, columns = pictures.shape[:2]
    figure = Figure(figsize=(0.8 * columns + 0.6, 0.8 * rows + 1.0), layout="constrained")
    figure.suptitle(f"Augmentation: a new draw for every image\n{subtitle}", fontsize=9, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axis = grid[row, column]
            axis.imshow(pictures[row, column].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color="tab:orange" if row == 0 else "black", linewidth=2 if row == 0 else 0.5)
        grid[row, 0].set_ylabel("augmented" if row else "original", fontsize=9)
    for axis, name in zip(grid[0], names, strict=True):
        axis.set_title(name, fontsize=10 if len(name) == 1 else 7, parse_math=False)
    save_figure(figure, path)


def draw_seen(seen: Sequence[tuple[NDArray[np.uint8], str]], path: Path) -> None:
    """Draw what a network was shown, uint8 [28, 28] each, with what is to be said of it above; write a PNG."""
    columns = min(len(seen), 8)
    rows = -(-len(seen) // columns)
    figure = Figure(figsize=(1.6 * columns + 0.2, 1.9 * rows + 0.2), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.set_axis_off()
    for axis, (image, title) in zip(figure.axes, seen, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title, fontsize=8, parse_math=False)  # a $ in a file's name is a $
    save_figure(figure, path)


def draw_frontier(
    ours: dict[str, tuple[int, list[float]]], published: dict[str, tuple[int, float]], path: Path
) -> None:
    """Draw error on the test set over parameters, both on logarithmic axes; write a PNG.

    Args:
        ours: by recipe its parameters and the accuracy of each seed, in [0, 1].
        published: by author parameters and the accuracy given.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    axis.set(xscale="log", yscale="log", xlim=(600, 40_000), xlabel="parameters", ylabel="error on MNIST's test set, %")
    for name, (parameters, accuracies) in ours.items():
        errors = [100 * (1 - accuracy) for accuracy in accuracies]
        mean = sum(errors) / len(errors)
        axis.plot([parameters] * 2, [min(errors), max(errors)], color="tab:blue", linewidth=1)
        axis.plot(parameters, mean, "o", color="tab:blue", label="ours: mean and range of the seeds")
        axis.annotate(name, (parameters, mean), (5, -12), textcoords="offset points", fontsize=8)
    for number, (name, (parameters, accuracy)) in enumerate(published.items()):
        error = 100 * (1 - accuracy)
        axis.plot(parameters, error, "s", color="tab:orange", label="published: one run each")
        offset = (7, -3) if number % 2 else (-7, -3)
        side = "left" if number % 2 else "right"
        axis.annotate(name, (parameters, error), offset, textcoords="offset points", fontsize=7, ha=side)
    for formatted in (axis.xaxis, axis.yaxis):
        formatted.set_major_formatter("{x:,g}")
    ticks = (0.3, 0.5, 1, 2, 4)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.yaxis.set_minor_formatter("")
    axis.grid(alpha=0.3, which="both")
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys())
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, and create its folder if it is missing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, buffer.getvalue())
