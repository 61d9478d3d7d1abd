"""Apply layers to shifted copies of images, without repeating the computations that the copies share.

The copies overlap, so they are windows of one larger image. A max-pooling, or a convolution without padding, maps
windows of its input to windows of its output. With stride s, it runs once for all windows whose positions differ by
multiples of s.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist.blocks import MaxPool

MIN_IMAGES = 16  # for fewer images, the additional calls of the layers take more time than they save


def apply(layers: Sequence[nn.Module], images: Tensor, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """Apply layers, in evaluation mode, to one copy of the images for each shift (with wrap-around, ``torch.roll``).

    Returns:
        The output for all images, float32 [S * B, ...]: for the first shift, then for the second, and so on.

    Args:
        images: float32 [B, C, H, W].
        shifts: (down, right) in pixels, S of them.
    """
    canvases = [_wrapped_canvas(images, shifts)]
    remaining = list(_unnest(layers))
    if len(images) >= MIN_IMAGES:
        while len(canvases) < len(shifts) and remaining and (stride := _stride(remaining[0])):
            layer = remaining.pop(0)
            canvases = [part.apply(layer, stride) for canvas in canvases for part in canvas.split(stride)]
    windows = {copy: window for canvas in canvases for copy, window in canvas.windows()}
    # One large batch is faster than several small ones.
    outputs = torch.cat([windows[copy] for copy in range(len(shifts))])
    for layer in remaining:
        outputs = layer(outputs)
    return outputs


def _wrapped_canvas(images: Tensor, shifts: Sequence[tuple[int, int]]) -> "_Canvas":
    """Return the canvas whose windows are the shifted copies of the images."""
    height, width = images.shape[2:]
    downs, rights = zip(*shifts, strict=True)
    margin = max(map(abs, [*downs, *rights]))
    wrapped = F.pad(images, [margin] * 4, mode="circular")
    rows = slice(margin - max(downs), margin - min(downs) + height)
    columns = slice(margin - max(rights), margin - min(rights) + width)
    corners = {copy: (max(downs) - down, max(rights) - right) for copy, (down, right) in enumerate(shifts)}
    return _Canvas(wrapped[:, :, rows, columns], corners)


@dataclass(frozen=True)
class _Canvas:
    """The smallest rectangle of features that contains the windows of some copies. All windows have the same size."""

    features: Tensor  # float32 [B, C, H, W]
    corners: dict[int, tuple[int, int]]  # (top, left) of each window; keyed by the index of the copy

    def split(self, stride: int) -> Iterator["_Canvas"]:
        """Yield a canvas for each group of windows whose positions differ by multiples of ``stride``."""
        groups = defaultdict(list)
        for copy, (top, left) in self.corners.items():
            groups[top % stride, left % stride].append(copy)
        for copies in groups.values():
            yield self._crop(copies)

    def apply(self, layer: nn.Module, stride: int) -> "_Canvas":
        """Apply a layer. The positions of all windows must be multiples of its stride."""
        corners = {copy: (top // stride, left // stride) for copy, (top, left) in self.corners.items()}
        return _Canvas(layer(self.features), corners)

    def windows(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each copy and its features, float32 [B, C, h, w]."""
        for copy in self.corners:
            yield copy, self._crop([copy]).features

    def _crop(self, copies: Sequence[int]) -> "_Canvas":
        tops, lefts = zip(*(self.corners[copy] for copy in copies), strict=True)
        top, left = min(tops), min(lefts)
        # The lowest window ends at the bottom of the canvas, and the rightmost one at its right side.
        bottom = self.features.shape[2] - max(top for top, _ in self.corners.values()) + max(tops)
        right = self.features.shape[3] - max(left for _, left in self.corners.values()) + max(lefts)
        corners = {copy: (self.corners[copy][0] - top, self.corners[copy][1] - left) for copy in copies}
        return _Canvas(self.features[:, :, top:bottom, left:right], corners)


def _unnest(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers, with the contents of every ``nn.Sequential`` in its place."""
    for layer in layers:
        if type(layer) is nn.Sequential:
            yield from _unnest(layer)
        else:
            yield layer


def _stride(layer: nn.Module) -> int | None:
    """Return the stride of a layer that maps windows to windows, or None for another kind of layer."""
    if type(layer) in (nn.ReLU, nn.Identity):
        return 1
    if type(layer) is nn.BatchNorm2d:
        return 1 if layer.track_running_stats else None  # None: its statistics are those of the canvas
    if type(layer) is nn.Conv2d and layer.padding == (0, 0) and layer.stride[0] == layer.stride[1]:
        return layer.stride[0]
    return layer.kernel_size if type(layer) is MaxPool else None
