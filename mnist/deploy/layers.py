"""Describe the layers of a network, for the ONNX graph and for the drawing page."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnist.architecture import Classifier
from mnist.blocks import LocalContrast
from mnist.errors import MnistError

Pair = tuple[int, int]  # height and width, in pixels


class LayerError(MnistError):
    """Unsupported layer."""


@dataclass(frozen=True)
class Weight:
    """A tensor of a layer: weights, or running statistics."""

    name: str  # its key in the state_dict
    value: Tensor  # detached, on the CPU


@dataclass(frozen=True)
class Contrast:
    """Local contrast normalization; see :class:`mnist.blocks.LocalContrast`."""

    window: int  # side of the window, in pixels
    epsilon: float  # added to the variance


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution."""

    weight: Weight  # [output channels, input channels of one group, kernel height, kernel width]
    bias: Weight | None  # [output channels]
    stride: Pair
    padding: Pair  # number of zeros added above and below, and to the left and right
    dilation: Pair
    groups: int


@dataclass(frozen=True)
class MaxPooling:
    """Max-pooling of each channel, without padding."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class AveragePooling:
    """Average pooling of each channel, without padding."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class Normalization:
    """Batch normalization in evaluation mode: (x - mean) / sqrt(variance + epsilon) * scale + shift in each channel."""

    scale: Weight  # [channels], like the next three tensors
    shift: Weight
    mean: Weight
    variance: Weight
    epsilon: float


@dataclass(frozen=True)
class ReLU:
    """The maximum of 0 and the input."""


@dataclass(frozen=True)
class Flatten:
    """Reshape [B, channels, height, width] to [B, features], in row-major order."""


@dataclass(frozen=True)
class Linear:
    """A matrix product, plus a bias if there is one."""

    weight: Weight  # [outputs, inputs]
    bias: Weight | None  # [outputs]


Layer = Contrast | Convolution | MaxPooling | AveragePooling | Normalization | ReLU | Flatten | Linear


def describe(model: Classifier) -> list[Layer]:
    """Return a flat list of the layers of ``model`` in evaluation mode, in order and without identity layers.

    A subclass of a supported layer is described as that layer, even if it overrides ``forward``.

    Raises:
        LayerError: if a layer or one of its settings is not supported.
    """
    names = {module: name for name, module in model.named_modules()}
    return [_describe(layer, names) for layer in _flatten(model.layers())]


def _flatten(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        match layer:
            case nn.Sequential():
                yield from _flatten(layer)
            case nn.Identity() | nn.AvgPool2d(kernel_size=1, stride=1, padding=0, divisor_override=None):
                pass
            case _:
                yield layer


def _describe(layer: nn.Module, names: dict[nn.Module, str]) -> Layer:
    def weight(key: str) -> Weight:
        return Weight(f"{names[layer]}.{key}", getattr(layer, key).detach().cpu())

    def bias() -> Weight | None:
        return None if layer.bias is None else weight("bias")

    match layer:
        case LocalContrast():
            return Contrast(layer.window, layer.epsilon)
        case nn.Conv2d(padding=(int(), int()) as padding, padding_mode="zeros"):
            stride, dilation = _pair(layer.stride), _pair(layer.dilation)
            return Convolution(weight("weight"), bias(), stride, _pair(padding), dilation, layer.groups)
        case nn.MaxPool2d(padding=0, dilation=1, ceil_mode=False):
            return MaxPooling(_pair(layer.kernel_size), _pair(layer.stride))
        case nn.AvgPool2d(padding=0, ceil_mode=False, divisor_override=None):
            return AveragePooling(_pair(layer.kernel_size), _pair(layer.stride))
        case nn.BatchNorm2d(running_mean=Tensor(), running_var=Tensor()):
            ones, zeros = torch.ones(layer.num_features), torch.zeros(layer.num_features)
            scale = weight("weight") if layer.affine else Weight(f"{names[layer]}.weight", ones)
            shift = weight("bias") if layer.affine else Weight(f"{names[layer]}.bias", zeros)
            return Normalization(scale, shift, weight("running_mean"), weight("running_var"), layer.eps)
        case nn.ReLU():
            return ReLU()
        case nn.Flatten(start_dim=1, end_dim=-1):
            return Flatten()
        case nn.Linear():
            return Linear(weight("weight"), bias())
    raise LayerError(
        f"the ONNX file and the drawing page do not support the layer {' '.join(str(layer).split())} "
        "(add support for it in mnist/deploy/layers.py)"
    )


def _pair(size: int | tuple[int, ...]) -> Pair:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
