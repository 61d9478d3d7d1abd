"""Choose the device that a network runs on."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist import architecture
from mnist.architecture import Classifier
from mnist.errors import MnistError
from mnist.shapes import CLASSES, IMAGE_SIDE


class DeviceError(MnistError):
    """Unknown device name, or a device that this machine does not have."""


def select(name: str) -> torch.device:
    """Return the named device; ``auto`` is CUDA if available, otherwise MPS if it works, otherwise the CPU.

    MPS counts as working if a small training step gives the same results as on the CPU. Some hosted machines report an
    MPS device that cannot be used, and batch norm in channels-last layout has given wrong results on MPS
    (pytorch/pytorch issue 175189). On CUDA, convolutions compute in float32 from then on, not in TensorFloat-32.

    Raises:
        DeviceError: if the name is unknown, or this machine has no such device.
    """
    device = _choose(name)
    if device.type == "cuda":
        # TensorFloat-32 has 11 significant bits: an image's logits would depend on the size of its batch.
        torch.backends.cudnn.allow_tf32 = False
    return device


def _choose(name: str) -> torch.device:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        if present["cuda"]:
            return torch.device("cuda")
        return torch.device("mps" if present["mps"] and agrees_with_cpu(torch.device("mps")) else "cpu")
    if name not in present:
        raise DeviceError(f"no device is called {name!r} (choose from: auto, {', '.join(present)})")
    if not present[name]:
        raise DeviceError(f"PyTorch finds no {name} device on this machine (use --device auto)")
    return torch.device(name)


def agrees_with_cpu(device: torch.device) -> bool:
    """Return True if one step gives the loss, gradients and batch-norm statistics of the CPU, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    model = architecture.build("fast", generator).to(memory_format=torch.channels_last)
    images, labels = torch.randn(32, 1, IMAGE_SIDE, IMAGE_SIDE, generator=generator), torch.arange(32) % CLASSES
    try:
        expected, computed = (
            _forward_backward(copy.deepcopy(model), images, labels, target) for target in ("cpu", device)
        )
    except RuntimeError:  # PyTorch raises it if the device cannot be used, or lacks an operation
        return False
    return all(torch.allclose(*pair, rtol=1e-2, atol=1e-4) for pair in zip(computed, expected, strict=True))


def _forward_backward(model: Classifier, images: Tensor, labels: Tensor, device: torch.device | str) -> list[Tensor]:
    """Run a forward and a backward pass on ``device``; return loss, gradients and buffers as float32 on the CPU."""
    model = model.to(device).train()
    loss = F.cross_entropy(model(images.to(device)), labels.to(device))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [tensor.detach().cpu().float() for tensor in (loss, *gradients, *model.buffers())]
