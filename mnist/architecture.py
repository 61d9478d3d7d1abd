"""The network architectures: build a network by name, and compute its predictions."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mnist import views
from mnist.blocks import Conv, LocalContrast, MaxPool
from mnist.errors import MnistError
from mnist.shapes import CLASSES, IMAGE_SIDE

# Batch size for predictions. The activations of larger batches do not fit into the processor caches, and the C
# library returns their memory to the operating system after every layer.
IMAGES_PER_BATCH = 32


class ArchitectureError(MnistError):
    """Unknown architecture name, or a class that cannot be used as a network."""


class Classifier(nn.Module, ABC):
    """A network that maps normalized images to one logit per class.

    A subclass defines :meth:`layers`; :func:`predict` may run the layers in several threads at once. An entry in
    :data:`ARCHITECTURES` makes the network available to every command and test. In evaluation mode, the logits are the
    mean over one or more copies of the image, one for each of the ``shifts`` (with wrap-around, ``torch.roll``).
    """

    shifts: Sequence[tuple[int, int]] = ((0, 0),)  # (down, right) shift of each copy, in pixels

    @property
    def views(self) -> int:
        """The number of copies of each image that the network evaluates in evaluation mode."""
        return len(self.shifts)

    @property
    def is_shifted(self) -> bool:
        """True if the network evaluates anything but the unchanged image in evaluation mode."""
        return tuple(self.shifts) != ((0, 0),)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 [B, 10], for normalized images, float32 [B, 1, 28, 28]. B may be 0.

        Raises:
            TypeError: if the images are not float32.
            ValueError: if the images have the wrong shape.
        """
        if images.dtype != torch.float32:
            raise TypeError(f"expected float32 images, got {str(images.dtype).removeprefix('torch.')}")
        if images.ndim != 4 or images.shape[1:] != (1, IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(f"expected images of shape [B, 1, {IMAGE_SIDE}, {IMAGE_SIDE}], got {list(images.shape)}")
        if self.training or not self.is_shifted:
            for layer in self.layers():
                images = layer(images)
            return images
        return views.apply(self.layers(), images, self.shifts).view(self.views, images.shape[0], CLASSES).mean(0)

    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """Return the layers in order of execution. Together with ``shifts``, they define the network."""


class CNN(Classifier):
    """Two 3x3 convolutions, each followed by 2x2 max-pooling, and two linear layers: 15,106 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(12 * 7 * 7, 24)
        self.fc2 = nn.Linear(24, CLASSES)
        self.pool = MaxPool(2)
        self.relu = nn.ReLU(inplace=True)

    def layers(self) -> Sequence[nn.Module]:
        # Pool before ReLU: the same result, and ReLU is computed on a quarter of the values.
        convolutions = self.conv1, self.pool, self.relu, self.conv2, self.pool, self.relu
        return *convolutions, nn.Flatten(), self.fc1, self.relu, self.fc2


class Compact(Classifier):
    """A stack of :class:`Conv` blocks, average pooling, and one linear layer.

    In evaluation mode, the network averages the logits of the image and of four copies, each shifted by one pixel. This
    test-time augmentation increases the accuracy without additional parameters or training.
    """

    shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

    def __init__(self, *layers: Conv, average: int = 1, local_contrast: bool = False) -> None:
        """Build the network.

        Args:
            layers: the blocks, in order of execution.
            average: side of the average-pooling window, in pixels; 1: no pooling.
            local_contrast: whether to put :class:`LocalContrast` before the first block.
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


# docs/benchmarks.md (Experiments) lists the alternatives to each network and their accuracy.
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

_global_generator = threading.Lock()  # held while a thread uses PyTorch's global random generator


def build(name: str, generator: torch.Generator) -> Classifier:
    """Build a network with random weights: PyTorch's default initialization with a seed drawn from ``generator``.

    Raises:
        ArchitectureError: if there is no such architecture.
    """
    if name not in ARCHITECTURES:
        hint = f"add --architecture {name}" if ":" in name else f"available: {', '.join(ARCHITECTURES)}"
        raise ArchitectureError(f"no architecture is called {name!r} ({hint})")
    with seeded(int(torch.randint(2**62, (), generator=generator))):  # layers draw weights from the global generator
        return ARCHITECTURES[name]()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global random generator of the CPU, and restore its state at the end. Other threads wait."""
    generator = torch.default_generator  # faster than torch.manual_seed, which also seeds the generators of GPUs
    with _global_generator:
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            yield
        finally:
            generator.set_state(state)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and restore the previous mode of each of its modules at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def predict(model: nn.Module, images: Tensor, batch_size: int = IMAGES_PER_BATCH) -> Tensor:
    """Return logits, float32 [N, 10], for normalized images, float32 [N, 1, 28, 28], in evaluation mode.

    On the CPU, the batches of a :class:`Classifier` are distributed over as many threads as PyTorch uses, and each
    thread computes its own batches. If all threads shared a batch, they would wait for each other in every layer.
    """

    @torch.inference_mode()  # inference mode applies to the current thread only
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
            torch.set_num_threads(threads)  # restore it, because part of this setting is shared by all threads


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters, or the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, including frozen ones and other floating-point numbers in the ``state_dict``.

    The running statistics of batch norm are not counted.
    """
    stored = model.state_dict()
    statistics = ("running_mean", "running_var")
    buffers = [
        buffer
        for name, buffer in model.named_buffers()
        if name in stored and buffer.is_floating_point() and not name.endswith(statistics)
    ]
    return sum(tensor.numel() for tensor in (*model.parameters(), *buffers))
