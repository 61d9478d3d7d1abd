"""The networks, and their numbers of parameters and multiply-accumulates."""

import importlib
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mnist.errors import MnistError, first_line
from mnist.shapes import CLASSES, IMAGE_SIDE, STD

# For predictions. The activations of larger batches exceed the caches, and the C library returns their memory to the
# operating system after every layer.
IMAGES_PER_BATCH = 32


class ArchitectureError(MnistError):
    """Unknown architecture name."""


class Classifier(nn.Module, ABC):
    """A network that maps normalized images to one logit per class.

    A subclass defines its :meth:`layers`, which :func:`predict` may use in several threads at once. An entry in
    :data:`ARCHITECTURES` makes it available to every command and test. In evaluation mode the logits are the mean over
    copies of the image, one for each entry of ``shifts``, shifted with wrap-around (``torch.roll``).
    """

    shifts: Sequence[tuple[int, int]] = ((0, 0),)  # pixels down and to the right

    @property
    def views(self) -> int:
        """The number of shifted copies of an image in evaluation mode."""
        return len(self.shifts)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 [B, 10], for normalized images, float32 [B, 1, 28, 28]. B may be 0.

        Raises:
            TypeError: if the images are not float32.
            ValueError: if the images have another shape.
        """
        if images.dtype != torch.float32:
            raise TypeError(f"expected float32 images, got {str(images.dtype).removeprefix('torch.')}")
        if images.ndim != 4 or images.shape[1:] != (1, IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(f"expected images of shape [B, 1, {IMAGE_SIDE}, {IMAGE_SIDE}], got {list(images.shape)}")
        if self.training or self.views == 1:
            return self._logits_of_one_view(images)
        # One large batch is faster than several small ones.
        views = torch.cat([images.roll(shift, (2, 3)) for shift in self.shifts])
        return self._logits_of_one_view(views).view(self.views, images.shape[0], CLASSES).mean(0)

    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """Return the layers in the order of computation. Together with ``shifts`` they define the network."""

    def _logits_of_one_view(self, x: Tensor) -> Tensor:
        for layer in self.layers():
            x = layer(x)
        return x


class CNN(Classifier):
    """Two 3x3 convolutions, each followed by 2x2 max-pooling, and two linear layers: 15,106 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(12 * 7 * 7, 24)
        self.fc2 = nn.Linear(24, CLASSES)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)

    def layers(self) -> Sequence[nn.Module]:
        # Pool before ReLU: the same result, and ReLU is computed on a quarter of the values.
        convolutions = self.conv1, self.pool, self.relu, self.conv2, self.pool, self.relu
        return *convolutions, nn.Flatten(), self.fc1, self.relu, self.fc2


