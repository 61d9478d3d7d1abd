"""Train classifiers with other libraries, export them to ONNX, and check that the gate reads them correctly.

    tox run -e exports -- build/exports       # trains and exports, in an environment with these libraries
    python scripts/foreign_models.py --judge build/exports [--document]

The first command trains on the offline subset. For each exporter, it writes ``NAME.onnx``, and ``NAME.npz`` with the
probabilities or logits that the library computes for the test images. The second command loads each ONNX file as the
gate does, compares the probabilities with those of the library, and judges the model. With ``--document``, it updates
the table in docs/judging.md.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mnist.datasets import Dataset

Images = NDArray[np.uint8]  # [N, 28, 28]
Labels = NDArray[np.int64]  # [N]
Predict = Callable[[Images], NDArray[Any]]  # returns probabilities or logits, [N, 10]

MAX_DIFFERENCE = 1e-4  # allowed difference between the library's probabilities and the gate's
DOCUMENT = "judging.md"
EXPORTERS: dict[str, tuple[str, Callable[[Path, Images, Labels], Predict]]] = {}


def main() -> None:
    """Export the models, or judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the exported models")
    parser.add_argument("--judge", action="store_true", help="judge the models in the folder")
    parser.add_argument("--document", action="store_true", help="write the table into docs/judging.md")
    parser.add_argument("--only", help="export only the models whose name contains this")
    options = parser.parse_args()
    if options.judge:
        sys.exit(judge(options.folder, options.document))
    export(options.folder, options.only or "")


# ---- Training and export ---------------------------------------------------------------------------------------------


def exporter(description: str) -> Callable[[Any], Any]:
    """Return a decorator that registers a function that trains and exports a model and returns its predictor."""

    def register(function: Any) -> Any:
        EXPORTERS[function.__name__] = (description, function)
        return function

    return register


def export(folder: Path, only: str) -> None:
    """Train and export a model with each exporter."""
    from mnist import datasets

    subset = datasets.load_subset()
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = subset.train.images[:, 0].numpy(), subset.train.labels.numpy()
    for name, (description, function) in EXPORTERS.items():
        if only in name:
            predict = function(folder / f"{name}.onnx", images, labels)
            np.savez(folder / f"{name}.npz", scores=predict(subset.test.images[:, 0].numpy()), description=description)
            print(f"{name}: {description}", flush=True)


@exporter("scikit-learn, logistic regression, exported with skl2onnx (labels and a map of probabilities); pixels 0-1")
def sklearn_logistic(path: Path, images: Images, labels: Labels) -> Predict:
    """Export with skl2onnx's defaults: a label and a dictionary for each image."""
    from sklearn.linear_model import LogisticRegression

    return _export_sklearn(LogisticRegression(max_iter=50), path, images, labels, scale=255.0, zipmap=True)


@exporter(
    "scikit-learn, multi-layer perceptron, exported with skl2onnx (labels and an array of probabilities); pixels 0-255"
)
def sklearn_perceptron(path: Path, images: Images, labels: Labels) -> Predict:
    """Export a small perceptron that was trained on integer pixels, with an array of probabilities as output."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((24,), max_iter=30, alpha=1, random_state=0)
    return _export_sklearn(model, path, images, labels, scale=1.0, zipmap=False)


@exporter("scikit-learn, random forest of 20 trees, exported with skl2onnx; pixels 0-255")
def sklearn_forest(path: Path, images: Images, labels: Labels) -> Predict:
    """Export a forest. Its trees are attributes of an operation, and their numbers count as parameters."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(20, random_state=0)
    return _export_sklearn(model, path, images, labels, scale=1.0, zipmap=True)


def _export_sklearn(model: Any, path: Path, images: Images, labels: Labels, scale: float, zipmap: bool) -> Predict:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    def prepare(images: Images) -> NDArray[np.float32]:
        return (images.reshape(len(images), -1) / np.float32(scale)).astype(np.float32)

    model.fit(prepare(images), labels)
    onnx = convert_sklearn(
        model, initial_types=[("X", FloatTensorType([None, 784]))], options={id(model): {"zipmap": zipmap}}
    )
    path.write_bytes(onnx.SerializeToString())
    return lambda images: model.predict_proba(prepare(images))


