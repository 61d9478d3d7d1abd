"""The networks, and what they cost in parameters and multiply-accumulates."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mnist.errors import MnistError
from mnist.shapes import CLASSES as CLASSES
from mnist.shapes import IMAGE_SIDE as IMAGE_SIDE

BATCH = 100  # images at once: their activations are what measuring needs memory for


class ArchitectureError(MnistError):
    """An architecture that nobody has written."""


class Classifier(nn.Module, ABC):
    """A network that keeps the contract: prepared images in, one logit per class out.

    A subclass names its :meth:`layers`; a name in :data:`ARCHITECTURES` makes it known to every command and every test.
    In evaluation mode the logits are the mean over ``shifts``, versions of the image shifted so many pixels down and
    to the right, what leaves it at one side coming back at the other.
    """

    shifts: Sequence[tuple[int, int]] = ((0, 0),)

    @property
    def views(self) -> int:
        """How many versions of an image it looks at in evaluation mode."""
        return len(self.shifts)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 [B, 10], of normalized images, float32 [B, 1, 28, 28]. B may be 0.

        Raises:
            TypeError: the images are not float32.
            ValueError: the images are of another shape.
        """
        if images.dtype != torch.float32:
            raise TypeError(f"expected float32 images, got {str(images.dtype).removeprefix('torch.')}")
        if images.ndim != 4 or images.shape[1:] != (1, IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(f"expected images of shape [B, 1, {IMAGE_SIDE}, {IMAGE_SIDE}], got {list(images.shape)}")
        if self.training or self.views == 1:
            return self._logits_of_one_view(images)
        views = torch.cat([images.roll(shift, (2, 3)) for shift in self.shifts])  # at once: faster than in turn
        return self._logits_of_one_view(views).view(self.views, images.shape[0], CLASSES).mean(0)

    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The layers that an image passes through, one after the other: all there is to the network."""

    def _logits_of_one_view(self, x: Tensor) -> Tensor:
        for layer in self.layers():
            x = layer(x)
        return x


class CNN(Classifier):
    """Two 3x3 convolutions, each halved by max-pooling, and two linear layers: 15,106 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(12 * 7 * 7, 24)
        self.fc2 = nn.Linear(24, CLASSES)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)

    def layers(self) -> Sequence[nn.Module]:
        # ReLU and max-pooling commute: ReLU is left with a quarter of the numbers if it comes second.
        convolutions = self.conv1, self.pool, self.relu, self.conv2, self.pool, self.relu
        return *convolutions, nn.Flatten(), self.fc1, self.relu, self.fc2


@dataclass(frozen=True)
class Conv:
    """A layer of :class:`Compact`: convolution, max-pooling over ``pool`` x ``pool``, batch norm (or a bias), ReLU.

    separable: a 3x3 convolution of each channel by itself, then a 1x1 convolution that mixes them (Howard et al., 2017,
    arXiv 1704.04861): a fraction of the parameters.
    """

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    pool: int = 1
    norm: bool = True
    separable: bool = False

    def build(self, channels: int) -> nn.Module:
        """The layer, for images of so many channels."""
        if self.separable:
            each = nn.Conv2d(channels, channels, self.kernel, self.stride, self.padding, groups=channels, bias=False)
            conv: nn.Module = nn.Sequential(each, nn.Conv2d(channels, self.width, 1, bias=not self.norm))
        else:
            conv = nn.Conv2d(channels, self.width, self.kernel, self.stride, self.padding, bias=not self.norm)
        pool = nn.MaxPool2d(self.pool) if self.pool > 1 else nn.Identity()
        norm = nn.BatchNorm2d(self.width) if self.norm else nn.Identity()
        return nn.Sequential(conv, pool, norm, nn.ReLU(inplace=True))

    def side(self, side: int) -> int:
        """What is left of the images' side after it."""
        return ((side + 2 * self.padding - self.kernel) // self.stride + 1) // self.pool


class Compact(Classifier):
    """A stack of small convolutions with batch norm, and one linear layer.

    It looks at the image and the image shifted by one pixel each way: what the five agree on is right more often than
    what one says, and costs no parameter and no training.
    """

    shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

    def __init__(self, *layers: Conv, average: int = 1) -> None:
        """Build the layers in this order; ``average``: side of the blocks that are averaged before the linear layer."""
        super().__init__()
        self.features = nn.Sequential()
        channels, side = 1, IMAGE_SIDE
        for layer in layers:
            self.features.append(layer.build(channels))
            channels, side = layer.width, layer.side(side)
        self.features.append(nn.AvgPool2d(average))
        self.head = nn.Linear(channels * (side // average) ** 2, CLASSES)

    def layers(self) -> Sequence[nn.Module]:
        return *self.features, nn.Flatten(), self.head


def _separable(width: int, pool: int = 1) -> Conv:
    return Conv(width, pool=pool, separable=True)


# What each was chosen from, and by what, is in docs/benchmarks.md.
ARCHITECTURES: dict[str, Callable[[], Classifier]] = {
    "cnn": CNN,
    "fast": partial(
        Compact, Conv(16, kernel=5, stride=2, norm=False), Conv(16, padding=1, pool=2), Conv(32, padding=1)
    ),
    "compact-25k": partial(Compact, Conv(8), Conv(16, pool=2), Conv(24), Conv(32, pool=2), Conv(32)),
    "compact-10k": partial(
        Compact, Conv(8), Conv(16, pool=2), _separable(32), _separable(48, pool=2), _separable(64), average=2
    ),
    "compact-5k": partial(
        Compact, Conv(12), _separable(16, pool=2), _separable(32), _separable(32, pool=2), _separable(48), average=2
    ),
    "compact-2k": partial(
        Compact, Conv(8), _separable(12, pool=2), _separable(16), _separable(16, pool=2), _separable(24), average=2
    ),
    "compact-1k": partial(
        Compact, Conv(6), _separable(8, pool=2), _separable(10), _separable(10, pool=2), _separable(12), average=2
    ),
}

_global_generator = threading.Lock()


def build(name: str, generator: torch.Generator) -> Classifier:
    """A new network of that architecture, its weights drawn as PyTorch does by default, from ``generator`` alone.

    Raises:
        ArchitectureError: there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"no architecture is called {name!r} (there are: {', '.join(ARCHITECTURES)})")
    seed = int(torch.randint(2**62, (), generator=generator))
    # Layers draw from the global generator and know no other: seed it for them alone, then put its state back.
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name]()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and back into the mode it was in at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Logits, float32 [N, 10], of normalized images, float32 [N, 1, 28, 28], in evaluation mode."""
    with evaluation_mode(model):
        return torch.cat([model(batch) for batch in images.split(batch_size)])


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_accumulates(model: nn.Module) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image, counted while they run.

    Of a model that looks at several views of the image in evaluation mode, all of them count.
    """
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        per_output = layer.weight[0].numel()  # weights are [out, ...]: one output takes a product with all the rest
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
