"""Transforms that prepare a batch of images for a network: normalization, random affine augmentation, noise.

Every function works on a whole batch at once. Random parameters are drawn independently for each image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist.shapes import MEAN, STD


@dataclass(frozen=True)
class Affine:
    """One rotation, shift, scaling and shear for each image of a batch."""

    angle: Tensor  # float32 [B], degrees, clockwise
    translation: Tensor  # float32 [B, 2], pixels to the right and down
    scale: Tensor  # float32 [B], factors
    shear: Tensor | None = None  # float32 [B], degrees by which vertical lines slant to the left; None: no shear

    def __getitem__(self, part: slice) -> "Affine":
        """Return the parameters for a part of the batch."""
        shear = None if self.shear is None else self.shear[part]
        return Affine(self.angle[part], self.translation[part], self.scale[part], shear)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images, [B, 1, H, W] in 0..255, to float32 in [0, 1].

    Raises:
        TypeError: if the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {str(images.dtype).removeprefix('torch.')}")
    return images.float().div_(255)


def normalize(images: Tensor) -> Tensor:
    """Convert pixels in [0, 1] to the networks' input, with a mean of about 0 and a standard deviation of about 1."""
    return (images - MEAN) / STD


def denormalize(images: Tensor) -> Tensor:
    """Convert the networks' input to pixels in [0, 1]; the inverse of :func:`normalize`, up to rounding."""
    return images * STD + MEAN


def prepare(images: Tensor, moves: Affine | None = None) -> Tensor:
    """Apply the affine transforms, if any, to uint8 images [B, 1, H, W], and return them as normalized float32."""
    return normalize(affine(to_float(images), moves))


def draw_affine(
    count: int,
    rotation: float,
    translation: float,
    scaling: float,
    generator: torch.Generator,
    *,
    shear: float = 0.0,
) -> Affine | None:
    """Draw affine parameters for ``count`` images, uniformly and independently; return None if all ranges are 0.

    Args:
        rotation: largest angle in either direction, degrees.
        translation: largest shift in each of the four directions, pixels.
        scaling: largest deviation of the scale factor from 1.
        generator: source of randomness, on the CPU.
        shear: largest slant in either direction, degrees.
    """
    if not (rotation or translation or scaling or shear):
        return None
    unit = torch.rand(count, 5 if shear else 4, generator=generator) * 2 - 1
    slant = unit[:, 4] * shear if shear else None
    return Affine(unit[:, 0] * rotation, unit[:, 1:3] * translation, 1 + unit[:, 3] * scaling, slant)


def affine(images: Tensor, parameters: Affine | None) -> Tensor:
    """Shear, rotate, scale and shift each image, float32 [B, C, H, W], about its centre. None: change nothing.

    The interpolation is bilinear, and pixels outside the image count as 0, the background of MNIST. For each image, the
    result equals ``torchvision.transforms.v2.functional.affine`` with the same parameters.
    """
    if parameters is None or len(images) == 0:  # grid_sample does not accept an empty batch
        return images
    height, width = images.shape[-2:]
    angle = torch.deg2rad(parameters.angle)
    cos, sin = angle.cos() / parameters.scale, angle.sin() / parameters.scale
    slant = 0.0 if parameters.shear is None else torch.deg2rad(parameters.shear).tan()
    # grid_sample needs the inverse transform, which maps each output pixel to its source. The coordinates are in units
    # of half the width or height of the image.
    x_of_x, x_of_y = cos - sin * slant, sin + cos * slant
    right, down = parameters.translation.unbind(1)
    half_width, half_height = width / 2, height / 2
    inverse = torch.stack(
        [
            torch.stack(
                [x_of_x, x_of_y * (half_height / half_width), -(x_of_x * right + x_of_y * down) / half_width], 1
            ),
            torch.stack([-sin * (half_width / half_height), cos, (sin * right - cos * down) / half_height], 1),
        ],
        1,
    ).to(images.device)
    return F.grid_sample(
        images, affine_grid(inverse, height, width), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def affine_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Return the grid, [B, height, width, 2], that ``F.affine_grid`` computes from matrices [B, 2, 3].

    This function uses one matrix product for the whole batch, which is several times as fast.
    """
    across, down = ((torch.arange(size, device=matrices.device) * 2 + 1) / size - 1 for size in (width, height))
    pixels = across.repeat(height), down.repeat_interleave(width)
    centres = torch.stack([*pixels, torch.ones_like(pixels[0])])
    sources = centres.T @ matrices.flatten(0, 1).T  # [height * width, B * 2]
    return sources.view(height, width, len(matrices), 2).permute(2, 0, 1, 3)


def add_gaussian_noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise, drawn on the CPU, with standard deviation ``sigma`` in the units of the images."""
    return images + sigma * torch.randn(images.shape, generator=generator).to(images.device)