@exporter("Keras with its PyTorch backend, convolutions, softmax; [N, 28, 28, 1], pixels 0-1")
def keras_cnn(path: Path, images: Images, labels: Labels) -> Predict:
    """Export with Keras's own ``export``."""
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(12, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(_with_channel(images) / 255.0, labels, epochs=3, verbose=0)
    model.export(path, format="onnx", verbose=False)
    return lambda images: model.predict(_with_channel(images) / 255.0, verbose=0)


def _with_channel(images: Images) -> NDArray[np.float32]:
    return images[..., None].astype(np.float32)


@exporter("PyTorch, exporter based on TorchScript, convolutions; pixels normalized with MNIST's mean")
def torch_legacy(path: Path, images: Images, labels: Labels) -> Predict:
    """Export with ``dynamo=False`` and a dynamic batch size."""
    return _export_torch(path, images, labels, normalized=True, dynamo=False, dynamic_axes={"x": {0: "n"}})


@exporter("PyTorch, exporter based on TorchDynamo, 16 images at a time; weights in a second file; pixels 0-1")
def torch_dynamo(path: Path, images: Images, labels: Labels) -> Predict:
    """Export with ``dynamo=True``, a fixed batch size, and weights in a separate file."""
    return _export_torch(path, images, labels, normalized=False, dynamo=True, external_data=True)


def _export_torch(
    path: Path, images: Images, labels: Labels, *, normalized: bool, dynamo: bool, **options: Any
) -> Predict:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from mnist import transforms

    def prepare(images: Images) -> torch.Tensor:
        pixels = transforms.to_float(torch.from_numpy(images[:, None]))
        return transforms.normalize(pixels) if normalized else pixels

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(4), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    inputs, targets = prepare(images), torch.from_numpy(labels)
    for _ in range(6):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    model.eval()
    torch.onnx.export(model, (inputs[:16],), path, input_names=["x"], dynamo=dynamo, verbose=False, **options)
    return lambda images: model(prepare(images)).detach().numpy()


# ---- Judgement -------------------------------------------------------------------------------------------------------


def judge(folder: Path, document: bool) -> int:
    """Judge the exported models; return 1 if the gate's probabilities for a model differ from those of its library."""
    import documents

    from mnist import datasets

    subset = datasets.load_subset()
    header = ["exported by", "read as", "accuracy", "parameters", "largest difference", "blocked by"]
    judged = [_judge(folder, name, subset) for name in EXPORTERS]
    table = documents.table(header, [row for row, _ in judged], "llrrrl")
    print(table)
    if document:
        documents.replace_section(documents.DOCS / DOCUMENT, "exports", table)
    return int(not all(agrees for _, agrees in judged))


def _judge(folder: Path, name: str, subset: "Dataset") -> tuple[list[str], bool]:
    """Return a model's table row, and True if the gate gets the same probabilities as the library that trained it."""
    import torch

    from mnist import gate, transforms
    from mnist.gate import candidates, onnx_models

    with np.load(folder / f"{name}.npz") as stored:
        scores, description = torch.from_numpy(stored["scores"]).float(), str(stored["description"])
    model = candidates.load(folder / f"{name}.onnx", subset)
    with torch.inference_mode():
        found = model.model(transforms.prepare(subset.test.images)).softmax(1)
    expected = onnx_models.to_logits(scores, onnx_models.are_probabilities(scores)).softmax(1)
    difference = (found - expected).abs().max().item()
    evaluation = gate.evaluate(model, subset, gate.choose_policy(model, subset))
    blocked = ", ".join(verdict.criterion for verdict in evaluation.verdicts if verdict.blocks)
    read_as, _, output = model.description.partition(" (")
    row = [
        description,
        f"{read_as}; {output.rpartition('; ')[2]}",
        f"{evaluation.measurement.accuracy:.1%}",
        f"{model.stored.parameters:,}",
        f"{difference:.0e}",
        blocked or "none",
    ]
    return row, difference <= MAX_DIFFERENCE


if __name__ == "__main__":
    main()
