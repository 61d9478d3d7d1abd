"""What is measured of a model: pure functions of tensors.

Accuracies and confidences are fractions in [0, 1]. What cannot be measured (no images, a digit that does not occur) is
NaN, never a guess.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import architecture, transforms
from mnist.datasets import Split

NOISE_SIGMA = 0.1  # in units of the normalized images
GRADIENT_IMAGES = 1000
BATCH = 100  # images at once: their activations are what measuring needs memory for


@dataclass(frozen=True)
class Measurement:
    """Everything measured of one model on one split.

    per_digit: accuracy on the images of each digit; spread: the best of them less the worst; contract_violations: of
    the probes of the input/output contract; noise_cost: accuracy lost to Gaussian noise; confidence_right and _wrong:
    mean probability of the predicted digit where it is right and where it is wrong (NaN where that never happens);
    gradient_norms: L2 norm of the loss's gradient for each parameter tensor (NaN where there is none).
    """

    measured_on: str
    images: int
    parameters: int
    contract_violations: int
    loss: float
    accuracy: float
    mistakes: int
    per_digit: tuple[float, ...]
    spread: float
    noise_cost: float
    confidence_right: float
    confidence_wrong: float
    gradient_norms: dict[str, float]


def measure(model: nn.Module, split: Split, generator: torch.Generator) -> Measurement:
    """Measure ``model`` on ``split``; ``generator`` (CPU) draws the noise. The model's weights stay as they are."""
    device = next(model.parameters()).device
    images, labels = transforms.prepare(split.images.to(device)), split.labels
    # The statistics are made on the CPU: they use float64, which not every device has.
    logits = predict(model, images).cpu()
    noisy = predict(model, transforms.add_gaussian_noise(images, NOISE_SIGMA, generator)).cpu()
    predictions = logits.argmax(1)
    right = predictions == labels
    confidence = logits.softmax(1).amax(1)
    per_digit = per_class_accuracy(confusion_matrix(labels, predictions, architecture.CLASSES))
    sample = slice(None, None, max(1, len(split) // GRADIENT_IMAGES))  # spread over the split, whatever its order
    return Measurement(
        measured_on=split.description,
        images=len(split),
        parameters=architecture.count_parameters(model),
        contract_violations=contract_violations(model, images),
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=accuracy(labels, predictions),
        mistakes=int((~right).sum()),
        per_digit=tuple(per_digit.tolist()),
        spread=(per_digit.max() - per_digit.min()).item(),
        noise_cost=accuracy(labels, predictions) - accuracy(labels, noisy.argmax(1)),
        confidence_right=confidence[right].mean().item(),
        confidence_wrong=confidence[~right].mean().item(),
        gradient_norms=gradient_norms(model, images[sample], labels[sample].to(device)),
    )


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Logits, float32 [N, 10], of normalized images, float32 [N, 1, 28, 28], in evaluation mode."""
    with architecture.evaluation_mode(model):
        return torch.cat([model(batch) for batch in images.split(batch_size)])


def accuracy(labels: Tensor, predictions: Tensor) -> float:
    """Share of predictions, int64 [N], that equal their labels, int64 [N]; NaN for N = 0."""
    return (labels == predictions).float().mean().item()


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Counts, int64 [classes, classes]: row i, column j holds how many images of class i were taken for class j."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class's images that were recognized (its recall), float64 [classes]; NaN for an empty class."""
    return confusion.diag().double() / confusion.sum(1)


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """L2 norm of the gradient of the mean cross-entropy for each parameter, in evaluation mode.

    NaN for a parameter that the loss does not reach.

    Args:
        images: normalized, float32 [N, 1, 28, 28].
        labels: int64 [N].
    """
    parameters = dict(model.named_parameters())
    sums: list[Tensor | None] = [None] * len(parameters)
    with architecture.evaluation_mode(model):
        for batch, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            loss = F.cross_entropy(model(batch), truth, reduction="sum") / len(images)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            sums = [new if old is None or new is None else old + new for old, new in zip(sums, gradients, strict=True)]
    return {
        name: math.nan if gradient is None else gradient.norm().item()
        for name, gradient in zip(parameters, sums, strict=True)
    }


def contract_violations(model: nn.Module, images: Tensor) -> int:
    """How many of four probes the model fails: logits [B, 10], finite, for B = 0, 1 and 64, and row by row the same.

    Args:
        images: normalized, float32 [N, 1, 28, 28], N at least 1.
    """
    batches = [images[:0], images[:1], images[:64]]
    answers = [predict(model, batch) for batch in batches]
    answered = [
        logits.shape == (len(batch), architecture.CLASSES) and bool(logits.isfinite().all())
        for batch, logits in zip(batches, answers, strict=True)
    ]
    alike = answered[1] and answered[2] and torch.allclose(answers[1], answers[2][:1], rtol=1e-4, atol=1e-4)
    return 4 - sum([*answered, alike])
