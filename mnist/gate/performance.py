"""Measure what a model card records: accuracy, loss and the confidence threshold."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import architecture, metrics, transforms
from mnist.datasets import Dataset, Split
from mnist.metrics import Performance
from mnist.shapes import CLASSES

THRESHOLD_SAMPLE = 5_000  # number of training images on which the confidence threshold is determined
MAX_SURE_ERROR_RATE = 0.01  # share of wrong predictions among those at or above the confidence threshold


def evaluate(model: nn.Module, split: Split) -> Performance:
    """Return the accuracy and the loss of a model on a split."""
    logits = predict_split(model, split)
    predictions = logits.argmax(1)
    confusion = metrics.confusion_matrix(split.labels, predictions, CLASSES)
    return Performance(
        measured_on=split.description,
        images=len(split),
        loss=F.cross_entropy(logits, split.labels).item(),
        accuracy=metrics.accuracy(split.labels, predictions),
        per_digit=tuple(metrics.per_class_accuracy(confusion).tolist()),
    )


def evaluate_for_card(model: nn.Module, dataset: Dataset, seed: int) -> Performance:
    """Return the performance on the test images, with a confidence threshold chosen on the training images.

    ``seed`` is passed to :func:`choose_threshold`.
    """
    threshold = choose_threshold(model, dataset.train, seed)
    return dataclasses.replace(evaluate(model, dataset.test), threshold=threshold)


def predict_split(model: nn.Module, split: Split) -> Tensor:
    """Return the logits of all images of a split, float32 [N, 10], on the CPU."""
    device = architecture.device_of(model)
    return architecture.predict(model, transforms.prepare(split.images.to(device))).cpu()


def choose_threshold(model: nn.Module, train: Split, seed: int) -> float:
    """Return the lowest threshold, at least 0.5, such that at most 1 % of the predictions at or above it are wrong.

    The predictions are made for a random sample of training images. These images are randomly rotated and scaled, to
    imitate the variation of users' images. ``seed`` determines the sample and the transforms.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[:THRESHOLD_SAMPLE]
    images, labels = train.images[chosen], train.labels[chosen]
    device = architecture.device_of(model)
    moves = transforms.draw_affine(len(chosen), rotation=15, translation=0, scaling=0.1, generator=generator)
    inputs = transforms.prepare(images.to(device), moves)
    confidence, predictions = architecture.predict(model, inputs).cpu().softmax(1).max(1)
    return max(0.5, metrics.confidence_threshold(confidence, predictions == labels, MAX_SURE_ERROR_RATE))
