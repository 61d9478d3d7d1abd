"""Where the images come from: files already there, a mirror, the offline subset, a folder; verified, and loaded once.

MNIST lies in ``<data folder>/MNIST/raw``, where torchvision keeps it too: the four archives as published, and beside
them what they decode to. Nothing there is believed before its checksum has been compared. What torchvision fetches, it
compares with its checksums as it does.
"""

from pathlib import Path

from mnist.datasets.folder import load_folder
from mnist.datasets.mnist import load_mnist, parse_idx
from mnist.datasets.relatives import load_from_torchvision
from mnist.datasets.splits import (
    DIGITS,
    MAY_BE_OF,
    NAMED,
    TORCHVISION,
    Dataset,
    DatasetError,
    NoAnswerError,
    Notify,
    Split,
    class_name,
)
from mnist.datasets.subset import load_subset

__all__ = [
    "DIGITS",
    "MAY_BE_OF",
    "NAMED",
    "TORCHVISION",
    "Dataset",
    "DatasetError",
    "NoAnswerError",
    "Split",
    "class_name",
    "load",
    "load_folder",
    "load_from_torchvision",
    "load_mnist",
    "load_subset",
    "parse_idx",
]


def load(name: str, data_dir: Path, *, mirror: str | None = None, notify: Notify = lambda line: None) -> Dataset:
    """Load a data set into memory, fetching what is not there.

    Args:
        name: ``mnist``, ``subset`` (the offline subset), ``fashion-mnist``, ``kmnist``, ``emnist-digits``, ``qmnist``,
            the path of a folder (see :func:`load_folder`), or ``auto``: MNIST where it can be had, else the subset.
        data_dir: where what is fetched is kept; created where it is missing.
        mirror: a URL or a local folder that holds the four archives, asked before torchvision's mirrors.
        notify: is told, in one line each, what is fetched, found damaged, or fallen back to.

    Raises:
        DatasetError: unknown name, damaged data, or nothing to be had.
        OSError: the data folder cannot be read or written.
    """
    if name == "subset":
        return load_subset()
    if name == "mnist":
        return load_mnist(data_dir, mirror=mirror, notify=notify)
    if name in TORCHVISION:
        return load_from_torchvision(name, data_dir, notify)
    if name != "auto" and Path(name).is_dir():
        return load_folder(Path(name), notify)
    if name != "auto":
        raise DatasetError(f"no data set is called {name!r}, and no folder (there are: auto, {', '.join(NAMED)})")
    try:
        return load_mnist(data_dir, mirror=mirror, notify=notify)
    except NoAnswerError as error:
        subset = load_subset()
        notify(f"WARNING: {error}")
        notify(
            f"WARNING: this is not MNIST but the offline subset: {len(subset.train):,} images to train on, "
            f"{len(subset.test):,} to measure on"
        )
        return subset
