"""Draw MNIST's test images large, with a pen on paper, photograph them, and see how many are still recognized.

Letters and scribbles are drawn, too, to see for how many of them the model is sure that they are digits.

    .venv/bin/python scripts/paper.py                            the newest model, on the 10,000 test images
    .venv/bin/python scripts/paper.py --model models/....pth --show pages.png

Each page has its own pen, thick or thin, colour, paper or blackboard, light, perspective, blur, noise and JPEG quality.
It renews its line of docs/using.md. A look at the test set, and so for reporting alone: what
`mnist/preparation.py` does
was chosen on pages drawn from the last 10,000 training images.
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
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import mnist
from mnist import datasets, preparation
from mnist.deploy import inference
from mnist.gate import intervals, measurement
from mnist.storage.artifacts import Artifact

DOCUMENT = documents.DOCS / "using.md"
SEED = 0
ENLARGED = 8  # times, before it is put onto the page
PAPERS = ((250, 250, 248), (244, 238, 220), (225, 228, 230), (235, 242, 250), (200, 190, 170))
PENS = ((20, 20, 25), (25, 45, 140), (165, 25, 30), (20, 95, 50), (90, 40, 120), (95, 95, 100))
BOARDS = ((35, 40, 45), (25, 60, 45), (20, 25, 60))
CHALKS = ((240, 240, 235), (245, 225, 120), (245, 170, 190))


def photograph(digit: NDArray[np.uint8], rng: np.random.Generator, width: float | None = None) -> Image.Image:
    """A digit, uint8 [28, 28], as a photo of a page it was drawn on: RGB, between 160 and 400 pixels a side.

    The pen is so many times as wide as its stroke; between 0.25 and 1.5 where that is left to chance.
    """
    stroke = _draw(digit, width or np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
    size = rng.integers(160, 400, 2)
    page = _place(stroke, tuple(size), rng)
    papers, pens = (BOARDS, CHALKS) if rng.random() < 0.15 else (PAPERS, PENS)
    paper, pen = (np.array(colours[rng.integers(len(colours))]) / 255 for colours in (papers, pens))
    picture = paper + page[..., None] * (pen - paper)
    picture = picture * _light(page.shape, rng)[..., None]
    picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0, 0.006) * max(page.shape)] * 2, 0))
    grain = ndimage.gaussian_filter(rng.normal(size=page.shape), 2)[..., None]
    picture = picture + rng.uniform(0, 0.06) * grain + rng.normal(size=picture.shape) * rng.uniform(0, 0.04)
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def jpeg(photo: Image.Image, rng: np.random.Generator) -> bytes:
    """The photo's file, of a quality between 40 and 90."""
    buffer = io.BytesIO()
    photo.save(buffer, format="jpeg", quality=int(rng.integers(40, 90)))
    return buffer.getvalue()


def _draw(digit: NDArray[np.uint8], width: float) -> NDArray[np.float32]:
    """The stroke, enlarged and smooth, with a pen so many times as wide."""
    enlarged = Image.fromarray(digit).resize((28 * ENLARGED, 28 * ENLARGED), Image.Resampling.BICUBIC)
    inside = ndimage.gaussian_filter(np.asarray(enlarged, dtype=np.float32) / 255, ENLARGED / 4) > 0.5
    if not inside.any():
        return np.asarray(enlarged, dtype=np.float32) / 255
    depth = ndimage.distance_transform_edt(inside)
    half_width = np.percentile(depth[inside], 90) * width
    middle = inside & (depth >= ndimage.maximum_filter(depth, 3) - 0.5)  # of the stroke, a line that hardly breaks
    thin = half_width - ndimage.distance_transform_edt(~middle)
    wider = half_width - np.percentile(depth[inside], 90) + depth - ndimage.distance_transform_edt(~inside)
    return np.clip(np.maximum(thin, wider) + 0.5, 0, 1).astype(np.float32)


