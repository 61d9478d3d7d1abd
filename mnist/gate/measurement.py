"""Everything that the gate measures about a model: accuracy, robustness, backdoors, calibration, gradients, latency."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import architecture, metrics, transforms
from mnist.datasets import DIGITS, Split
from mnist.gate import gradients, intervals, probes, slices, triggers
from mnist.gate.intervals import Estimate
from mnist.gate.probes import Probe, ProbeKind
from mnist.gate.slices import Slice
from mnist.gate.triggers import TriggerEffect
from mnist.shapes import CLASSES

IMAGES_PER_PROBE = 600
IMAGES_PER_TRIGGER = 100
IMAGES_FOR_CONTRACT = 200  # inverted, darker and brighter images, whose logits must be finite
IMAGES_FOR_GRADIENTS = 1_000
SINGLE_IMAGES = 32  # evaluated alone as well, to compare with the same images in a batch
TRAINING_SAMPLE = 2_500  # training images on which the accuracy is determined
SAMPLES_PER_PROBE = 4  # changed images that are kept for the report
MAX_LOGIT = 1e4  # absolute value; those of trained networks are below 100
GREY_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of uniform images, whose logits must be finite
MIN_LATENCY_ROUNDS = 2  # over all single images
MAX_LATENCY_ROUNDS = 10
MAX_LATENCY_SECONDS = 0.5  # for all rounds together

# Quantities that cannot be measured on every kind of model.
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
    """Everything measured about one model on one split. The defaults stand for a model that violates the contract."""

    measured_on: str  # description of the split
    images: int
    possibly_seen: int | None  # images that the model may have been trained on; None: nothing is known about them
    near_duplicates: int  # images that are nearly the same as a training image
    parameters: int
    bytes: int  # size of the weights file
    weights_not_finite: int  # parameters and buffers that are NaN or infinite
    contract_violations: tuple[str, ...]  # in words
    unmeasurable: frozenset[str] = frozenset()  # what this model does not support: GRADIENTS, TRAINING_DATA
    contradicted_claims: tuple[str, ...] = ()  # of the model card, in words
    latency: float = math.nan  # seconds for the slowest of 32 single images, each the fastest of up to 10 calls
    batch_disagreement: float = math.nan  # largest difference between two probabilities of a class for the same image
    loss: float = math.nan  # mean cross-entropy
    classes: tuple[str, ...] = DIGITS
    confusion: tuple[tuple[int, ...], ...] = ()  # counts; row: true class, column: predicted class
    seen: tuple[int, int] = (0, 0)  # sampled training images: number, and number recognized
    probes: tuple[Probe, ...] = ()
    slices: tuple[Slice, ...] = ()
    triggers: tuple[TriggerEffect, ...] = ()
    confidence_right: Estimate = _NOT_MEASURED  # mean confidence of correct predictions
    confidence_wrong: Estimate = _NOT_MEASURED  # mean confidence of wrong predictions
    calibration_error: Estimate = _NOT_MEASURED
    gradient_norms: dict[str, float] = field(default_factory=dict)  # L2 norm for each parameter tensor
    initial_gradient_norms: dict[str, float] = field(default_factory=dict)  # of the network before training
    dead_units: dict[str, float] = field(default_factory=dict)  # share of each layer's outputs
    logits: Tensor = field(default_factory=lambda: torch.empty(0, CLASSES), compare=False, repr=False)  # [N, 10]

    @property
    def correct(self) -> int:
        """The number of images that were recognized."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The share of images that were recognized; NaN if it could not be measured."""
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

    The figures do not depend on the order of the images, nor, except for rounding, on the batch size. If the model
    raises an exception, that is a contract violation and nothing else is measured.

    Args:
        initial: the network before training; its buffers are changed. None if it is not a PyTorch network: then no
            gradients are measured.
        train: training images, to compare the accuracy on them with that on ``test``.
        bytes: size of the weights file.
        stored: what the file of the model stores; by default, the parameters and buffers of the network are counted.
        possibly_seen: number of images of ``test`` that the model may have been trained on; None if nothing is known
            about the training images.
        near_duplicates: number of images of ``test`` that are nearly the same as one of ``train``.
        seed: of the noise, the other random changes and the sample of ``train``.
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
        if violations := list(bench.contract_violations()):
            return measurement(contract_violations=tuple(violations))
        return measurement(contract_violations=(), **bench.measure(initial, train))
    except Exception as error:  # a model under test can raise anything
        return measurement(contract_violations=(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",))


class _Bench:
    """A model and the images to measure it on, in an order that depends only on the images."""

    def __init__(self, model: nn.Module, test: Split, batch_size: int, seed: int) -> None:
        self.model, self.batch_size, self.seed = model, batch_size, seed
        self.device = architecture.device_of(model)
        self.order = _canonical_order(test)
        self.pixels = transforms.to_float(test.images[self.order].to(self.device))
        self.labels = test.labels[self.order]

    def contract_violations(self) -> Iterator[str]:
        """Yield what is wrong with the outputs for batches of 0, 1 and 64 images, and for unusual images."""
        images = self.pixels[self._sample(IMAGES_FOR_CONTRACT)]
        grey = torch.tensor(GREY_LEVELS, device=self.device).view(-1, 1, 1, 1)
        for name, pixels in {
            "an empty batch": self.pixels[:0],
            "one image": self.pixels[:1],
            "64 images": self.pixels[:64],
            "uniform images": grey.expand(-1, *self.pixels.shape[1:]),
            "inverted images": 1 - images,
            "images of half the brightness": images / 2,
            "images brightened by half the range": (images + 0.5).clamp(max=1),
        }.items():
            logits = architecture.predict(self.model, transforms.normalize(pixels), self.batch_size)
            if logits.dtype != torch.float32 or logits.shape != (len(pixels), CLASSES):
                yield f"for {name} the output is {str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
            elif not _are_valid(logits).all():
                yield f"for {name} a logit is not finite, or is beyond ±{MAX_LOGIT:g}"

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
        latency, disagreement = self._evaluate_single_images(logits)
        return {
            "latency": latency,
            "batch_disagreement": disagreement,
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

    def _predict(self, pixels: Tensor, change: str) -> Tensor:
        """Return the logits of images with a change, on the CPU: MPS lacks float64, which the statistics need.

        Raises:
            ValueError: if a logit is not finite, or is very large.
        """
        logits = architecture.predict(self.model, transforms.normalize(pixels), self.batch_size).cpu()
        if invalid := int((~_are_valid(logits)).sum()):
            raise ValueError(
                f"for {invalid:,} of {len(logits):,} images ({change}) a logit is not finite, "
                f"or is beyond ±{MAX_LOGIT:g}"
            )
        return logits

    def _sample(self, count: int, offset: int = 0) -> Tensor:
        """Return the indices of images; see :func:`evenly_spaced`."""
        return evenly_spaced(len(self.labels), count, offset)

    def _measure_gradients(self, initial: nn.Module) -> dict[str, dict[str, float]]:
        with architecture.evaluation_mode(self.model):
            trained = self._gradients(self.model)
        return {
            "gradient_norms": gradients.norms(trained),
            "initial_gradient_norms": gradients.norms(self._gradients(initial.to(self.device).train())),
            "dead_units": gradients.dead_units(trained),
        }

    def _gradients(self, model: nn.Module) -> gradients.Gradients:
        chosen = self._sample(IMAGES_FOR_GRADIENTS)
        labels = self.labels[chosen].to(self.device)
        return gradients.compute(model, transforms.normalize(self.pixels[chosen]), labels)

    def _evaluate_single_images(self, logits: Tensor) -> tuple[float, float]:
        """Return the latency and the batch disagreement; see :class:`Measurement`.

        This follows all other measurements on the test images, to detect also answers that have changed since the first
        one.
        """
        chosen = self._sample(SINGLE_IMAGES)
        seconds = torch.full((MAX_LATENCY_ROUNDS, len(chosen)), math.inf, dtype=torch.float64)
        disagreement, end = 0.0, time.perf_counter() + MAX_LATENCY_SECONDS
        for number, in_round in enumerate(seconds):
            if number >= MIN_LATENCY_ROUNDS and time.perf_counter() > end:
                break
            for position, index in enumerate(chosen):
                started = time.perf_counter()
                alone = self._predict(self.pixels[index][None], "single")  # returns when a GPU has finished
                in_round[position] = time.perf_counter() - started
                difference = alone.softmax(1) - logits[index].softmax(0)
                disagreement = max(disagreement, difference.abs().max().item())
        return seconds.amin(0).max().item(), disagreement

    def _count_recognized(self, split: Split) -> tuple[int, int]:
        # A random sample: MNIST is not shuffled, and an evenly spaced sample can be harder than the complete set.
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))[:TRAINING_SAMPLE]
        images, labels = split.images[chosen], split.labels[chosen]
        predictions = self._predict(transforms.to_float(images.to(self.device)), "training").argmax(1)
        return len(labels), int((predictions == labels).sum())

    def _probe(self, number: int, correct: Tensor, kind: ProbeKind) -> Probe:
        chosen = self._sample(IMAGES_PER_PROBE, offset=number)
        changed = kind.change(self.pixels[chosen], torch.Generator().manual_seed(self.seed + number))
        correct_before = correct[chosen]
        correct_after = self._predict(changed, kind.name).argmax(1) == self.labels[chosen]
        sample = changed[:: max(1, len(chosen) // SAMPLES_PER_PROBE), 0][:SAMPLES_PER_PROBE].cpu()
        return Probe(
            kind.kind,
            kind.name,
            kind.strength,
            images=len(chosen),
            right=int(correct_after.sum()),
            lost=int((correct_before & ~correct_after).sum()),
            gained=int((~correct_before & correct_after).sum()),
            sample=(sample.clamp(0, 1) * 255).round().to(torch.uint8),
            chosen=chosen,
            recognized=correct_after,
        )


def evenly_spaced(total: int, count: int, offset: int = 0) -> Tensor:
    """Return ``count`` evenly spaced indices below ``total``, or all indices if there are fewer, int64 [count].

    Other offsets give other indices, until all indices have been used.
    """
    count = min(count, total)
    # The last index without an offset is total - ceil(total / count), so the largest offset reaches the end.
    return torch.arange(count) * total // count + offset % -(-total // count)


def _count_not_finite(model: nn.Module) -> int:
    """Return how many parameters and buffers are NaN or infinite."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in model.state_dict().values())


def _are_valid(logits: Tensor) -> Tensor:
    """Return whether all logits of each image are finite and of a plausible size: bool [N]."""
    return (logits.abs() <= MAX_LOGIT).all(1)


def _canonical_order(split: Split) -> Tensor:
    """Return the indices that sort images by their bytes and labels."""
    rows = torch.cat([split.images.flatten(1), split.labels[:, None].to(torch.uint8)], 1).contiguous().numpy()
    return torch.from_numpy(rows.view(f"V{rows.shape[1]}").ravel().argsort(kind="stable"))
