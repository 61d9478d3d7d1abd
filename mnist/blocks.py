"""The building blocks of the compact networks: convolutions, and local contrast normalization."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnist.shapes import IMAGE_SIDE, STD


@dataclass(frozen=True)
class Conv:
    """A block of :class:`Compact`: convolution, max-pooling, batch norm, ReLU."""

    width: int  # output channels
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    pool: int = 1  # side of the max-pooling window; 1: no pooling
    norm: bool = True  # False: the convolution has a bias instead of batch norm
    separable: bool = False  # True: a depthwise and a 1x1 convolution (Howard et al., 2017, arXiv 1704.04861)

    def build(self, channels: int) -> nn.Module:
        """Return the block for inputs with ``channels`` channels."""
        if self.separable:
            depthwise = nn.Conv2d(
                channels, channels, self.kernel, self.stride, self.padding, groups=channels, bias=False
            )
            conv: nn.Module = nn.Sequential(depthwise, nn.Conv2d(channels, self.width, 1, bias=not self.norm))
        else:
            conv = nn.Conv2d(channels, self.width, self.kernel, self.stride, self.padding, bias=not self.norm)
        pool = MaxPool(self.pool) if self.pool > 1 else nn.Identity()
        norm = nn.BatchNorm2d(self.width) if self.norm else nn.Identity()
        return nn.Sequential(conv, pool, norm, nn.ReLU(inplace=True))

    def side(self, side: int) -> int:
        """Return the side length of the output, given the side length of the input."""
        return ((side + 2 * self.padding - self.kernel) // self.stride + 1) // self.pool


class MaxPool(nn.MaxPool2d):
    """Max-pooling with non-overlapping windows. With gradients disabled, several times as fast as ``nn.MaxPool2d``."""

    kernel_size: int

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, C, H // k, W // k] for images, float32 [B, C, H, W], and windows of side k."""
        if torch.is_grad_enabled():
            return nn.functional.max_pool2d(images, self.kernel_size)
        for axis in (3, 2):
            windows = images.unfold(axis, self.kernel_size, self.kernel_size)
            images = functools.reduce(torch.maximum, windows.unbind(-1))
        return images


class LocalContrast(nn.Module):
    """Local contrast normalization, without parameters (Jarrett et al., 2009, doi:10.1109/ICCV.2009.5459469).

    Each pixel becomes (x - mean) / sqrt(variance + epsilon), with the mean and variance of a square window around it.
    At the border, the window contains only the pixels inside the image. The output has two channels: this value and its
    absolute value, which does not depend on whether the image is inverted.
    """

    weights: Tensor

    def __init__(self, window: int = 9, epsilon: float = 0.02 / STD**2) -> None:
        """Build the layer.

        Args:
            window: side of the window in pixels, an odd number.
            epsilon: constant added to the variance, in squared units of the input.

        Raises:
            ValueError: if ``window`` is even.
        """
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"the side of the window must be odd, not {window}")
        self.window, self.epsilon = window, epsilon
        position = torch.arange(IMAGE_SIDE)
        inside = ((position[:, None] - position).abs() <= window // 2).float()
        # Not persistent: constants do not belong in the state_dict.
        self.register_buffer("weights", inside / inside.sum(1, keepdim=True), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the two channels, float32 [B, 2, 28, 28], for images, float32 [B, 1, 28, 28]."""
        mean = self._mean(images)
        variance = (self._mean(images.square()) - mean.square()).clamp(min=0)
        contrast = (images - mean) * (variance + self.epsilon).rsqrt()
        return torch.cat([contrast, contrast.abs()], 1)

    def _mean(self, images: Tensor) -> Tensor:
        # Two matrix products are several times as fast as average pooling.
        return self.weights @ images @ self.weights.T

    def extra_repr(self) -> str:
        return f"window={self.window}, epsilon={self.epsilon:g}"
