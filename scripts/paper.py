"""Draw MNIST's digits large, with a pen on paper, photograph them, and see how many are still recognized.

    .venv/bin/python scripts/paper.py                            the newest model, on the 10,000 test images
    .venv/bin/python scripts/paper.py --model models/....pth --show pages.png

Each page has its own pen, thick or thin, colour, paper or blackboard, light, perspective, blur, noise and JPEG quality.
A page that is declined, or on which no digit is found, counts as not recognized, unless it says otherwise.
"""

import argparse
import io
import multiprocessing
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

ENLARGED = 8  # times, before it is put onto the page
PAPERS = ((250, 250, 248), (244, 238, 220), (225, 228, 230), (235, 242, 250), (200, 190, 170))
PENS = ((20, 20, 25), (25, 45, 140), (165, 25, 30), (20, 95, 50), (90, 40, 120), (95, 95, 100))
BOARDS = ((35, 40, 45), (25, 60, 45), (20, 25, 60))
CHALKS = ((240, 240, 235), (245, 225, 120), (245, 170, 190))


def photograph(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """A digit, uint8 [28, 28], as a photo of a page it was drawn on: RGB, between 160 and 400 pixels a side."""
    stroke = _draw(digit, rng)
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


def _draw(digit: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """The stroke, enlarged and smooth, with a pen of 0.25 to 1.5 times its width."""
    enlarged = Image.fromarray(digit).resize((28 * ENLARGED, 28 * ENLARGED), Image.Resampling.BICUBIC)
    inside = ndimage.gaussian_filter(np.asarray(enlarged, dtype=np.float32) / 255, ENLARGED / 4) > 0.5
    if not inside.any():
        return np.asarray(enlarged, dtype=np.float32) / 255
    depth = ndimage.distance_transform_edt(inside)
    half_width = np.percentile(depth[inside], 90) * np.exp(rng.uniform(np.log(0.25), np.log(1.5)))
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
