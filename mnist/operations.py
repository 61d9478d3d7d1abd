"""The number of operations that a network needs for one image."""

import torch
from torch import Tensor, nn

from mnist.architecture import evaluation_mode
from mnist.shapes import IMAGE_SIDE


def count_multiply_accumulates(model: nn.Module) -> int:
    """Return the number of multiply-accumulates in convolutions and linear layers for one image, in all its views."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        per_output = layer.weight[0].numel()  # the weight has the shape [outputs, ...]
        total += per_output * output.numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode(), evaluation_mode(model):
            parameter = next(model.parameters())
            model(torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return total
