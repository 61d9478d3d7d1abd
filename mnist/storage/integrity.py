"""Whether files are what was written: models, checkpoints and data, each against the checksum that belongs to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist import datasets, files
from mnist.datasets import mnist as reader
from mnist.errors import MnistError
from mnist.storage import artifacts, checkpoints


@dataclass(frozen=True)
class Finding:
    """A file, what it is, and what is wrong with it; empty: it is intact."""

    path: Path
    kind: str
    problem: str = ""


class UnknownFileError(MnistError):
    """A file that this program has not written and has no checksum for."""


def check(path: Path) -> Iterator[Finding]:
    """Check a file, or every file in a folder and below that is one of this program's.

    Raises:
        UnknownFileError: there is no such file, or it is of no kind that could be checked.
    """
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():  # which could lead in circles
                yield from check(entry)
            elif finding := _check_file(entry):
                yield finding
    elif not path.exists():
        raise UnknownFileError(f"there is no file or folder {path}")
    elif finding := _check_file(path):
        yield finding
    else:
        raise UnknownFileError(f"{path} is neither a model, a checkpoint nor a file of MNIST's")


def _check_file(path: Path) -> Finding | None:
    if path.name.startswith(".") and path.suffix == files.PART:
        return Finding(path, "leftover", "a write that was cut off; what it was to replace is not touched (remove it)")
    if path.suffix == ".pth":
        return _check_model(path)
    if path.suffix == ".json" and path.name.startswith("mnist_model_"):
        return None if path.with_suffix(".pth").exists() else Finding(path, "model card", "its weights are not there")
    if path.suffix == ".ckpt":
        return _attempt(path, "checkpoint", checkpoints.read)
    if path.parent.parent.name in datasets.TORCHVISION.values():
        return None  # named like MNIST's, but others; torchvision compares them with their checksums as it fetches them
    known = {archive.name: archive for archive in vars(reader.MNIST).values()}
    known |= {archive.decoded_name: archive for archive in vars(reader.MNIST).values()}
    if path.name in known:
        intact = reader.is_intact(path, known[path.name])
        return Finding(path, "data", "" if intact else "damaged: its checksum differs (make data gets it again)")
    return None


def _check_model(path: Path) -> Finding:
    finding = _attempt(path, "model", artifacts.load)
    if not finding.problem and not path.with_suffix(".json").exists():
        return Finding(path, "model", "it can be loaded, but has no card to be checked against")
    return finding


def _attempt(path: Path, kind: str, read: Callable[[Path], object]) -> Finding:
    try:
        read(path)
    except (MnistError, OSError) as error:
        return Finding(path, kind, str(error))
    return Finding(path, kind)
