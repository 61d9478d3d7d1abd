"""Domain randomization: change the appearance of training images in many random ways (Tobin et al., 2017, arXiv
1703.06907), so that a network relies on the shape of a digit and not on illumination, texture or a clean background.

Every function takes pixels (float32 [B, 1, H, W] in [0, 1], white digits on black) and a generator on the CPU, and
returns new pixels of the same shape. Random parameters are drawn independently for each image, unless the
docstring says otherwise. No function imitates a corruption of :mod:`mnist.gate.corruptions`, so the corruptions
measure robustness to unseen changes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PROBABILITY = 0.5  # probability that a change is applied to an image, except for the next two changes
CONVOLUTION_PROBABILITY = 0.9
FRAGMENT_PROBABILITY = 0.6  # probability of each of the two fragments that may be pasted into an image
FRAGMENT_AREA = (0.05, 0.3)  # area of the pasted rectangle, as a fraction of the image area
MAX_FRAGMENT_SHIFT_PIXELS = 8
ERASED_AREA = (0.02, 0.2)  # area of the erased rectangle, as a fraction of the image area
MAX_ASPECT_RATIO = 3.3  # longer side of a rectangle divided by its shorter side
CURVE_LEVELS = 4  # equally spaced control points of the contrast curve: black, two levels of grey, and white
KERNEL_SIDES = (1, 3, 5)  # side lengths of the random convolution kernels, in pixels
MAX_NOISE_SIGMA = 0.3  # maximum standard deviation of the Gaussian noise


def randomize(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Apply random changes to the first images, a fraction ``share`` of all, and leave the others unchanged.

    The images must be in random order. The changed pixels may be outside [0, 1].
    """
    count = round(share * len(pixels))
    if not count:
        return pixels
    changed, unchanged = pixels[:count], pixels[count:]
    for change in (paste_fragment, paste_fragment, change_contrast, convolve, erase, invert, add_noise):
        changed = change(changed, generator)
    return torch.cat([changed, unchanged])


def paste_fragment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Paste a random rectangle of another image of the batch, transposed and shifted (pixelwise maximum).

    All images of the batch are shifted by the same number of pixels.
    """
    limit = MAX_FRAGMENT_SHIFT_PIXELS
    down, right = torch.randint(-limit, limit + 1, (2,), generator=generator).tolist()
    other = pixels.transpose(2, 3).roll((1, down, right), (0, 2, 3))
    shown = _rectangle(pixels, FRAGMENT_AREA, generator) & _chosen(pixels, generator, FRAGMENT_PROBABILITY)
    return torch.where(shown, torch.maximum(pixels, other), pixels)


def change_contrast(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Map grey levels through a random piecewise linear curve, which need not be monotonic."""
    levels = torch.rand(len(pixels), CURVE_LEVELS, generator=generator).to(pixels.device)
    position = pixels.clamp(0, 1) * (CURVE_LEVELS - 1)
    below = position.floor().clamp(max=CURVE_LEVELS - 2)
    low, high = (levels.gather(1, index.long().flatten(1)).view(pixels.shape) for index in (below, below + 1))
    curved = torch.lerp(low, high, position - below)
    return torch.where(_chosen(pixels, generator), curved, pixels)


def convolve(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each image with its convolution with a random kernel (Xu et al., 2021, arXiv 2007.13003)."""
    count, largest = len(pixels), max(KERNEL_SIDES)
    choice = torch.randint(len(KERNEL_SIDES), (count, 1, 1), generator=generator)
    sides = torch.tensor(KERNEL_SIDES)[choice]
    distance = (torch.arange(largest) - largest // 2).abs()
    inside = torch.maximum(distance, distance[:, None]) <= sides // 2
    kernels = (torch.randn(count, largest, largest, generator=generator) / sides * inside)[:, None].to(pixels.device)
    # A grouped convolution with the images as channels applies a different kernel to each image.
    convolved = F.conv2d(pixels.transpose(0, 1), kernels, padding=largest // 2, groups=count).transpose(0, 1)
    blended = torch.lerp(convolved, pixels, _uniform(pixels, 0, 1, generator))
    return torch.where(_chosen(pixels, generator, CONVOLUTION_PROBABILITY), blended, pixels)


def erase(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a random rectangle with a random grey level: random erasing (Zhong et al., 2017, arXiv 1708.04896)."""
    erased = _rectangle(pixels, ERASED_AREA, generator) & _chosen(pixels, generator)
    return torch.where(erased, _uniform(pixels, 0, 1, generator), pixels)


def invert(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Invert the image (exchange black and white)."""
    return torch.where(_chosen(pixels, generator), 1 - pixels, pixels)


def add_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of a random standard deviation."""
    sigma = _uniform(pixels, 0, MAX_NOISE_SIGMA, generator) * _chosen(pixels, generator)
    return pixels + sigma * torch.randn(pixels.shape, generator=generator).to(pixels.device)


def _uniform(pixels: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return a random number between ``low`` and ``high`` for each image, float32 [B, 1, 1, 1]."""
    return (low + (high - low) * torch.rand(len(pixels), 1, 1, 1, generator=generator)).to(pixels.device)


def _chosen(pixels: Tensor, generator: torch.Generator, probability: float = PROBABILITY) -> Tensor:
    """Decide at random for each image whether to change it; return bool [B, 1, 1, 1]."""
    return _uniform(pixels, 0, 1, generator) < probability


def _rectangle(pixels: Tensor, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return a mask of a random rectangle in each image, bool [B, 1, H, W]; parts outside the image are cut off."""
    height, width = pixels.shape[-2:]
    size = _uniform(pixels, *area, generator) * height * width
    ratio = MAX_ASPECT_RATIO ** _uniform(pixels, -1, 1, generator)
    top, left = _uniform(pixels, 0, height, generator), _uniform(pixels, 0, width, generator)
    rows = torch.arange(height, device=pixels.device)[:, None] + 0.5
    columns = torch.arange(width, device=pixels.device) + 0.5
    return ((rows - top).abs() < (size * ratio).sqrt() / 2) & ((columns - left).abs() < (size / ratio).sqrt() / 2)
