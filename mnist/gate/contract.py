"""The contract of a model: ten finite logits of plausible size for every image, in batches of any size."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mnist import architecture, transforms
from mnist.shapes import CLASSES

IMAGES_PER_CHANGE = 200  # number of images that are inverted, darkened and brightened
MAX_LOGIT = 1e4  # largest plausible absolute value; the logits of trained networks are below 100
INVALID_LOGIT = f"a logit is not finite, or is beyond ±{MAX_LOGIT:g}"
GREY_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # grey levels of the uniform images
IMAGES_AT_ONCE = 64


def violations(model: nn.Module, pixels: Tensor, chosen: Tensor) -> Iterator[str]:
    """Yield a description of each violation, for batches of 0, 1 and 64 images and for unusual images.

    Args:
        pixels: float32 [N, 1, 28, 28] in [0, 1], on the device of the model.
        chosen: indices of the images to change, int64 [M].
    """
    images = pixels[chosen]
    grey = torch.tensor(GREY_LEVELS, device=pixels.device).view(-1, 1, 1, 1)
    for name, inputs in {
        "an empty batch": pixels[:0],
        "one image": pixels[:1],
        f"{IMAGES_AT_ONCE} images": pixels[:IMAGES_AT_ONCE],
        "uniform images": grey.expand(-1, *pixels.shape[1:]),
        "inverted images": 1 - images,
        "images of half the brightness": images / 2,
        "images brightened by half the range": (images + 0.5).clamp(max=1),
    }.items():
        logits = architecture.predict(model, transforms.normalize(inputs), IMAGES_AT_ONCE)
        if logits.dtype != torch.float32 or logits.shape != (len(inputs), CLASSES):
            yield f"for {name} the output is {str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
        elif not are_valid(logits).all():
            yield f"for {name} {INVALID_LOGIT}"


def are_valid(logits: Tensor) -> Tensor:
    """Return for each image whether all its logits, [N, 10], are finite and of plausible size, bool [N]."""
    return (logits.abs() <= MAX_LOGIT).all(1)