@dataclass(frozen=True)
class Conv:
    """A block of :class:`Compact`: convolution, max-pooling, batch norm, ReLU."""

    width: int  # output channels
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    pool: int = 1  # side of the max-pooling window; 1: no pooling
    norm: bool = True  # False: a bias instead of batch norm
    separable: bool = False  # depthwise and 1x1 convolution (Howard et al., 2017, arXiv 1704.04861)

    def build(self, channels: int) -> nn.Module:
        """Return the block for inputs with ``channels`` channels."""
        if self.separable:
            depthwise = nn.Conv2d(
                channels, channels, self.kernel, self.stride, self.padding, groups=channels, bias=False
            )
            conv: nn.Module = nn.Sequential(depthwise, nn.Conv2d(channels, self.width, 1, bias=not self.norm))
        else:
            conv = nn.Conv2d(channels, self.width, self.kernel, self.stride, self.padding, bias=not self.norm)
        pool = nn.MaxPool2d(self.pool) if self.pool > 1 else nn.Identity()
        norm = nn.BatchNorm2d(self.width) if self.norm else nn.Identity()
        return nn.Sequential(conv, pool, norm, nn.ReLU(inplace=True))

    def side(self, side: int) -> int:
        """Return the side of the output for inputs of side ``side``."""
        return ((side + 2 * self.padding - self.kernel) // self.stride + 1) // self.pool


class LocalContrast(nn.Module):
    """Local contrast normalization, without parameters (Jarrett et al., 2009, doi:10.1109/ICCV.2009.5459469).

    Each pixel becomes (x - mean) / sqrt(variance + epsilon), with the mean and variance of a square window around it.
    A window at the border consists of the pixels inside the image. The output has two channels: this value, and its
    absolute value, which does not depend on whether the image is inverted.
    """

    weights: Tensor

    def __init__(self, window: int = 9, epsilon: float = 0.02 / STD**2) -> None:
        """Set the side of the window, an odd number of pixels, and ``epsilon``, in squared units of the input.

        Raises:
            ValueError: if the window has no middle pixel.
        """
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"the side of the window must be odd, not {window}")
        self.window, self.epsilon = window, epsilon
        position = torch.arange(IMAGE_SIDE)
        inside = ((position[:, None] - position).abs() <= window // 2).float()
        # Not persistent: the state_dict holds what was learned.
        self.register_buffer("weights", inside / inside.sum(1, keepdim=True), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, 2, 28, 28] for images, float32 [B, 1, 28, 28]."""
        mean = self._mean(images)
        variance = (self._mean(images.square()) - mean.square()).clamp(min=0)
        contrast = (images - mean) * (variance + self.epsilon).rsqrt()
        return torch.cat([contrast, contrast.abs()], 1)

    def _mean(self, images: Tensor) -> Tensor:
        # Two matrix products are several times as fast as average pooling.
        return self.weights @ images @ self.weights.T

    def extra_repr(self) -> str:
        return f"window={self.window}, epsilon={self.epsilon:g}"


class Compact(Classifier):
    """A stack of small convolutions with batch norm, and one linear layer.

    In evaluation mode it averages the logits of the image and four copies shifted by one pixel. This test-time
    augmentation increases the accuracy without additional parameters or training.
    """

    shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

    def __init__(self, *layers: Conv, average: int = 1, local_contrast: bool = False) -> None:
        """Build the blocks in order, then average pooling with windows of side ``average``, and the linear layer.

        Args:
            local_contrast: put :class:`LocalContrast` before the first block.
        """
        super().__init__()
        self.features = nn.Sequential(LocalContrast()) if local_contrast else nn.Sequential()
        channels, side = 1 + local_contrast, IMAGE_SIDE
        for layer in layers:
            self.features.append(layer.build(channels))
            channels, side = layer.width, layer.side(side)
        self.features.append(nn.AvgPool2d(average))
        self.head = nn.Linear(channels * (side // average) ** 2, CLASSES)

    def layers(self) -> Sequence[nn.Module]:
        return *self.features, nn.Flatten(), self.head


def _separable(width: int, pool: int = 1) -> Conv:
    return Conv(width, pool=pool, separable=True)


# docs/benchmarks.md describes how each architecture was chosen, and the alternatives.
ARCHITECTURES: dict[str, Callable[[], Classifier]] = {
    "cnn": CNN,
    "fast": partial(
        Compact, Conv(16, kernel=5, stride=2, norm=False), Conv(16, padding=1, pool=2), Conv(32, padding=1)
    ),
    "compact-25k": partial(Compact, Conv(8), Conv(16, pool=2), Conv(24), Conv(32, pool=2), Conv(32)),
    "contrast-25k": partial(
        Compact, Conv(8), Conv(16, pool=2), Conv(24), Conv(32, pool=2), Conv(38), local_contrast=True
    ),
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


def register(name: str) -> None:
    """Import a class, named ``package.module:Class``, and add it to the architectures under this name.

    The current folder is searched first. Importing a module runs its code, so only pass a name that the user gave,
    never one from a file.

    Raises:
        ArchitectureError: if the class cannot be imported, or is not a Classifier with ten logits per image.
    """
    module_name, _, class_name = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        if not (isinstance(kind, type) and issubclass(kind, Classifier)):
            raise TypeError("it is not a subclass of mnist.architecture.Classifier")
        ARCHITECTURES[name] = kind
        logits = predict(build(name, torch.Generator()), torch.zeros(2, 1, IMAGE_SIDE, IMAGE_SIDE))
        if logits.shape != (2, CLASSES):
            raise TypeError(f"its output for 2 images has the shape {list(logits.shape)}, not [2, {CLASSES}]")
    except (Exception, SystemExit) as error:  # the module can raise any error, or end the program
        ARCHITECTURES.pop(name, None)
        raise ArchitectureError(f"{name} cannot be used as a network: {first_line(error)}") from error
    finally:
        sys.path.remove(folder)


def build(name: str, generator: torch.Generator) -> Classifier:
    """Build a network, with PyTorch's default initialization, using a seed drawn from ``generator``.

    Raises:
        ArchitectureError: if there is no such architecture.
    """
    if name not in ARCHITECTURES:
        hint = f"name it again: --architecture {name}" if ":" in name else f"there are: {', '.join(ARCHITECTURES)}"
        raise ArchitectureError(f"no architecture is called {name!r} ({hint})")
    seed = int(torch.randint(2**62, (), generator=generator))
    # Layers can draw only from the global generator. It is seeded for them, and its state is restored afterwards.
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name]()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and restore its mode at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def predict(model: nn.Module, images: Tensor, batch_size: int = IMAGES_PER_BATCH) -> Tensor:
    """Return logits, float32 [N, 10], for normalized images, float32 [N, 1, 28, 28], in evaluation mode.

    On the CPU, the batches of a :class:`Classifier` are distributed over as many threads as PyTorch uses, and each
    batch is computed by one thread. If all threads computed one batch, they would wait for each other in every layer.
    """

    @torch.inference_mode()  # the mode applies to the current thread only
    def predict_batch(batch: Tensor) -> Tensor:
        logits: Tensor = model(batch)
        return logits

    batches = images.split(batch_size)
    threads = torch.get_num_threads() if isinstance(model, Classifier) and images.device.type == "cpu" else 1
    with evaluation_mode(model), torch.inference_mode():
        if min(threads, len(batches)) == 1:
            return torch.cat([predict_batch(batch) for batch in batches])
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return torch.cat(list(pool.map(predict_batch, batches)))
        finally:
            torch.set_num_threads(threads)  # a part of this setting is common to all threads


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the parameters; the CPU if there are none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_accumulates(model: nn.Module) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image, over all its views."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        per_output = layer.weight[0].numel()  # the weight is [outputs, ...]
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
