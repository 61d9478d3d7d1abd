"""Gradients of the loss, which show whether every weight of a network can be trained."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES_PER_BATCH = 100  # in training mode, the gradients of a batch depend on its batch-norm statistics

Gradients = dict[str, Tensor | None]  # keyed by parameter name; None if the loss does not depend on the parameter


def compute(model: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    """Return the gradient of the mean cross-entropy for each parameter that is not frozen, in the model's current mode.

    Args:
        images: normalized, float32 [N, 1, 28, 28].
        labels: int64 [N].
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sums: list[Tensor | None] = [None] * len(parameters)
    for batch, batch_labels in zip(images.split(IMAGES_PER_BATCH), labels.split(IMAGES_PER_BATCH), strict=True):
        loss = F.cross_entropy(model(batch), batch_labels, reduction="sum") / len(images)
        of_batch = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        sums = [new if old is None or new is None else old + new for old, new in zip(sums, of_batch, strict=True)]
    return dict(zip(parameters, sums, strict=True))


def norms(gradients: Gradients) -> dict[str, float]:
    """Return the L2 norm of each parameter's gradient, or NaN if the parameter has no gradient."""
    return {name: math.nan if gradient is None else gradient.norm().item() for name, gradient in gradients.items()}


def dead_units(gradients: Gradients) -> dict[str, float]:
    """Return the share of each layer's outputs whose weights have a gradient of exactly 0.

    Usually the ReLU after such an output is 0 for every image, and the output's weights no longer change in training.
    """
    return {
        name: math.nan if gradient is None else (gradient.flatten(1) == 0).all(1).float().mean().item()
        for name, gradient in gradients.items()
        if gradient is None or gradient.ndim > 1
    }
