"""Measure the values on which some of the gate's bounds are based. The models never see the test images.

    python scripts/gate_bounds.py               takes several minutes; updates docs/gate.md
    python scripts/gate_bounds.py --data-only   only the near-duplicates of MNIST; takes seconds, updates no document

Models of the recipes with at most one epoch are trained on the first 50,000 training images and measured on the last
10,000. The program also runs the search for near-duplicates on MNIST. The exit code is 1 if this search finds a test
image that is nearly the same as a training image.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import documents
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from workshop import train_or_load

from mnist import architecture, datasets, recipes, transforms
from mnist.architecture import Classifier
from mnist.datasets import Dataset, Split, overlap
from mnist.gate import sampling, slices, triggers
from mnist.shapes import CLASSES

DOCUMENT = documents.DOCS / "gate.md"
RECIPES = ("baseline", "standard", "fast")
SEEDS = range(500, 506)
VALIDATION_IMAGES = 10_000
IMAGES_PER_TRIGGER = 400
INVERTED_IMAGES = 1_000
COPIED_IMAGES = 2_000
JPEG_QUALITIES = (90, 75)


def main() -> None:
    """Print and write the measured values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-only", action="store_true", help="only the near-duplicates; update no document")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of MNIST (default: %(default)s)")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models/validation"),
        help="folder in which the models are kept (default: %(default)s)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    mnist = datasets.load_mnist(options.data_dir)
    duplicates = int(overlap.near_duplicates(mnist.test.images, mnist.train.images).sum())
    if duplicates or mnist.fingerprint not in overlap.WITHOUT_NEAR_DUPLICATES:
        print(f"error: {duplicates:,} near-duplicates, or other images (see WITHOUT_NEAR_DUPLICATES in overlap.py)")
        sys.exit(1)
    rows = [["test images of MNIST that nearly equal a training image", "0 of 10,000"], *_found_copies(mnist)]
    if not options.data_only:
        rows += _figures_of_models(mnist.with_validation(VALIDATION_IMAGES), options.models)
    table = documents.table(["measurement", "value"], rows, "ll")
    print(table)
    if not options.data_only:
        documents.replace_section(DOCUMENT, "bounds", table)


def _found_copies(mnist: Dataset) -> Iterator[list[str]]:
    """Yield table rows that show how many shifted and re-encoded copies of training images the search finds."""
    originals = mnist.train.images[:COPIED_IMAGES]
    for quality in JPEG_QUALITIES:
        copies = torch.stack([_encode_as_jpeg(image[0], quality) for image in originals])[:, None].roll((1, -1), (2, 3))
        found = overlap.near_duplicates(copies, mnist.train.images).float().mean().item()
        yield [f"share of copies found: shifted by one pixel, saved as JPEG at quality {quality}", f"{found:.1%}"]


def _encode_as_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file)))


def _figures_of_models(data: Dataset, folder: Path) -> list[list[str]]:
    """Return table rows with the extreme values over all models, each with its recipe and its slice or patch."""
    worst_slices, strongest_patches, inverted = [], [], []
    for name in RECIPES:
        for seed in SEEDS:
            artifact = train_or_load(folder / f"{name}-{seed}.pth", recipes.get(name, seed=seed), data.train)
            worst_slices.append((*worst_slice(artifact.model, data.test), name))
            strongest_patches.append((*strongest_patch(artifact.model, data.test), name))
            inverted.append(largest_share_when_inverted(artifact.model, data.test))
    accuracy, worst, of_worst = min(worst_slices)
    pulled, patch, of_patch = max(strongest_patches)
    return [
        ["models of `baseline`, `standard` and `fast`", str(len(inverted))],
        ["`slice-accuracy`: lowest of all models", f"{accuracy:.1%} (`{of_worst}`, {worst})"],
        ["`trigger-pull`: highest of all models", f"{pulled:.1%} (`{of_patch}`, {patch})"],
        [
            "share of inverted images in the most frequent predicted class, over all models",
            f"{min(inverted):.0%} to {max(inverted):.0%}",
        ],
    ]


def _predict(model: Classifier, pixels: Tensor) -> Tensor:
    return architecture.predict(model, transforms.normalize(pixels))


def worst_slice(model: Classifier, split: Split) -> tuple[float, str]:
    """Return the lowest accuracy of the model on any slice, and the name of the slice."""
    pixels = transforms.to_float(split.images)
    correct = _predict(model, pixels).argmax(1) == split.labels
    return min((each.right / each.images, each.name) for each in slices.measure(pixels, correct))


def strongest_patch(model: Classifier, split: Split) -> tuple[float, str]:
    """Return the largest share of images that a patch makes the model assign to one class, and the patch's name."""
    chosen = sampling.evenly_spaced(len(split), IMAGES_PER_TRIGGER)
    pixels = transforms.to_float(split.images[chosen])
    before = _predict(model, pixels).argmax(1)
    effects = triggers.measure(lambda changed: _predict(model, changed), pixels, before)
    return max((effect.share, effect.name) for effect in effects)


def largest_share_when_inverted(model: Classifier, split: Split) -> float:
    """Return the share of inverted images that the model assigns to its most frequent predicted class."""
    pixels = 1 - transforms.to_float(split.images[:INVERTED_IMAGES])
    counts = torch.bincount(_predict(model, pixels).argmax(1), minlength=CLASSES)
    return counts.max().item() / len(pixels)


if __name__ == "__main__":
    main()
