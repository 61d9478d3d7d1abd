"""The networks, and what they cost in parameters and multiply-accumulates."""

import threading
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist.errors import MnistError

IMAGE_SIDE = 28
CLASSES = 10


class ArchitectureError(MnistError):
    """An architecture that nobody has written."""


class Classifier(nn.Module, ABC):
    """A network that keeps the contract: prepared images in, one logit per class out.

    A subclass defines its layers and :meth:`logits`; a name in :data:`ARCHITECTURES` makes it known to every command
    and every test.
    """

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
        return self.logits(images)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """What :meth:`forward` returns, for images that are known to be right."""


class CNN(Classifier):
    """Two 3x3 convolutions, each halved by max-pooling, and two linear layers: 15,106 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(12 * 7 * 7, 24)
        self.fc2 = nn.Linear(24, CLASSES)

    def logits(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, type[Classifier]] = {"cnn": CNN}

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


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_accumulates(model: nn.Module) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image, counted while they run."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        per_output = layer.weight[0].numel()  # weights are [out, ...]: one output takes a product with all the rest
        total += per_output * output.numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            parameter = next(model.parameters())
            model(torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return total