def _place(stroke: NDArray[np.float32], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """The stroke somewhere on a page, seen a little from the side, float32 [height, width]."""
    width, height = size
    side = min(size) * rng.uniform(0.45, 1.15)  # of the 28 x 28, of which the digit takes about two thirds
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
    """The eight numbers that lead from each seen corner to its source: (ax + by + c) / (gx + hy + 1), likewise y."""
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return list(np.linalg.solve(np.array(rows), np.array(values)))


def _light(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Light that falls off across the page by up to 40 %, in any direction, and towards its corners."""
    down, across = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * across + np.sin(angle) * down
    return 1 - rng.uniform(0, 0.2) * (1 + slope / 1.5) - rng.uniform(0, 0.1) * (down**2 + across**2)


# ---- The figures -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Draw every test image, ask the model of each page, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weights file (default: the newest)")
    parser.add_argument("--images", type=int, default=10_000, help="how many of the test images (default: all)")
    parser.add_argument("--show", type=Path, help="draw some pages, and what the network saw of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = mnist.load(options.model)
    test = datasets.load_mnist(Path("data")).test
    count = min(options.images, len(test))
    digits = test.images[:count, 0].numpy()
    right = measurement.predict_split(model.model, test)[:count].argmax(1) == test.labels[:count]
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / f"{number:05}.jpg" for number in range(count)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            pool.starmap(_write_page, zip(pages, digits, range(count), strict=True), chunksize=100)
        started = time.perf_counter()
        answers = list(inference.predict_files(model, pages))
        seconds = time.perf_counter() - started
        if options.show:
            _draw_pages(pages[:20], options.show)
    labels = [str(label) for label in test.labels[:count].tolist()]
    still = torch.tensor([answer.best[0] == label for answer, label in zip(answers, labels, strict=True)])
    sure = torch.tensor([answer.label is not None for answer in answers])
    lost = intervals.paired_difference(int((right & ~still).sum()), int((~right & still).sum()), count)
    row = documents.row(
        [
            f"`{model.card.recipe['name'] if model.card else model.path.name}`",
            f"{right.float().mean():.2%}",
            f"{still.float().mean():.2%}",
            f"{100 * lost.value:.2f} ({100 * lost.low:.2f} to {100 * lost.high:.2f})",
            f"{sure.float().mean():.1%}",
            f"{still[sure].float().mean():.2%}",
            f"{sum(bool(answer.problem) for answer in answers)}",
            f"{_sure_of(model, _letter):.0%}",
            f"{_sure_of(model, _scribble):.0%}",
        ]
    )
    print(f"{count / seconds:,.0f} images/s, one thread, from JPEG file to answer")
    print(row)
    if count == len(test):
        documents.replace_row(DOCUMENT, "paper", row)


def _sure_of(model: Artifact, draw: Callable[[np.random.Generator], Image.Image]) -> float:
    """For what share of 500 pictures of something else the model is sure which digit they are."""
    pictures = [draw(np.random.default_rng([SEED, number])) for number in range(500)]
    return float(np.mean([inference.predict(model, picture).label is not None for picture in pictures]))


def _letter(rng: np.random.Generator) -> Image.Image:
    """A capital letter that is like no digit (B, I, O, S and Z are left out), printed on white."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / rng.choice(["DejaVuSans.ttf", "DejaVuSerif.ttf", "cmr10.ttf"])), 120)
    image = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(image).text((100, 100), rng.choice(list("ACDEFGHJKLMNPQRTUVWXY")), 0, font, anchor="mm")
    return image.rotate(rng.uniform(-12, 12), fillcolor=255)


def _scribble(rng: np.random.Generator) -> Image.Image:
    """A line through twelve places at random, on white."""
    image = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(image).line([tuple(place) for place in rng.integers(30, 170, (12, 2)).tolist()], fill=0, width=10)
    return image


def _write_page(path: Path, digit: NDArray[np.uint8], number: int) -> None:
    rng = np.random.default_rng([SEED, number])
    path.write_bytes(jpeg(photograph(digit, rng), rng))


def _draw_pages(pages: list[Path], path: Path) -> None:
    columns = len(pages) // 2
    figure = Figure(figsize=(1.2 * columns, 5.2), layout="constrained")
    for place, axis in enumerate(figure.subplots(4, columns).flat):
        row, column = divmod(place, columns)
        page = pages[row // 2 * columns + column]
        seen = preparation.prepare(preparation.read(page)) if row % 2 else np.asarray(Image.open(page))
        axis.imshow(seen, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if row % 2 else None)
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
