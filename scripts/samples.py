"""Models and checkpoints with complete but invented cards, for programs and tests that need a file of that kind."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from mnist.metrics import Performance
from mnist.recipes import Recipe
from mnist.storage import artifacts
from mnist.storage.card import DatasetInfo, Origin, TrainingStats
from mnist.storage.checkpoints import Checkpoint, Machine

DATASET = DatasetInfo("subset", "training part, 4,000 images", "held-out part, 1,000 images", sha256="5e" * 32)


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    init: Origin | None = None,
    now: datetime | None = None,
) -> Path:
    """Save a model with a card; the mappings replace fields of its recipe, data set and performance."""
    performance = {
        "measured_on": DATASET.test,
        "images": 1000,
        "loss": 0.1,
        "accuracy": 0.97,
        "per_digit": (0.97,) * 10,
    }
    return artifacts.save(
        model,
        folder,
        recipe=Recipe(**{"name": "baseline", "architecture": "cnn", **(recipe or {})}),
        dataset=DatasetInfo(**{**vars(DATASET), **(dataset or {})}),
        training=TrainingStats("cpu", threads=1, processes=1, init=init),
        measured=Performance(**{**performance, **(measured or {})}),
        now=now,
    )


def checkpoint(recipe: Recipe, training: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return a checkpoint of a run with that recipe."""
    return Checkpoint(recipe, DATASET, Machine("cpu", threads=1, processes=1), training=training)
