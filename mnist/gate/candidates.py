"""The models that the gate judges: this program's own, weights from other programs, and ONNX files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from mnist import files
from mnist.datasets import Dataset
from mnist.errors import MnistError
from mnist.gate import onnx_models
from mnist.gate.onnx_models import AUTO, OnnxModel
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

Candidate: TypeAlias = Artifact | OnnxModel

SUFFIXES = (".pth", ".pt", ".onnx")  # file name suffixes of models


def find(paths: Sequence[Path]) -> list[Path]:
    """Return model files: the given files, and all models in the given folders and their subfolders.

    Raises:
        MnistError: if a folder holds no model.
    """
    found = []
    for path in paths:
        inside = sorted(_walk(path)) if path.is_dir() else [path]
        if not inside:
            raise MnistError(f"there is no model in {path} (a model is a file ending in {', '.join(SUFFIXES)})")
        found += inside
    return list(dict.fromkeys(found))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and not path.is_dir():
            yield path


def load(path: Path, dataset: Dataset, *, architecture: str | None = None, input_range: str = AUTO) -> Candidate:
    """Load a model to judge on a data set.

    Args:
        architecture: name of the network of a weights file; weights with other names are matched by order and shape.
        input_range: range of the pixels that an ONNX model expects; see :func:`mnist.gate.onnx_models.load`.

    Raises:
        MnistError: if the file is not a model that can be judged.
    """
    if files.is_onnx(path):
        return onnx_models.load(path, dataset, input_range)
    return artifacts.load(path, architecture=architecture)
