"""Measure how fast `predict` is on photos of several sizes.

    .venv/bin/python scripts/picture_speed.py --model models/....pth

The photos are JPEG files of simulated pages (scripts/paper.py). The program prints the processor time per photo for
decoding alone, and from the file to the prediction. Other programs hardly affect the processor time. The program also
prints the number of photos per second of processor time, and per second of elapsed time on all processors.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import documents
import numpy as np
import paper
import torch
from PIL import Image

import mnist
from mnist import datasets, resources
from mnist.deploy import inference
from mnist.storage.artifacts import Artifact

SIZES = {(64, 64): 200, (320, 320): 200, (1200, 900): 40, (4000, 3000): 8}  # width and height; number of photos
SEED = 0


def main() -> None:
    """Print a table of the speed for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weights file (default: the newest that passed the gate)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = mnist.load(options.model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, count in SIZES.items():
            rows.append(_measure(model, _write(Path(folder), size, count), size))
    header = ["pixels", "decoding, ms", "prediction, ms", "per second of one processor"]
    print(documents.table([*header, f"per second on {resources.processors()} processors"], rows, "lrrrr"))


def _write(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    digits = datasets.load_subset().test.images[:, 0].numpy()
    rng = np.random.default_rng(SEED)
    paths = [folder / f"{size[0]}_{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photo = paper.photograph(digits[number * len(digits) // count], rng)
        photo.resize(size, Image.Resampling.BICUBIC).save(path, quality=85)
    return paths


def _measure(model: Artifact, paths: Sequence[Path], size: tuple[int, int]) -> list[str]:
    list(inference.predict_files(model, paths[:2]))  # loads modules and fills caches
    started = time.process_time()
    for path in paths:
        Image.open(path).load()
    decoding = time.process_time() - started
    started, clock = time.process_time(), time.perf_counter()
    list(inference.predict_files(model, paths))
    prediction, elapsed = time.process_time() - started, time.perf_counter() - clock
    return [
        f"{size[0]} x {size[1]}",
        *(f"{1000 * seconds / len(paths):.1f}" for seconds in (decoding, prediction)),
        *(f"{len(paths) / seconds:.0f}" for seconds in (prediction, elapsed)),
    ]


if __name__ == "__main__":
    main()
