"""Measure the accuracy on simulated photos of MNIST's test images, drawn with a pen on paper.

    .venv/bin/python scripts/paper.py      measure the newest model that passed the gate, on the 10,000 test images
    .venv/bin/python scripts/paper.py --model models/....pth --show pages.png

Each page has its own pen width, colors, paper or blackboard, lighting, perspective, blur, noise and JPEG quality. The
program also measures how often the model reports a digit for letters and scribbles. It updates the recipe's row in
docs/using.md. The results are measured on the test set: report them, but base no choice on them. The preparation in
`mnist/preparation/` was developed on pages drawn from the last 10,000 training images.
"""

import argparse
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import documents
import matplotlib
import numpy as np
import torch
from arguments import positive
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import mnist
from mnist import datasets, preparation
from mnist.deploy import inference
from mnist.gate import intervals, performance
from mnist.storage.artifacts import Artifact

DOCUMENT = documents.DOCS / "using.md"
SEED = 0
OTHER_PICTURES = 500  # number of letters, and number of scribbles
SHOWN_PAGES = 20  # number of pages that --show draws
DRAWING_SCALE = 8  # factor by which a digit is enlarged before it is placed on the page
PAPER_COLORS = ((250, 250, 248), (244, 238, 220), (225, 228, 230), (235, 242, 250), (200, 190, 170))
PEN_COLORS = ((20, 20, 25), (25, 45, 140), (165, 25, 30), (20, 95, 50), (90, 40, 120), (95, 95, 100))
BOARD_COLORS = ((35, 40, 45), (25, 60, 45), (20, 25, 60))
CHALK_COLORS = ((240, 240, 235), (245, 225, 120), (245, 170, 190))


def photograph(digit: NDArray[np.uint8], rng: np.random.Generator, width: float | None = None) -> Image.Image:
    """Return a simulated RGB photo of a page with a digit, uint8 [28, 28]; each side has 160 to 399 pixels.

    ``width`` is the pen width relative to the digit's stroke width; by default, it is a random value from 0.25 to 1.5.
    """
    stroke = enlarge(digit, width or np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
    size = rng.integers(160, 400, 2)
    page = _place(stroke, tuple(size), rng)
    palettes = (BOARD_COLORS, CHALK_COLORS) if rng.random() < 0.15 else (PAPER_COLORS, PEN_COLORS)
    paper, pen = (np.array(colors[rng.integers(len(colors))]) / 255 for colors in palettes)
    picture = paper + page[..., None] * (pen - paper)
    picture = picture * _light(page.shape, rng)[..., None]
    picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0, 0.006) * max(page.shape)] * 2, 0))
    grain = ndimage.gaussian_filter(rng.normal(size=page.shape), 2)[..., None]
    picture = picture + rng.uniform(0, 0.06) * grain + rng.normal(size=picture.shape) * rng.uniform(0, 0.04)
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def jpeg(photo: Image.Image, rng: np.random.Generator) -> bytes:
    """Return the photo as a JPEG file with a random quality from 40 to 89."""
    buffer = io.BytesIO()
    photo.save(buffer, format="jpeg", quality=int(rng.integers(40, 90)))
    return buffer.getvalue()


def enlarge(digit: NDArray[np.uint8], width: float) -> NDArray[np.float32]:
    """Return the digit, enlarged and smoothed, with strokes ``width`` times as wide."""
    enlarged = Image.fromarray(digit).resize((28 * DRAWING_SCALE, 28 * DRAWING_SCALE), Image.Resampling.BICUBIC)
    inside = ndimage.gaussian_filter(np.asarray(enlarged, dtype=np.float32) / 255, DRAWING_SCALE / 4) > 0.5
    if not inside.any():
        return np.asarray(enlarged, dtype=np.float32) / 255
    depth = ndimage.distance_transform_edt(inside)
    half_width = np.percentile(depth[inside], 90) * width
    center_line = inside & (
        depth >= ndimage.maximum_filter(depth, 3) - 0.5
    )  # the nearly connected center line of the stroke
    thin = half_width - ndimage.distance_transform_edt(~center_line)
    wide = half_width - np.percentile(depth[inside], 90) + depth - ndimage.distance_transform_edt(~inside)
    return np.clip(np.maximum(thin, wide) + 0.5, 0, 1).astype(np.float32)


def _place(stroke: NDArray[np.float32], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a page, float32 [height, width], with the stroke at a random position, in perspective."""
    width, height = size
    side = min(size) * rng.uniform(0.45, 1.15)  # side of the 28 x 28 image, of which the digit fills about two thirds
    side = max(side, 60)
    room = [max(0.0, length - side) for length in size]
    left, top = (rng.uniform(0, free) if free else (length - side) / 2 for free, length in zip(room, size, strict=True))
    corners = np.array([(left, top), (left + side, top), (left + side, top + side), (left, top + side)])
    corners += rng.uniform(-0.05, 0.05, corners.shape) * side
    source = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * stroke.shape[0]
    picture = Image.fromarray(stroke)
    return np.asarray(
        picture.transform(
            (int(width), int(height)),
            Image.Transform.PERSPECTIVE,
            _perspective(corners, source),
            Image.Resampling.BILINEAR,
        )
    )


def _perspective(seen: NDArray[np.float64], source: NDArray[np.float64]) -> list[float]:
    """Return the coefficients a to h of the perspective transform that maps each seen corner to its source.

    The source of (x, y) is ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)).
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return list(np.linalg.solve(np.array(rows), np.array(values)))


