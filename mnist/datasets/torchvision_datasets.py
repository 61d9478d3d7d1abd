"""Data sets like MNIST that torchvision downloads: Fashion-MNIST, KMNIST, EMNIST's digits and QMNIST."""

import contextlib
import errno
import http.client
import socket
import tempfile
import zlib
from pathlib import Path
from typing import Any

import filelock

from mnist.datasets import mirrors
from mnist.datasets.splits import (
    DIGITS,
    TORCHVISION_DATASETS,
    Dataset,
    DatasetError,
    Notify,
    Split,
    UnavailableError,
    make_split,
)


def load_from_torchvision(name: str, data_dir: Path, notify: Notify = lambda line: None) -> Dataset:
    """Load a data set from the folder where torchvision stores it. Download it first if the folder does not exist.

    Args:
        name: a key of ``TORCHVISION_DATASETS``.
        data_dir: the ``root`` of torchvision's data sets.
        notify: is called with one line before a download.

    Raises:
        DatasetError: if the data are incomplete or damaged.
        UnavailableError: if the data set is neither on disk nor available for download.
        OSError: if the data folder cannot be read or written.
    """
    folder = data_dir / TORCHVISION_DATASETS[name]
    if not folder.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{folder.name}.lock"):
            if not folder.exists():  # another process may have downloaded the data set in the meantime
                notify(f"downloading {folder.name}")
                _download(name, data_dir)
    try:
        train, test = (_load_split(name, data_dir, part, download=False) for part in ("train", "test"))
    except (DatasetError, OSError):
        raise
    except Exception as error:  # torchvision documents no errors, and raises many types for a damaged file
        raise DatasetError(f"{folder} is incomplete or damaged (remove it to download it again)") from error
    return Dataset(name, train, test)


def _download(name: str, data_dir: Path) -> None:
    """Let torchvision download and extract a data set into a temporary folder; move it to its place when complete."""
    folder_name = TORCHVISION_DATASETS[name]
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as temporary:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(mirrors.ANSWER_TIMEOUT_SECONDS)  # torchvision sets no timeout
        try:
            with contextlib.redirect_stdout(None):
                for part in ("train", "test"):
                    _load_split(name, Path(temporary), part, download=True)
        except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise
            hint = f"check the network, or copy torchvision's folder {folder_name} into {data_dir}"
            raise UnavailableError(f"could not download {folder_name} ({hint})") from error
        finally:
            socket.setdefaulttimeout(timeout)
        (Path(temporary) / folder_name).rename(data_dir / folder_name)


def _load_split(name: str, root: Path, part: str, *, download: bool) -> Split:
    from torchvision import datasets as torchvision_datasets  # the import takes seconds

    kind = getattr(torchvision_datasets, TORCHVISION_DATASETS[name])
    options: dict[str, Any] = {"what": part} if name == "qmnist" else {"train": part == "train"}
    if name == "emnist-digits":
        options["split"] = "digits"
    loaded = kind(root, download=download, **options)
    # EMNIST's images are stored transposed (pytorch/vision issue 8783).
    images = loaded.data.transpose(1, 2).contiguous() if name == "emnist-digits" else loaded.data
    # QMNIST's labels have more columns, such as the writer's number.
    labels = loaded.targets[:, 0].contiguous() if name == "qmnist" else loaded.targets
    classes = tuple(kind.classes) if name in ("fashion-mnist", "kmnist") else DIGITS
    part_name = "training" if part == "train" else "test"
    return make_split(images, labels, f"{kind.__name__} {part_name} set", classes)
