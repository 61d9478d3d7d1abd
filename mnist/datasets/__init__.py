"""Data sets of labelled images: MNIST, its offline subset, similar data sets of torchvision, and folders of images.

MNIST is stored in ``<data folder>/MNIST/raw``, as torchvision stores it: the four archives as published, and the
decompressed file next to each. Every file is verified by its checksum before it is used. The other data sets of
torchvision are downloaded and verified by torchvision.
"""

from pathlib import Path

from mnist.datasets.folder import load_folder
from mnist.datasets.mnist import load_mnist, parse_idx
from mnist.datasets.negatives import EMNIST_LETTERS, Negatives, load_negatives
from mnist.datasets.splits import (
    DATASET_NAMES,
    TORCHVISION_DATASETS,
    Dataset,
    DatasetError,
    Notify,
    Split,
    UnavailableError,
    class_name,
    divide,
)
from mnist.datasets.subset import load_subset
from mnist.datasets.torchvision_datasets import load_from_torchvision
from mnist.shapes import DIGITS

__all__ = [
    "DATASET_NAMES",
    "DIGITS",
    "EMNIST_LETTERS",
    "TORCHVISION_DATASETS",
    "Dataset",
    "DatasetError",
    "Negatives",
    "Split",
    "UnavailableError",
    "class_name",
    "divide",
    "load",
    "load_folder",
    "load_from_torchvision",
    "load_mnist",
    "load_negatives",
    "load_subset",
    "parse_idx",
]


def load(
    name: str,
    data_dir: Path,
    *,
    mirror: str | None = None,
    skip_unusable: float = 0.0,
    notify: Notify = lambda line: None,
) -> Dataset:
    """Load a data set into memory. Download it first if it is not on disk.

    Args:
        name: ``mnist``, ``subset`` (the offline subset), ``fashion-mnist``, ``kmnist``, ``emnist-digits``, ``qmnist``,
            the path of a folder (see :func:`load_folder`), or ``auto``: MNIST if it is available, otherwise the subset.
        data_dir: folder for downloaded files; created if it does not exist.
        mirror: URL or local folder with MNIST's four archives, tried before torchvision's mirrors.
        skip_unusable: share of a folder's images that may be left out; see :func:`load_folder`.
        notify: is called with one line for each download, damaged file and fallback.

    Raises:
        DatasetError: if the name is unknown, or the data are damaged.
        UnavailableError: if the data set is neither on disk nor available for download.
        OSError: if the data folder cannot be read or written.
    """
    if name == "subset":
        return load_subset()
    if name in TORCHVISION_DATASETS:
        return load_from_torchvision(name, data_dir, notify)
    if name not in ("mnist", "auto"):
        if not Path(name).is_dir():
            known = ", ".join(("auto", *DATASET_NAMES))
            raise DatasetError(
                f"no data set is called {name!r}, and no folder has this path (known data sets: {known})"
            )
        return load_folder(Path(name), notify, skip_unusable=skip_unusable)
    try:
        return load_mnist(data_dir, mirror=mirror, notify=notify)
    except UnavailableError as error:
        if name == "mnist":
            raise
        subset = load_subset()
        notify(f"WARNING: {error}")
        notify(
            f"WARNING: using the offline subset instead of MNIST: {len(subset.train):,} images for training, "
            f"{len(subset.test):,} for testing"
        )
        return subset
