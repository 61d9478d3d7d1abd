"""Data sets of MNIST's shape that torchvision knows."""

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
    TORCHVISION,
    Dataset,
    DatasetError,
    NoAnswerError,
    Notify,
    Split,
    make_split,
)


def load_from_torchvision(name: str, data_dir: Path, notify: Notify = lambda line: None) -> Dataset:
    """Fashion-MNIST, KMNIST, EMNIST's digits or QMNIST, from where torchvision keeps it, or fetched there by it.

    Raises:
        DatasetError: it is not to be had, or damaged.
        OSError: the data folder cannot be read or written.
    """
    place = data_dir / TORCHVISION[name]
    if not place.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{TORCHVISION[name]}.lock"):
            if not place.exists():
                notify(f"fetching {TORCHVISION[name]}")
                _fetch_with_torchvision(name, data_dir)
    try:
        train, test = (_open_with_torchvision(name, data_dir, part, download=False) for part in ("train", "test"))
    except (DatasetError, OSError):
        raise
    except Exception as error:  # torchvision's readers raise many kinds for a damaged file, and document none
        raise DatasetError(f"{place} is not all there, or damaged (remove it, and it is fetched again)") from error
    return Dataset(name, train, test)


def _fetch_with_torchvision(name: str, data_dir: Path) -> None:
    """Have torchvision fetch and unpack it beside its place, and move it there when all of it is whole."""
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as beside:
        waits = socket.getdefaulttimeout()
        socket.setdefaulttimeout(mirrors.SECONDS_TO_ANSWER)  # torchvision sets none
        try:
            with contextlib.redirect_stdout(None):
                for part in ("train", "test"):
                    _open_with_torchvision(name, Path(beside), part, download=True)
        except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise
            hint = f"connect to the network, or put it into {data_dir} as torchvision does"
            raise NoAnswerError(f"{TORCHVISION[name]} is not to be had ({hint})") from error
        finally:
            socket.setdefaulttimeout(waits)
        (Path(beside) / TORCHVISION[name]).rename(data_dir / TORCHVISION[name])


def _open_with_torchvision(name: str, root: Path, part: str, *, download: bool) -> Split:
    from torchvision import datasets as known  # takes seconds to import: only where it is needed

    kind = getattr(known, TORCHVISION[name])
    options: dict[str, Any] = {"what": part} if name == "qmnist" else {"train": part == "train"}
    if name == "emnist-digits":
        options["split"] = "digits"
    loaded = kind(root, download=download, **options)
    # EMNIST's images are stored with rows and columns exchanged (pytorch/vision issue 8783).
    images = loaded.data.transpose(1, 2).contiguous() if name == "emnist-digits" else loaded.data
    labels = loaded.targets[:, 0].contiguous() if name == "qmnist" else loaded.targets  # others say who wrote it
    classes = tuple(kind.classes) if name in ("fashion-mnist", "kmnist") else DIGITS
    return make_split(images, labels, f"{TORCHVISION[name]} {'training' if part == 'train' else 'test'} set", classes)
