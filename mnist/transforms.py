"""What happens to a batch of images on its way in: preparation, random affine augmentation, noise.

Everything works on a whole batch at once; each image of it has its own random draw.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = 0.1307, 0.3081  # of the pixels of the MNIST training images, scaled to [0, 1]


# ---- Preparation -----------------------------------------------------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W] in 0..255 to float32 of the same shape in [0, 1]."""
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {str(images.dtype).removeprefix('torch.')}")
    return images.float().div_(255)


def normalize(images: Tensor) -> Tensor:
    """Pixels in [0, 1] to what the networks expect: about mean 0 and standard deviation 1."""
    return (images - MEAN) / STD


def prepare(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W] to normalized float32 of the same shape, nothing else changed."""
    return normalize(to_float(images))


# ---- Affine ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """One rotation, shift and change of size for each image of a batch.

    angle: [B], degrees, clockwise; translation: [B, 2], pixels, right and down; scale: [B], factors. All float32.
    """

    angle: Tensor
    translation: Tensor
    scale: Tensor


def _all(draws: Tensor) -> Tensor:
    return draws


def draw_affine(
    count: int,
    rotation: float,
    translation: float,
    scaling: float,
    generator: torch.Generator,
    share: Callable[[Tensor], Tensor] = _all,
) -> Affine:
    """Draw parameters for ``count`` images, uniformly and independently.

    Args:
        rotation: angles lie within plus and minus this, in degrees.
        translation: shifts lie within plus and minus this, in pixels, each way on its own.
        scaling: factors lie within 1 plus and minus this.
        generator: where the randomness comes from, on the CPU.
        share: which of these, [count, 4], are wanted.
    """
    unit = share(torch.rand(count, 4, generator=generator)) * 2 - 1
    return Affine(unit[:, 0] * rotation, unit[:, 1:3] * translation, 1 + unit[:, 3] * scaling)


def affine(images: Tensor, parameters: Affine) -> Tensor:
    """Turn, scale and shift each image about its centre: float32 [B, C, H, W] in, the same shape out.

    Bilinear, with 0 where nothing was; on pixels in [0, 1] that is MNIST's background. Image by image this equals
    ``torchvision.transforms.v2.functional.affine`` with the same parameters and bilinear interpolation.
    """
    if len(images) == 0:
        return images  # affine_grid refuses an empty batch
    height, width = images.shape[-2:]
    angle = torch.deg2rad(parameters.angle)
    cos, sin = angle.cos() / parameters.scale, angle.sin() / parameters.scale
    right, down = parameters.translation.unbind(1)
    # Where each output pixel comes from: the inverse of "turn and scale, then shift", in units of half an image.
    half_width, half_height = width / 2, height / 2
    inverse = torch.stack(
        [
            torch.stack([cos, sin * (half_height / half_width), -(cos * right + sin * down) / half_width], 1),
            torch.stack([-sin * (half_width / half_height), cos, (sin * right - cos * down) / half_height], 1),
        ],
        1,
    ).to(images.device)
    return F.grid_sample(
        images, affine_grid(inverse, height, width), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def affine_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Return the grid of ``F.affine_grid``, [B, height, width, 2], from one matrix product for the whole batch."""
    across, down = ((torch.arange(size, device=matrices.device) * 2 + 1) / size - 1 for size in (width, height))
    pixels = across.repeat(height), down.repeat_interleave(width)
    centres = torch.stack([*pixels, torch.ones_like(pixels[0])])
    sources = centres.T @ matrices.flatten(0, 1).T  # [height * width, B * 2]
    return sources.view(height, width, len(matrices), 2).permute(2, 0, 1, 3)


def random_affine(
    pixels: Tensor,
    rotation: float,
    translation: float,
    scaling: float,
    generator: torch.Generator,
    *,
    batch: int | None = None,
    share: Callable[[Tensor], Tensor] = _all,
) -> Tensor:
    """Move each image, float32 [B, C, H, W], by a draw of its own; the same shape out.

    The strengths are those of :func:`draw_affine`, but ``translation`` is a fraction of the images' width. With all of
    them 0 the images stay as they are, bit for bit. Where the images are one process's ``share`` of a larger ``batch``,
    draws are made for all of it, so that every image is moved as a single process would move it.
    """
    if not (rotation or translation or scaling):
        return pixels
    count = len(pixels) if batch is None else batch
    return affine(pixels, draw_affine(count, rotation, translation * pixels.shape[-1], scaling, generator, share))


def augment(
    images: Tensor,
    rotation: float,
    translation: float,
    scaling: float,
    generator: torch.Generator,
    *,
    batch: int | None = None,
    share: Callable[[Tensor], Tensor] = _all,
) -> Tensor:
    """A training batch: :func:`prepare` with :func:`random_affine` in it; uint8 [B, 1, H, W] to normalized float32."""
    moved = random_affine(to_float(images), rotation, translation, scaling, generator, batch=batch, share=share)
    return normalize(moved)


# ---- Noise -----------------------------------------------------------------------------------------------------------


def add_gaussian_noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add noise of standard deviation ``sigma``, in the images' own units, drawn on the CPU for every pixel."""
    return images + sigma * torch.randn(images.shape, generator=generator).to(images.device)
