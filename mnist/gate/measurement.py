"""Everything that the gate measures about a model: accuracy, robustness, backdoors, calibration, gradients, latency."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import architecture, metrics, transforms
from mnist.datasets import DIGITS, Split
from mnist.gate import contract, gradients, intervals, probes, sampling, single_images, slices, triggers
from mnist.gate.intervals import Estimate
from mnist.gate.probes import Probe, ProbeKind
from mnist.gate.slices import Slice
from mnist.gate.triggers import TriggerEffect
from mnist.shapes import CLASSES

IMAGES_PER_PROBE = 600
IMAGES_PER_TRIGGER = 100
IMAGES_FOR_GRADIENTS = 1_000
TRAINING_SAMPLE = 2_500  # number of training images on which the accuracy is measured

# Things that some kinds of models lack. Criteria that need them cannot be judged for these models.
GRADIENTS = "gradients"
TRAINING_DATA = "a record of the training images"

_NOT_MEASURED = intervals.exact(math.nan)


@dataclass(frozen=True)
class StoredNumbers:
    """Counts of the numbers that a model stores."""

    parameters: int
    not_finite: int  # parameters and buffers that are NaN or infinite


@dataclass(frozen=True)
class Measurement:
    """Everything measured about one model on one split. The defaults apply to a model that violates the contract."""

    measured_on: str  # description of the split
    images: int
    possibly_seen: int | None  # images that the model may have been trained on; None: its training images are unknown
    near_duplicates: int  # images that are nearly the same as a training image
    parameters: int
    bytes: int  # size of the weights file
    weights_not_finite: int  # parameters and buffers that are NaN or infinite
    contract_violations: tuple[str, ...]  # described in words
    unmeasurable: frozenset[str] = frozenset()  # what this model lacks: GRADIENTS, TRAINING_DATA or both
    contradicted_claims: tuple[str, ...] = ()  # claims of the model card, described in words
    latency: float = math.nan  # seconds for the slowest of 32 images; of each, the fastest of 5 to 10 calls, one thread
    batch_disagreement: float = math.nan  # largest difference between two probabilities of a class for the same image
    loss: float = math.nan  # mean cross-entropy
    classes: tuple[str, ...] = DIGITS
    confusion: tuple[tuple[int, ...], ...] = ()  # counts; row: true class, column: predicted class
    seen: tuple[int, int] = (0, 0)  # number of sampled training images, and of those recognized
    probes: tuple[Probe, ...] = ()
    slices: tuple[Slice, ...] = ()
    triggers: tuple[TriggerEffect, ...] = ()
    confidence_right: Estimate = _NOT_MEASURED  # mean confidence of correct predictions
    confidence_wrong: Estimate = _NOT_MEASURED  # mean confidence of wrong predictions
    calibration_error: Estimate = _NOT_MEASURED
    gradient_norms: dict[str, float] = field(default_factory=dict)  # L2 norm for each parameter tensor
    initial_gradient_norms: dict[str, float] = field(default_factory=dict)  # the same before training
    dead_units: dict[str, float] = field(default_factory=dict)  # share of each layer's outputs that are dead
    logits: Tensor = field(default_factory=lambda: torch.empty(0, CLASSES), compare=False, repr=False)  # [N, 10]

    @property
    def correct(self) -> int:
        """The number of images that were recognized."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The share of images that were recognized, or NaN if it could not be measured."""
        count = sum(map(sum, self.confusion))
        return self.correct / count if count else math.nan