def _light(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the brightness of a page: up to 40 % lower in a random direction, and lower towards the corners."""
    down, across = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * across + np.sin(angle) * down
    return 1 - rng.uniform(0, 0.2) * (1 + slope / 1.5) - rng.uniform(0, 0.1) * (down**2 + across**2)


# ---- Measurement ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Photograph every test image, classify the photos, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weights file (default: the newest one)")
    parser.add_argument("--images", type=positive, default=10_000, help="number of test images (default: all)")
    parser.add_argument("--show", type=Path, help="write a figure of some pages and their preparations to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = mnist.load(options.model)
    test = datasets.load_mnist(Path("data")).test
    count = min(options.images, len(test))
    digits = test.images[:count, 0].numpy()
    correct_before = performance.predict_split(model.model, test)[:count].argmax(1) == test.labels[:count]
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / f"{number:05}.jpg" for number in range(count)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            pool.starmap(_write_page, zip(pages, digits, range(count), strict=True), chunksize=100)
        started = time.perf_counter()
        predictions = list(inference.predict_files(model, pages))
        seconds = time.perf_counter() - started
        if options.show:
            _draw_pages(pages[:SHOWN_PAGES], options.show)
    labels = [str(label) for label in test.labels[:count].tolist()]
    correct = torch.tensor([found.best[0] == label for found, label in zip(predictions, labels, strict=True)])
    confident = torch.tensor([found.label is not None for found in predictions])
    n_lost = int((correct_before & ~correct).sum())
    n_gained = int((~correct_before & correct).sum())
    loss = intervals.paired_difference(n_lost, n_gained, count)
    row = documents.row(
        [
            f"`{model.card.recipe.name if model.card else model.path.name}`",
            f"{correct_before.float().mean():.2%}",
            f"{correct.float().mean():.2%}",
            f"{100 * loss.value:.2f} ({100 * loss.low:.2f} to {100 * loss.high:.2f})",
            f"{confident.float().mean():.1%}",
            f"{correct[confident].float().mean():.2%}",
            f"{sum(bool(found.problem) for found in predictions)}",
            f"{_confident_share(model, _letter):.0%}",
            f"{_confident_share(model, _scribble):.0%}",
        ]
    )
    print(f"{count / seconds:,.0f} images/s on one thread, from JPEG file to prediction")
    print(row)
    if count == len(test):
        documents.replace_row(DOCUMENT, "paper", row)


def _confident_share(model: Artifact, draw: Callable[[np.random.Generator], Image.Image]) -> float:
    """Return the share of pictures without a digit for which the model reports a digit."""
    pictures = [draw(np.random.default_rng([SEED, number])) for number in range(OTHER_PICTURES)]
    return float(np.mean([inference.predict(model, picture).label is not None for picture in pictures]))


def _letter(rng: np.random.Generator) -> Image.Image:
    """Draw a printed capital letter, black on white, except B, I, O, S and Z, which resemble digits."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / rng.choice(["DejaVuSans.ttf", "DejaVuSerif.ttf", "cmr10.ttf"])), 120)
    image = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(image).text((100, 100), rng.choice(list("ACDEFGHJKLMNPQRTUVWXY")), 0, font, anchor="mm")
    return image.rotate(rng.uniform(-12, 12), fillcolor=255)


def _scribble(rng: np.random.Generator) -> Image.Image:
    """Draw a line through twelve random points, black on white."""
    image = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(image).line([tuple(point) for point in rng.integers(30, 170, (12, 2)).tolist()], fill=0, width=10)
    return image


def _write_page(path: Path, digit: NDArray[np.uint8], number: int) -> None:
    """Write the photo of a digit; ``number`` seeds its random choices."""
    rng = np.random.default_rng([SEED, number])
    path.write_bytes(jpeg(photograph(digit, rng), rng))


def draw_examples(digits: NDArray[np.uint8], path: Path) -> None:
    """Write a figure with photos of the first digits, uint8 [N, 28, 28], and the prepared images."""
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / f"{number:05}.jpg" for number in range(SHOWN_PAGES)]
        for number, page in enumerate(pages):
            _write_page(page, digits[number], number)
        _draw_pages(pages, path)


def _draw_pages(pages: list[Path], path: Path) -> None:
    """Write a figure with pages, each above the 28 x 28 image that the network receives."""
    columns = len(pages) // 2
    figure = Figure(figsize=(1.2 * columns, 5.2), layout="constrained")
    for position, axis in enumerate(figure.subplots(4, columns).flat):
        row, column = divmod(position, columns)
        page = pages[row // 2 * columns + column]
        seen = preparation.prepare(page) if row % 2 else np.asarray(Image.open(page))
        axis.imshow(seen, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if row % 2 else None)
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
