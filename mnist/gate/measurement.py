"""Everything that the gate measures of a model: accuracy, robustness, calibration, gradients and latency."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import architecture, metrics, transforms
from mnist.datasets import DIGITS, Split
from mnist.gate import intervals
from mnist.gate.corruptions import CORRUPTIONS
from mnist.gate.intervals import Estimate
from mnist.metrics import Performance
from mnist.transforms import Affine

NOISE_SIGMA = 0.1  # in units of the normalized images
PIXEL_SIGMAS = (0.05, 0.1, 0.15, 0.2, 0.3)  # in units of pixels in [0, 1]
SHIFT = 2  # pixels
ROTATION = 10  # degrees

PROBED = 1_000  # images under each noise, shift, rotation and corruption
SEEN = 5_000  # training images
RISK = 0.01  # share of mistakes among the answers that are sure
ALONE = 32  # images that are also shown one by one
GRADIENT_IMAGES = 1_000
TIMINGS, TIMING_SECONDS = 50, 0.5  # of one image: so many, or until that is over
SHOWN = 4  # images kept of each probe, to be looked at

Change = Callable[[Tensor, torch.Generator], Tensor]  # of a batch of pixels


def evaluate(model: nn.Module, split: Split) -> Performance:
    """How good ``model`` is on the images of ``split``."""
    logits = predict_split(model, split)
    predictions = logits.argmax(1)
    confusion = metrics.confusion_matrix(split.labels, predictions, architecture.CLASSES)
    return Performance(
        measured_on=split.description,
        images=len(split),
        loss=F.cross_entropy(logits, split.labels).item(),
        accuracy=metrics.accuracy(split.labels, predictions),
        per_digit=tuple(metrics.per_class_accuracy(confusion).tolist()),
    )


def predict_split(model: nn.Module, split: Split) -> Tensor:
    """Logits, float32 [N, 10], on the CPU, of the images of a split."""
    device = next(model.parameters()).device
    return architecture.predict(model, transforms.prepare(split.images.to(device))).cpu()


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor | None]:
    """The gradient of the mean cross-entropy for each parameter, in the mode the model is in.

    None for a parameter that the loss does not reach.

    Args:
        images: normalized, float32 [N, 1, 28, 28].
        labels: int64 [N].
    """
    parameters = dict(model.named_parameters())
    sums: list[Tensor | None] = [None] * len(parameters)
    for batch, truth in zip(images.split(architecture.BATCH), labels.split(architecture.BATCH), strict=True):
        loss = F.cross_entropy(model(batch), truth, reduction="sum") / len(images)
        of_batch = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        sums = [new if old is None or new is None else old + new for old, new in zip(sums, of_batch, strict=True)]
    return dict(zip(parameters, sums, strict=True))


def calibrate(model: nn.Module, train: Split, seed: int) -> float:
    """From which confidence on a user's image is to be answered, so that about 1 answer of 100 is wrong.

    Found on training images, turned and resized by draws of ``seed`` as a hand or a camera does; no less than a half.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[:SEEN]
    images, labels = train.images[chosen], train.labels[chosen]
    device = next(model.parameters()).device
    moved = transforms.random_affine(transforms.to_float(images.to(device)), 15, 0, 0.1, generator)
    confidence, predictions = architecture.predict(model, transforms.normalize(moved)).cpu().softmax(1).max(1)
    return max(0.5, metrics.confidence_threshold(confidence, predictions == labels, RISK))


@dataclass(frozen=True)
class Probe:
    """Recognition of images that were changed: how many are recognized, and how many only before or only after.

    kind: noise, pixel noise, shift, rotation or corruption; strength: in the unit of its kind. sample: some of the
    changed images, uint8 [up to 4, 28, 28], to be looked at.
    """

    kind: str
    name: str
    strength: float
    images: int
    right: int
    lost: int
    gained: int
    sample: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Measurement:
    """Everything measured of one model on one split. Of a model that breaks the contract little is; the rest is empty.

    possibly_seen: images that the model may have been trained on; contract_violations: in words; bytes: of the weights
    file; latency: seconds for one image, the fastest of 50; batch_disagreement: largest change of a probability
    between an image alone and among others; classes: their names; confusion: counts, a row a true digit; seen: how many
    training images were tried, and recognized; gradient_norms: L2 norm of the loss's gradient for each parameter tensor
    (NaN where there is none), and initial_gradient_norms that of the network before training; dead_units: share of each
    layer's outputs through which nothing is learned from any image; logits: float32 [N, 10], in the order of the split.
    """

    measured_on: str
    images: int
    possibly_seen: int
    parameters: int
    bytes: int
    weights_not_finite: int
    contract_violations: tuple[str, ...]
    latency: float = math.nan
    batch_disagreement: float = math.nan
    loss: float = math.nan
    classes: tuple[str, ...] = DIGITS
    confusion: tuple[tuple[int, ...], ...] = ()
    seen: tuple[int, int] = (0, 0)
    probes: tuple[Probe, ...] = ()
    confidence_right: Estimate = field(default_factory=lambda: intervals.exact(math.nan))
    confidence_wrong: Estimate = field(default_factory=lambda: intervals.exact(math.nan))
    calibration_error: Estimate = field(default_factory=lambda: intervals.exact(math.nan))
    gradient_norms: dict[str, float] = field(default_factory=dict)
    initial_gradient_norms: dict[str, float] = field(default_factory=dict)
    dead_units: dict[str, float] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0, architecture.CLASSES), compare=False, repr=False)

    @property
    def accuracy(self) -> float:
        """Share of the images that were recognized; NaN where that could not be measured."""
        right, count = sum(row[digit] for digit, row in enumerate(self.confusion)), sum(map(sum, self.confusion))
        return right / count if count else math.nan


