"""Create models and checkpoints with complete cards, for programs and tests that need such files."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from mnist.datasets import Dataset
from mnist.gate import performance
from mnist.metrics import Performance
from mnist.progress import LogEntry
from mnist.recipes import Recipe
from mnist.storage import artifacts
from mnist.storage.card import DatasetInfo, Origin, TrainingStats
from mnist.storage.checkpoints import Checkpoint, Machine

# Invented entries for the cards of models that are saved without data.
DATASET = DatasetInfo("subset", "training split, 4,000 images", "test split, 1,000 images", sha256="5e" * 32)
PERFORMANCE = Performance(DATASET.test, images=1000, loss=0.1, accuracy=0.97, per_digit=(0.97,) * 10)


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    data: Dataset | None = None,
    recipe: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    init: Origin | None = None,
    log: Sequence[LogEntry] = (),
    now: datetime | None = None,
) -> Path:
    """Save a model with a card; the mappings replace fields of its recipe, data set and performance.

    Args:
        data: the data that the model was trained on. With data, the card agrees with the gate's measurement, and the
            digests of the training images are saved. Without data, the card's data set and performance are invented.
    """
    chosen = Recipe(**{"name": "baseline", "architecture": "cnn", **(recipe or {})})
    figures = performance.evaluate_for_card(model, data, chosen.seed) if data else PERFORMANCE
    return artifacts.save(
        model,
        folder,
        recipe=chosen,
        dataset=dataclasses.replace(DatasetInfo.of(data) if data else DATASET, **(dataset or {})),
        training=TrainingStats("cpu", threads=1, processes=1, init=init),
        measured=dataclasses.replace(figures, **(measured or {})),
        digests=data.train.digests if data else None,
        log=log,
        now=now,
    )


def checkpoint(recipe: Recipe, training: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return a checkpoint of a run with this recipe."""
    return Checkpoint(recipe, DATASET, Machine("cpu", threads=1, processes=1), training=training)
