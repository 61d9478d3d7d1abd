"""The number of operations that a network needs for one image."""

import torch
from torch import Tensor, nn

from mnist.architecture import Classifier, evaluation_mode
from mnist.shapes import IMAGE_SIDE


def count_multiply_accumulates(model: Classifier) -> int:
    """Return the number of multiply-accumulates in convolutions and linear layers for all views of one image.

    Every view counts, although :meth:`Classifier.forward` computes some layers once for all views.
    """
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
            view = torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE, device=parameter.device)
            for layer in model.layers():
                view = layer(view)
    finally:
        for hook in hooks:
            hook.remove()
    return total * model.views
