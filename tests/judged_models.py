"""Models judged by the gate, for the tests of reports."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from samples import save_model
from strategies import generator

from mnist import architecture, gate, report
from mnist.architecture import Classifier
from mnist.datasets import Dataset, Split
from mnist.gate import Measurement, Verdict, contract, measurement, performance, single_images
from mnist.storage import artifacts

# What the gate measures on in the tests, and what it measures on in use.
FEW_IMAGES = {
    (measurement, "IMAGES_PER_PROBE"): 100,
    (measurement, "IMAGES_PER_TRIGGER"): 40,
    (contract, "IMAGES_PER_CHANGE"): 50,
    (measurement, "IMAGES_FOR_GRADIENTS"): 200,
    (measurement, "TRAINING_SAMPLE"): 1000,
    (single_images, "IMAGES"): 10,
    (single_images, "MAX_SECONDS"): 0.0,
    (performance, "THRESHOLD_SAMPLE"): 1000,
}
MANY_IMAGES = {(module, name): getattr(module, name) for module, name in FEW_IMAGES}


class Judged(NamedTuple):
    """The results of the gate for one model, and its report."""

    measurement: Measurement
    verdicts: Sequence[Verdict]
    content: dict[str, Any]  # of report.json


@contextlib.contextmanager
def measuring(sizes: Mapping[tuple[ModuleType, str], float]) -> Iterator[None]:
    """Measure models on other numbers of images: `FEW_IMAGES` or `MANY_IMAGES`."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), size in sizes.items():
            patch.setattr(module, name, size)
        yield


def judge(
    model: Classifier, subset: Dataset, folder: Path, *, previous: Classifier | None = None, test: Split | None = None
) -> Judged:
    """Judge a model on the subset, with few images for each probe.

    Args:
        folder: an empty folder for the weights files.
        previous: the baseline.
        test: images that replace the test images of the subset.
    """
    dataset = dataclasses.replace(subset, test=test or subset.test)
    artifact, baseline = (
        artifacts.load(save_model(each, folder / name, data=dataset)) if each else None
        for each, name in ((model, "new"), (previous, "baseline"))
    )
    evaluation = gate.evaluate(artifact, dataset, gate.load_policy(dataset="subset"), baseline)
    return Judged(evaluation.measurement, evaluation.verdicts, report.build(evaluation, dataset.test))


def write_decision(
    weights: Path, decision: str, folder: Path = Path("reports/earlier"), created: str = "2020-01-01T00:00:00+00:00"
) -> Path:
    """Write what `mnist models` reads of a report on a model, and return the path of report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = folder / "report.json"
    path.write_text(json.dumps({"sha256": digest, "decision": decision, "created": created}), encoding="utf-8")
    return path


def untrained_model() -> Classifier:
    return architecture.build("cnn", generator(0))


def broken_model() -> Classifier:
    """Return a model whose logits are NaN."""
    model = architecture.build("cnn", generator(0))
    torch.nn.init.constant_(model.fc2.bias, math.nan)
    return model