def measure(
    model: nn.Module,
    initial: nn.Module,
    test: Split,
    train: Split,
    *,
    bytes: int,
    possibly_seen: int = 0,
    batch_size: int = architecture.BATCH,
    seed: int = 0,
) -> Measurement:
    """Measure ``model`` on the images of ``test``. Its weights stay as they are.

    The figures are the same for any order of the images, and but for rounding for any batch size. A model that raises
    is not measured, and what it raised is a violation of the contract.

    Args:
        initial: the same network before training; it is used up.
        train: what the model was trained on, or the like, to compare with.
        bytes: size of the weights file.
        possibly_seen: how many images of ``test`` the model may have been trained on.
        seed: of the noise and the other changes.
    """
    counted = partial(
        Measurement,
        measured_on=test.description,
        images=len(test),
        possibly_seen=possibly_seen,
        classes=test.classes,
        parameters=architecture.count_parameters(model),
        bytes=bytes,
        weights_not_finite=sum(int((~tensor.isfinite()).sum()) for tensor in model.state_dict().values()),
    )
    bench = _Bench(model, test, batch_size, seed)
    try:
        if violations := list(bench.contract_violations()):
            return counted(contract_violations=tuple(violations))
        return counted(contract_violations=(), **bench.measure(initial, train))
    except Exception as error:  # whatever a model does wrong, it is measured no further
        return counted(contract_violations=(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",))


class _Bench:
    """One model, and the images to try it on, in an order that depends on nothing but the images."""

    def __init__(self, model: nn.Module, test: Split, batch_size: int, seed: int) -> None:
        self.model, self.batch_size, self.seed = model, batch_size, seed
        self.device = next(model.parameters()).device
        self.order = _canonical_order(test)
        self.pixels = transforms.to_float(test.images[self.order].to(self.device))
        self.labels = test.labels[self.order]

    def contract_violations(self) -> Iterator[str]:
        """What the model does wrong on blank, white and real images, in batches of 0, 1 and 64."""
        blank, white = torch.zeros_like(self.pixels[:1]), torch.ones_like(self.pixels[:1])
        for name, pixels in {
            "no image": self.pixels[:0],
            "one image": self.pixels[:1],
            "64 images": self.pixels[:64],
            "a blank image": blank,
            "a white image": white,
        }.items():
            logits = self._predict(pixels)
            if logits.dtype != torch.float32 or logits.shape != (len(pixels), architecture.CLASSES):
                yield f"for {name} it answers {str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
            elif not logits.isfinite().all():
                yield f"for {name} it answers with logits that are not finite"

    def measure(self, initial: nn.Module, train: Split) -> dict[str, Any]:
        """The fields of a :class:`Measurement`, of a model that keeps the contract."""
        logits = self._predict(self.pixels)
        if not_finite := int((~logits.isfinite().all(1)).sum()):
            raise ValueError(f"{not_finite:,} images get logits that are not finite")
        confidence, predictions = logits.softmax(1).max(1)
        right = predictions == self.labels
        confusion = metrics.confusion_matrix(self.labels, predictions, architecture.CLASSES)
        generator = torch.Generator().manual_seed(self.seed)
        with architecture.evaluation_mode(self.model):
            trained_gradients = self._gradients(self.model)
        return {
            "latency": self._latency(),
            "batch_disagreement": self._batch_disagreement(logits),
            "loss": F.cross_entropy(logits, self.labels).item(),
            "confusion": tuple(map(tuple, confusion.tolist())),
            "seen": self._count_recognized(train),
            "probes": tuple(self._probe(number, right, *change) for number, change in enumerate(perturbations())),
            "confidence_right": intervals.mean(confidence[right]),
            "confidence_wrong": intervals.mean(confidence[~right]),
            "calibration_error": intervals.calibration_error(confidence, right, generator),
            "gradient_norms": _norms(trained_gradients),
            "initial_gradient_norms": _norms(self._gradients(initial.to(self.device).train())),
            "dead_units": _dead_units(trained_gradients),
            "logits": logits[self.order.argsort()],
        }

    def _predict(self, pixels: Tensor) -> Tensor:
        # The statistics are made on the CPU: they use float64, which not every device has.
        return architecture.predict(self.model, transforms.normalize(pixels), self.batch_size).cpu()

    def _sample(self, count: int, offset: int = 0) -> Tensor:
        """Indices of about ``count`` images, evenly spread; others for another offset, where there are enough."""
        step = max(1, len(self.labels) // count)
        return torch.arange(offset % step, len(self.labels), step)[:count]

    def _gradients(self, model: nn.Module) -> dict[str, Tensor | None]:
        chosen = self._sample(GRADIENT_IMAGES)
        return gradients(model, transforms.normalize(self.pixels[chosen]), self.labels[chosen].to(self.device))

    def _latency(self) -> float:
        image, seconds = self.pixels[:1], [math.inf]
        end = time.perf_counter() + TIMING_SECONDS
        while len(seconds) <= TIMINGS and (started := time.perf_counter()) < end:
            self._predict(image)  # ends with the answer on the CPU: nothing is left to wait for
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _batch_disagreement(self, logits: Tensor) -> float:
        chosen = self._sample(ALONE)
        alone = torch.cat([self._predict(self.pixels[index][None]) for index in chosen])
        return (alone.softmax(1) - logits[chosen].softmax(1)).abs().max().item()

    def _count_recognized(self, split: Split) -> tuple[int, int]:
        # At random: MNIST's order has a rhythm, and every twelfth image of its training set is harder than the rest.
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))[:SEEN]
        images, labels = split.images[chosen], split.labels[chosen]
        predictions = self._predict(transforms.to_float(images.to(self.device))).argmax(1)
        return len(labels), int((predictions == labels).sum())

    def _probe(self, number: int, right: Tensor, kind: str, name: str, strength: float, change: Change) -> Probe:
        chosen = self._sample(PROBED, offset=number)
        generator = torch.Generator().manual_seed(self.seed + number)
        changed = change(self.pixels[chosen], generator)
        still_right = self._predict(changed).argmax(1) == self.labels[chosen]
        return Probe(
            kind,
            name,
            strength,
            images=len(chosen),
            right=int(still_right.sum()),
            lost=int((right[chosen] & ~still_right).sum()),
            gained=int((~right[chosen] & still_right).sum()),
            sample=(changed[:: max(1, len(chosen) // SHOWN), 0][:SHOWN].cpu().clamp(0, 1) * 255)
            .round()
            .to(torch.uint8),
        )


def _canonical_order(split: Split) -> Tensor:
    """Indices that sort images by their bytes and then their label, so that it does not matter how they came."""
    rows = torch.cat([split.images.flatten(1), split.labels[:, None].to(torch.uint8)], 1).contiguous().numpy()
    return torch.from_numpy(rows.view(f"V{rows.shape[1]}").ravel().argsort(kind="stable"))


def perturbations() -> Iterator[tuple[str, str, float, Change]]:
    """Yield the kind, name, strength and function of every perturbation that robustness is measured under."""
    yield "noise", f"noise, sigma {NOISE_SIGMA:g}", NOISE_SIGMA, _noise(NOISE_SIGMA * transforms.STD)
    for sigma in PIXEL_SIGMAS:
        yield "pixel noise", f"pixel noise, sigma {sigma:g}", sigma, _clamped(_noise(sigma))
    for name, right, down in (("right", 1, 0), ("left", -1, 0), ("down", 0, 1), ("up", 0, -1)):
        yield "shift", f"{SHIFT} pixels {name}", SHIFT, _moved(0, SHIFT * right, SHIFT * down)
    for name, sign in (("right", 1), ("left", -1)):
        yield "rotation", f"{ROTATION}° {name}", ROTATION, _moved(sign * ROTATION, 0, 0)
    for name, corruption in CORRUPTIONS.items():
        yield "corruption", name, 1, corruption


def _noise(sigma: float) -> Change:
    return lambda pixels, generator: transforms.add_gaussian_noise(pixels, sigma, generator)


def _clamped(change: Change) -> Change:
    return lambda pixels, generator: change(pixels, generator).clamp(0, 1)


def _moved(angle: float, right: float, down: float) -> Change:
    def move(pixels: Tensor, _: torch.Generator) -> Tensor:
        same = torch.ones(len(pixels))
        shift = torch.tensor([right, down], dtype=torch.float32).expand(len(pixels), 2)
        return transforms.affine(pixels, Affine(same * angle, shift, same))

    return move


def _norms(gradients: dict[str, Tensor | None]) -> dict[str, float]:
    return {name: math.nan if gradient is None else gradient.norm().item() for name, gradient in gradients.items()}


def _dead_units(gradients: dict[str, Tensor | None]) -> dict[str, float]:
    """Share of each layer's outputs whose weights have no gradient at all: the ReLU behind them is 0 on every image."""
    return {
        name: math.nan if gradient is None else (gradient.flatten(1) == 0).all(1).float().mean().item()
        for name, gradient in gradients.items()
        if gradient is None or gradient.ndim > 1
    }
