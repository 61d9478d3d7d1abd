"""Data sets like MNIST that torchvision downloads: Fashion-MNIST, KMNIST, EMNIST's digits and QMNIST."""

import contextlib
import errno
import http.client
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from torch import Tensor

from mnist.datasets import mirrors
from mnist.datasets.splits import (
    TORCHVISION_DATASETS,
    Dataset,
    DatasetError,
    Notify,
    Split,
    UnavailableError,
    make_split,
)
from mnist.shapes import DIGITS

_FOLDERS = {**TORCHVISION_DATASETS, "emnist-letters": "EMNIST"}  # torchvision's class and folder for each data set


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
    with _complete_folder(name, data_dir, notify):
        train, test = (_load_split(name, data_dir, part) for part in ("train", "test"))
    return Dataset(name, train, test)


def load_emnist_letters(data_dir: Path, notify: Notify = lambda line: None) -> tuple[Tensor, Tensor]:
    """Load the training images of EMNIST's letters; for arguments and errors, see :func:`load_from_torchvision`.

    Returns:
        Images, uint8 [N, 28, 28], and letters, int64 [N], from 1 (A and a) to 26 (Z and z).
    """
    with _complete_folder("emnist-letters", data_dir, notify):
        loaded = _open("emnist-letters", data_dir, "train", download=False)
        return _upright(loaded.data), loaded.targets.long()


@contextlib.contextmanager
def _complete_folder(name: str, data_dir: Path, notify: Notify) -> Iterator[None]:
    """Download a data set if its folder does not exist. Convert errors that torchvision raises to DatasetError."""
    folder = data_dir / _FOLDERS[name]
    if not folder.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{folder.name}.lock"):
            if not folder.exists():  # another process may have downloaded the data set in the meantime
                notify(f"downloading {folder.name}")
                _download(name, data_dir)
    try:
        yield
    except (DatasetError, OSError):
        raise
    except Exception as error:  # torchvision documents no errors, and raises many types of errors for damaged files
        raise DatasetError(f"{folder} is incomplete or damaged (remove it to download it again)") from error


def _download(name: str, data_dir: Path) -> None:
    """Let torchvision download and extract a data set into a temporary folder; move it to its place when complete."""
    folder_name = _FOLDERS[name]
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as temporary:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(mirrors.ANSWER_TIMEOUT_SECONDS)  # torchvision sets no timeout
        try:
            with contextlib.redirect_stdout(None):
                for part in ("train", "test"):
                    _open(name, Path(temporary), part, download=True)
        except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise
            hint = f"check the network, or copy torchvision's folder {folder_name} into {data_dir}"
            raise UnavailableError(f"could not download {folder_name} ({hint})") from error
        finally:
            socket.setdefaulttimeout(timeout)
        (Path(temporary) / folder_name).rename(data_dir / folder_name)


def _load_split(name: str, root: Path, part: str) -> Split:
    loaded = _open(name, root, part, download=False)
    kind = type(loaded)
    images = _upright(loaded.data) if name == "emnist-digits" else loaded.data
    # QMNIST's labels have additional columns, such as the writer's number.
    labels = loaded.targets[:, 0].contiguous() if name == "qmnist" else loaded.targets
    classes = tuple(kind.classes) if name in ("fashion-mnist", "kmnist") else DIGITS
    part_name = "training" if part == "train" else "test"
    return make_split(images, labels, f"{kind.__name__} {part_name} set", classes)


def _open(name: str, root: Path, part: str, *, download: bool) -> Any:
    """Return a split of a data set as a torchvision object, with images in ``data`` and labels in ``targets``."""
    from torchvision import datasets as torchvision_datasets  # the import takes seconds

    options: dict[str, Any] = {"what": part} if name == "qmnist" else {"train": part == "train"}
    if name in ("emnist-digits", "emnist-letters"):
        options["split"] = name.removeprefix("emnist-")
    return getattr(torchvision_datasets, _FOLDERS[name])(root, download=download, **options)


def _upright(images: Tensor) -> Tensor:
    """Transpose EMNIST's images, which are stored transposed (pytorch/vision issue 8783)."""
    return images.transpose(1, 2).contiguous()
