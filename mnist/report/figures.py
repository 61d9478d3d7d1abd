"""Draw figures: augmented training images, learning curves, and the frontier of test error and size."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mnist import randomization, transforms
from mnist.datasets import Split
from mnist.drawings import save_figure
from mnist.progress import LogEntry
from mnist.recipes import Recipe
from mnist.shapes import CLASSES, IMAGE_SIDE


def draw_augmented_samples(split: Split, recipe: Recipe, columns: int, draws: int, path: Path) -> None:
    """Draw random images of a split with ``draws`` augmented versions of each.

    The columns cycle through the classes. The recipe's seed determines the images and the augmentations.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    shuffled = torch.randperm(len(split), generator=generator)
    by_class = [shuffled[split.labels[shuffled] == label] for label in range(CLASSES)]
    chosen = torch.stack(
        [by_class[column % CLASSES][column // CLASSES % len(by_class[column % CLASSES])] for column in range(columns)]
    )
    originals = transforms.to_float(split.images[chosen])
    ranges = recipe.rotation, recipe.translation * IMAGE_SIDE, recipe.scaling
    moves = transforms.draw_affine(draws * columns, *ranges, generator, shear=recipe.shear)
    moved = transforms.affine(originals.repeat(draws, 1, 1, 1), moves)
    order = torch.randperm(len(moved), generator=generator)  # shuffle, because randomize() changes the first images
    augmented = torch.empty_like(moved)
    augmented[order] = randomization.randomize(moved[order], recipe.randomization, generator)
    strengths = f"rotation ±{recipe.rotation:g}°, shift ±{recipe.translation:.0%}, scale ±{recipe.scaling:.0%}"
    strengths += f", shear ±{recipe.shear:g}°" * (recipe.shear > 0)
    strengths += f", {recipe.randomization:.0%} with domain randomization" * (recipe.randomization > 0)
    subtitle = f"{strengths}; {split.description}"
    names = [split.classes[label] for label in split.labels[chosen].tolist()]
    draw_augmentation(originals[:, 0], augmented.view(draws, columns, *originals.shape[2:]), names, subtitle, path)


def draw_augmentation(originals: Tensor, augmented: Tensor, names: Sequence[str], subtitle: str, path: Path) -> None:
    """Draw original images in the top row, and the augmented versions of each below it.

    Args:
        originals: pixels in [0, 1], float32 [columns, 28, 28].
        augmented: pixels in [0, 1], float32 [rows, columns, 28, 28].
        names: the class of each column.
        subtitle: describes the strength of the augmentation and the images.
    """
    images = torch.cat([originals.unsqueeze(0), augmented])
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(0.8 * columns + 0.6, 0.8 * rows + 1.0), layout="constrained")
    figure.suptitle(f"Augmentation: independent random draws for each image\n{subtitle}", fontsize=9, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axis = grid[row, column]
            axis.imshow(images[row, column].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color="tab:orange" if row == 0 else "black", linewidth=2 if row == 0 else 0.5)
        grid[row, 0].set_ylabel("augmented" if row else "original", fontsize=9)
    for axis, name in zip(grid[0], names, strict=True):
        axis.set_title(name, fontsize=10 if len(name) == 1 else 7, parse_math=False)
    save_figure(figure, path)


def draw_learning_curves(logs: Mapping[str, Sequence[LogEntry]], path: Path) -> None:
    """Plot the loss and the error rate of each training log over the number of images; ``logs`` is keyed by name."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for name, log in logs.items():
        images = [entry.images for entry in log]
        loss.plot(images, [entry.loss for entry in log], label=name)
        error.plot(images, [100 * (1 - entry.accuracy) for entry in log])
    loss.set(yscale="log", xlabel="training images", ylabel="loss")
    error.set(yscale="symlog", xlabel="training images", ylabel="error on augmented training images, %", ylim=(0, 100))
    for axis in (loss, error):
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(alpha=0.3, which="both")
    error.yaxis.set_major_formatter("{x:g}")
    for text in loss.legend().get_texts():
        text.set_parse_math(False)  # a file name may contain $
    save_figure(figure, path)


def draw_frontier(
    ours: dict[str, tuple[int, list[float]]], published: dict[str, tuple[int, float]], path: Path
) -> None:
    """Plot the test error against the number of parameters, on logarithmic axes, with the Pareto frontier.

    Args:
        ours: for each recipe, the number of parameters and the accuracies in [0, 1], one for each seed.
        published: for each source, the number of parameters and the accuracy in [0, 1]; a note lists the sources.
    """
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axis = figure.subplots()
    axis.set(xscale="log", yscale="log", xlim=(600, 40_000), xlabel="parameters", ylabel="error on MNIST's test set, %")
    points = []
    for name, (parameters, accuracies) in ours.items():
        errors = [100 * (1 - accuracy) for accuracy in accuracies]
        mean = sum(errors) / len(errors)
        points.append((parameters, mean))
        axis.plot([parameters] * 2, [min(errors), max(errors)], color="tab:blue", linewidth=1)
        axis.plot(parameters, mean, "o", color="tab:blue", label="ours: mean and range over seeds")
        axis.annotate(name, (parameters, mean), (-5, -11), textcoords="offset points", fontsize=8, ha="right")
    for number, (parameters, accuracy) in enumerate(published.values(), start=1):
        error = 100 * (1 - accuracy)
        points.append((parameters, error))
        axis.plot(parameters, error, "s", color="tab:orange", label="published: one run each")
        axis.annotate(f"[{number}]", (parameters, error), (0, 7), textcoords="offset points", fontsize=8, ha="center")
    frontier = pareto_frontier(points)
    axis.plot(*zip(*frontier, strict=True), "--", color="0.5", linewidth=1, zorder=0, label="Pareto frontier")
    for formatted in (axis.xaxis, axis.yaxis):
        formatted.set_major_formatter("{x:,g}")
    ticks = (0.3, 0.5, 1, 2, 4)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.yaxis.set_minor_formatter("")
    axis.grid(alpha=0.3, which="both")
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys())
    notes = [f"[{number}] {source}" for number, source in enumerate(published, start=1)]
    figure.supxlabel("\n".join(notes), fontsize=7, x=0.02, ha="left", parse_math=False)
    save_figure(figure, path)


def pareto_frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points, sorted by x: no other point is lower or equal in both x and y."""
    frontier: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not frontier or y < frontier[-1][1]:
            frontier.append((x, y))
    return frontier
