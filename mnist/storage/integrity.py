"""Check models, checkpoints and data against their checksums."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist import datasets, files
from mnist.datasets import cache
from mnist.datasets import mnist as reader
from mnist.errors import MnistError
from mnist.storage import artifacts, checkpoints, training_logs
from mnist.storage import card as cards

_BESIDE_WEIGHTS = {".json": "model card", ".digests": "digest file", ".log.jsonl": "training log"}


@dataclass(frozen=True)
class Finding:
    """The result of checking one file."""

    path: Path
    kind: str  # model, model card, digest file, training log, checkpoint, data, leftover or folder
    problem: str = ""  # empty if the file is intact
    checked: bool = True  # False if the problem only prevents the check


class UnknownFileError(MnistError):
    """A file that is missing, or that this program neither wrote nor has a checksum for."""


def check(path: Path) -> Iterator[Finding]:
    """Check a file, or all models, checkpoints and data files in a folder and its subfolders.

    Raises:
        UnknownFileError: if the path does not exist, or is a file of another kind.
    """
    if path.is_dir():
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            yield Finding(path, "folder", files.explain(error))
            return
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():  # a link to a parent folder would recurse forever
                yield from check(entry)
            elif finding := _check_file(entry):
                yield finding
    elif not path.exists():
        raise UnknownFileError(f"there is no file or folder {path}")
    elif finding := _check_file(path):
        yield finding
    elif _is_card(path):
        yield _check_model(path.with_suffix(".pth"))
    else:
        raise UnknownFileError(f"{path} is neither a model, a checkpoint nor a file of MNIST")


def _check_file(path: Path) -> Finding | None:
    """Check a file. Return None for a file of another kind, and for a file that is checked with its weights."""
    if path.name.startswith(".") and path.suffix == files.PART_SUFFIX:
        return Finding(path, "leftover", "left behind by an interrupted write, which changed no other file (remove it)")
    if path.suffix == ".pth":
        return _check_model(path)
    for suffix, kind in _BESIDE_WEIGHTS.items():
        if path.name.startswith("mnist_model_") and path.name.endswith(suffix):
            weights = path.with_name(f"{path.name.removesuffix(suffix)}.pth")
            return None if weights.exists() else Finding(path, kind, "its weights are missing")
    if path.suffix == ".ckpt":
        return _try_to_read(path, "checkpoint", checkpoints.read)
    if path.name.endswith(f".ckpt{checkpoints.DAMAGED_SUFFIX}"):
        return Finding(path, "leftover", "a damaged checkpoint; its run continued from an earlier one (remove it)")
    if path.parent.parent.name in datasets.TORCHVISION_DATASETS.values():
        return None  # named like a file of MNIST, but with other content; torchvision verified it after the download
    archives = {archive.name: archive for archive in vars(reader.MNIST).values()}
    archives |= {archive.decompressed_name: archive for archive in vars(reader.MNIST).values()}
    if path.name in archives:
        try:
            intact = cache.is_intact(path, archives[path.name])
        except OSError as error:
            return Finding(path, "data", files.explain(error))
        return Finding(path, "data", "" if intact else "damaged: its checksum is wrong (download it again: make data)")
    return None


def _is_card(path: Path) -> bool:
    return path.suffix == ".json" and path.name.startswith("mnist_model_")


def _check_model(path: Path) -> Finding:
    try:
        artifact = artifacts.load(path)
    except artifacts.UnnamedNetworkError as error:
        return Finding(path, "model", str(error), checked=False)
    except (MnistError, OSError) as error:
        return Finding(path, "model", str(error))
    if artifact.card is None:
        return Finding(path, "model", "loads, but cannot be checked for damage: it has no card")
    if artifact.card.digests_sha256 and artifact.digests is None:
        missing = cards.digests_path(path).name
        return Finding(path, "model", f"loads, but {missing}, which lists its training images, is missing")
    if artifact.card.log_sha256 and not artifact.log:
        log = training_logs.log_path(path).name
        return Finding(path, "model", f"loads, but its training log {log} is missing or damaged")
    return Finding(path, "model")


def _try_to_read(path: Path, kind: str, read: Callable[[Path], object]) -> Finding:
    try:
        read(path)
    except (MnistError, OSError) as error:
        return Finding(path, kind, str(error))
    return Finding(path, kind)