def measure(
    model: nn.Module,
    initial: nn.Module | None,
    test: Split,
    train: Split,
    *,
    bytes: int,
    stored: StoredNumbers | None = None,
    possibly_seen: int | None = 0,
    near_duplicates: int = 0,
    batch_size: int = architecture.IMAGES_PER_BATCH,
    seed: int = 0,
) -> Measurement:
    """Measure a model on the images of ``test``, and leave its weights unchanged.

    The results do not depend on the order of the images, nor, except for rounding, on the batch size. An exception in
    the model is a contract violation; nothing else is then measured.

    Args:
        initial: the network before training, whose buffers this function changes; None if the model is not a PyTorch
            network, so that no gradients can be measured.
        train: training images, to compare the accuracy on them with that on ``test``.
        bytes: size of the weights file.
        stored: counts of the numbers in the model file; by default, the network's parameters and buffers are counted.
        possibly_seen: number of images of ``test`` that the model may have been trained on; None if nothing is known
            about the training images.
        near_duplicates: number of images of ``test`` that are nearly the same as one of ``train``.
        seed: seed for the noise, the other random changes and the sample of ``train``.
    """
    stored = stored or StoredNumbers(architecture.count_parameters(model), _count_not_finite(model))
    missing = [*[GRADIENTS] * (initial is None), *[TRAINING_DATA] * (possibly_seen is None)]
    measurement = partial(
        Measurement,
        unmeasurable=frozenset(missing),
        measured_on=test.description,
        images=len(test),
        possibly_seen=possibly_seen,
        near_duplicates=near_duplicates,
        classes=test.classes,
        parameters=stored.parameters,
        bytes=bytes,
        weights_not_finite=stored.not_finite,
    )
    bench = _Bench(model, test, batch_size, seed)
    try:
        if violations := bench.contract_violations():
            return measurement(contract_violations=tuple(violations))
        return measurement(contract_violations=(), **bench.measure(initial, train))
    except Exception as error:  # a model under test can raise anything
        return measurement(contract_violations=(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",))


class _Bench:
    """A model and the images to measure it on, in an order that depends only on the images."""

    def __init__(self, model: nn.Module, test: Split, batch_size: int, seed: int) -> None:
        self.model, self.batch_size, self.seed = model, batch_size, seed
        self.device = architecture.device_of(model)
        self.order = sampling.canonical_order(test)
        self.pixels = transforms.to_float(test.images[self.order].to(self.device))
        self.labels = test.labels[self.order]

    def contract_violations(self) -> list[str]:
        """Return the contract violations for batches of several sizes and for unusual images, described in words."""
        return list(contract.violations(self.model, self.pixels, self._sample(contract.IMAGES_PER_CHANGE)))

    def measure(self, initial: nn.Module | None, train: Split) -> dict[str, Any]:
        """Return the fields of :class:`Measurement` that require a model without contract violations."""
        logits = self._predict(self.pixels, "unchanged")
        confidence, predictions = logits.softmax(1).max(1)
        correct = predictions == self.labels
        confusion = metrics.confusion_matrix(self.labels, predictions, CLASSES)
        of_gradients = self._measure_gradients(initial) if initial else {}
        of_probes = tuple(self._probe(number, correct, kind) for number, kind in enumerate(probes.kinds()))
        chosen = self._sample(IMAGES_PER_TRIGGER)
        predict = partial(self._predict, change="with a patch")
        of_triggers = tuple(triggers.measure(predict, self.pixels[chosen], predictions[chosen]))
        # The last measurement on the test images, so that it detects predictions that have changed since the first.
        chosen = self._sample(single_images.IMAGES)
        predict = partial(self._predict, change="single")
        latency, disagreement = single_images.measure(predict, self.pixels[chosen], logits[chosen])
        in_batches = single_images.disagreement_of_batches(
            lambda pixels, size: self._predict(pixels, f"in batches of {size}", size), self.pixels, logits
        )
        return {
            "latency": latency,
            "batch_disagreement": max(disagreement, in_batches),
            "loss": F.cross_entropy(logits, self.labels).item(),
            "confusion": tuple(map(tuple, confusion.tolist())),
            "seen": self._count_recognized(train),
            "probes": of_probes,
            "slices": tuple(slices.measure(self.pixels, correct)),
            "triggers": of_triggers,
            "confidence_right": intervals.mean(confidence[correct]),
            "confidence_wrong": intervals.mean(confidence[~correct]),
            "calibration_error": intervals.calibration_error(confidence, correct),
            "logits": logits[self.order.argsort()],
            **of_gradients,
        }

    def _predict(self, pixels: Tensor, change: str, batch_size: int | None = None) -> Tensor:
        """Return the logits of images, moved to the CPU because the statistics need float64, which MPS lacks.

        Args:
            change: how the images were changed, for the error message.
            batch_size: number of images at once; None: the usual number.

        Raises:
            ValueError: if a logit is not finite, or is very large.
        """
        logits = architecture.predict(self.model, transforms.normalize(pixels), batch_size or self.batch_size).cpu()
        if invalid := int((~contract.are_valid(logits)).sum()):
            raise ValueError(f"for {invalid:,} of {len(logits):,} images ({change}) {contract.INVALID_LOGIT}")
        return logits

    def _sample(self, count: int, offset: int = 0) -> Tensor:
        """Return the indices of images; see :func:`mnist.gate.sampling.evenly_spaced`."""
        return sampling.evenly_spaced(len(self.labels), count, offset)

    def _measure_gradients(self, initial: nn.Module) -> dict[str, dict[str, float]]:
        chosen = self._sample(IMAGES_FOR_GRADIENTS)
        images, labels = transforms.normalize(self.pixels[chosen]), self.labels[chosen].to(self.device)
        with architecture.evaluation_mode(self.model):
            trained = gradients.compute(self.model, images, labels)
        untrained = gradients.compute(initial.to(self.device).train(), images, labels)
        return {
            "gradient_norms": gradients.norms(trained),
            "initial_gradient_norms": gradients.norms(untrained),
            "dead_units": gradients.dead_units(trained),
        }

    def _count_recognized(self, split: Split) -> tuple[int, int]:
        # A random sample: MNIST is not shuffled, and an evenly spaced sample can be harder than the complete set.
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))[:TRAINING_SAMPLE]
        images, labels = split.images[chosen], split.labels[chosen]
        predictions = self._predict(transforms.to_float(images.to(self.device)), "training").argmax(1)
        return len(labels), int((predictions == labels).sum())

    def _probe(self, number: int, correct: Tensor, kind: ProbeKind) -> Probe:
        chosen = self._sample(IMAGES_PER_PROBE, offset=number)
        generator = torch.Generator().manual_seed(self.seed + number)
        changed = kind.change(self.pixels[chosen], generator)
        recognized = self._predict(changed, kind.name).argmax(1) == self.labels[chosen]
        return probes.describe(kind, chosen, changed, before=correct[chosen], after=recognized)


def _count_not_finite(model: nn.Module) -> int:
    """Return the number of parameters and buffers that are NaN or infinite."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in model.state_dict().values())
