"""Fifteen ways to spoil a digit that leave it readable, after MNIST-C (Mu and Gilmer 2019, arXiv 1906.02337).

Written from the paper's descriptions, not from its code, and drawn afresh: figures measured with these are not figures
on MNIST-C. Everything works on a whole batch at once; each image of it has its own random draw.

Every function here takes pixels, float32 [B, 1, H, W] in [0, 1], white ink on black, and a generator on the CPU, from
which all chance comes; it returns new pixels of the same kind, and leaves those that it was given as they were.
Lengths are in pixels, and meant for images of 28 by 28.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist import transforms
from mnist.transforms import Affine

Corruption = Callable[[Tensor, torch.Generator], Tensor]

PHOTONS = 5.0  # shot noise: counts expected of a white pixel
HIT = 0.15  # impulse noise: the share of pixels that turn black or white, half of them each
JITTER, FARTHEST, GLASS_SIGMA = 0.9, 2, 0.7  # glass blur: how far off, each way, a pixel comes from; the blur after it
MOTION = 7  # motion blur: the length of the path, odd
SHEAR = 0.25, 0.5  # pixels to the side for each pixel down
SCALE = 0.6, 0.75  # factors
ROTATE = 20.0, 30.0  # degrees
BRIGHTNESS = 0.25  # what every pixel gains
TRANSLATE = 2.0, 4.0  # pixels, each way on its own
STRIPE, STRIPE_OFFSET = 6, 3  # width, and how far off the middle at most
FOG, FOG_CELLS = 0.7, (2, 4, 8, 16)  # the thickest fog, where ink is 1; the cells across an image of each octave
DROP, DROP_SIGMA, DROP_LEVEL = 0.5, 1.3, 1.0  # spatter: brightness; the blur of the noise; its deviations at a rim
DOT_RADIUS, DOT_SPACING = 1.0, 4.0
ZIGZAG_WIDTH, ZIGZAG_HEIGHT, ZIGZAG_PERIOD = 1.0, 3.0, 7.0  # the line's width, half the height of a tooth, its length
CANNY_SIGMA, CANNY_WEAK, CANNY_STRONG = 1.0, 0.05, 0.1  # slopes in brightness per pixel

CORRUPTIONS: dict[str, Corruption] = {}  # by name, in words, in the order of this module


def _corruption(function: Corruption) -> Corruption:
    """Enter a function in CORRUPTIONS, and see to what holds for all: no images, the range, the memory's layout."""

    @functools.wraps(function)
    def corrupt(pixels: Tensor, generator: torch.Generator) -> Tensor:
        return function(pixels, generator).clamp(0, 1).contiguous() if len(pixels) else pixels

    CORRUPTIONS[function.__name__.replace("_", " ")] = corrupt
    return corrupt


# ---- What they are made of -------------------------------------------------------------------------------------------


def _draw(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform between the two: float32 [count], on the CPU."""
    return low + (high - low) * torch.rand(count, generator=generator)


def _draw_either_way(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform between the two, with either sign."""
    return _draw(count, low, high, generator) * (torch.randint(0, 2, (count,), generator=generator) * 2 - 1)


def _per_image(values: Tensor, pixels: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1], where the pixels are."""
    return values.view(-1, 1, 1, 1).to(pixels.device)


def _blur(pixels: Tensor, sigma: float, norm: float = 1) -> Tensor:
    """Gaussian blur that takes nothing from outside the image.

    Norm 1 of the weights leaves a flat image as it is; norm 2 leaves independent noise its standard deviation. As two
    products with a matrix it is many times as fast as a convolution.
    """

    def weights(size: int) -> Tensor:
        places = torch.arange(size, device=pixels.device)
        return F.normalize(torch.exp((places - places[:, None]) ** 2 / (-2 * sigma**2)), p=norm, dim=1)

    height, width = pixels.shape[-2:]
    return weights(height) @ pixels @ weights(width).T


def _beside_a_line(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How far each pixel lies along a line, and how far to its right: two [B, 1, H, W].

    Each image's line runs from a random point of one side to one of the opposite side, neither near a corner.
    """
    count, _, height, width = pixels.shape
    first, last = _draw(count, 0.2, 0.8, generator), _draw(count, 0.2, 0.8, generator)
    downward = torch.rand(count, 1, 1, generator=generator) < 0.5
    ends = torch.stack([torch.zeros(count), first, torch.ones(count), last], 1).view(-1, 2, 2)  # start, end; x, y
    start, end = (torch.where(downward, ends.flip(2), ends) * torch.tensor([width, height])).unbind(1)
    across, down = (_per_image(values, pixels) for values in F.normalize(end - start).unbind(1))
    left, top = (_per_image(values, pixels) for values in start.unbind(1))
    x = torch.arange(width, device=pixels.device) + 0.5 - left
    y = (torch.arange(height, device=pixels.device) + 0.5)[:, None] - top
    return x * across + y * down, y * across - x * down


# ---- Noise and blur --------------------------------------------------------------------------------------------------


@_corruption
def shot_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Too little light: every pixel a Poisson count, of PHOTONS on average where white."""
    return torch.poisson(pixels.cpu() * PHOTONS, generator).to(pixels.device) / PHOTONS


@_corruption
def impulse_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a share of the pixels, HIT, turns black or white."""
    chance = torch.rand(pixels.shape, generator=generator).to(pixels.device)
    return pixels.masked_fill(chance < HIT, 0).masked_fill(chance < HIT / 2, 1)


@_corruption
def glass_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Seen through frosted glass: every pixel comes from somewhere near by, and the whole is blurred."""
    height, width = pixels.shape[-2:]
    jitter = (torch.randn(2, *pixels.shape, generator=generator) * JITTER).round().clamp(-FARTHEST, FARTHEST)
    down, across = jitter.long().to(pixels.device)
    rows = (torch.arange(height, device=pixels.device)[:, None] + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=pixels.device) + across).clamp(0, width - 1)
    shuffled = pixels.flatten(1).gather(1, (rows * width + columns).flatten(1))
    return _blur(shuffled.view(pixels.shape), GLASS_SIGMA)


@_corruption
def motion_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Moved while the shutter was open: the mean along a straight path of MOTION pixels, in any direction."""
    angle = _per_image(_draw(len(pixels), 0, math.pi, generator), pixels)
    x = torch.arange(MOTION, device=pixels.device) - (MOTION - 1) / 2
    y = x[:, None]
    along, beside = (x * angle.cos() + y * angle.sin()).abs(), (y * angle.cos() - x * angle.sin()).abs()
    path = (1 - beside).clamp(min=0) * (MOTION / 2 + 0.5 - along).clamp(0, 1)  # [B, 1, MOTION, MOTION]
    path = path / path.sum((2, 3), keepdim=True)
    # One channel for each image, because each has a kernel of its own.
    return F.conv2d(pixels.transpose(0, 1), path, padding=MOTION // 2, groups=len(pixels)).transpose(0, 1)


# ---- Movement and light ----------------------------------------------------------------------------------------------


@_corruption
def shear(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Slanted to the left or the right, by SHEAR; the middle row stays where it is."""
    slant = _draw_either_way(len(pixels), *SHEAR, generator) * pixels.shape[-2] / pixels.shape[-1]
    inverse = torch.eye(2, 3).repeat(len(pixels), 1, 1)
    inverse[:, 0, 1] = slant
    grid = F.affine_grid(inverse.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@_corruption
def scale(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Made smaller, by SCALE."""
    count = len(pixels)
    factor = _draw(count, *SCALE, generator)
    return transforms.affine(pixels, Affine(torch.zeros(count), torch.zeros(count, 2), factor))


@_corruption
def rotate(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turned either way, by ROTATE."""
    count = len(pixels)
    angle = _draw_either_way(count, *ROTATE, generator)
    return transforms.affine(pixels, Affine(angle, torch.zeros(count, 2), torch.ones(count)))


@_corruption
def brightness(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Overexposed: every pixel gains BRIGHTNESS. Nothing is drawn."""
    return pixels + BRIGHTNESS


@_corruption
def translate(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by TRANSLATE, up or down and to the left or the right."""
    count = len(pixels)
    shifts = _draw_either_way(2 * count, *TRANSLATE, generator).view(count, 2)
    return transforms.affine(pixels, Affine(torch.zeros(count), shifts, torch.ones(count)))


# ---- What lies in front ----------------------------------------------------------------------------------------------


@_corruption
def stripe(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Black and white change places in an upright band near the middle, STRIPE wide."""
    width = pixels.shape[-1]
    offsets = torch.randint(-STRIPE_OFFSET, STRIPE_OFFSET + 1, (len(pixels),), generator=generator)
    columns = torch.arange(width, device=pixels.device) - _per_image((width - STRIPE) // 2 + offsets, pixels)
    return torch.where((columns >= 0) & (columns < STRIPE), 1 - pixels, pixels)


@_corruption
def fog(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Clouds of up to FOG times the brightness of ink, added, and the sum brought back into [0, 1].

    The clouds are noise of four octaves, the finer the fainter, stretched over [0, 1] in every image.
    """
    clouds = torch.zeros_like(pixels)
    for cells in FOG_CELLS:
        corners = torch.rand(len(pixels), 1, cells + 1, cells + 1, generator=generator).to(pixels.device)
        clouds += F.interpolate(corners, pixels.shape[-2:], mode="bilinear", align_corners=True) / cells
    clouds -= clouds.amin((2, 3), keepdim=True)
    clouds /= clouds.amax((2, 3), keepdim=True).clamp(min=1e-6)  # an image of one pixel has nothing to stretch
    return (pixels + FOG * clouds) / (1 + FOG)


@_corruption
def spatter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Grey drops hide ink and background alike, with a soft rim."""
    noise = _blur(torch.randn(pixels.shape, generator=generator).to(pixels.device), DROP_SIGMA, norm=2)
    return torch.lerp(pixels, torch.full_like(pixels, DROP), ((noise - DROP_LEVEL) * 2 + 0.5).clamp(0, 1))


# ---- Pen strokes and outlines ----------------------------------------------------------------------------------------


@_corruption
def dotted_line(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """White dots in a straight line from side to side."""
    along, beside = _beside_a_line(pixels, generator)
    distance = torch.hypot(along - DOT_SPACING * (along / DOT_SPACING).round(), beside)
    return torch.maximum(pixels, (DOT_RADIUS + 0.5 - distance).clamp(0, 1))


@_corruption
def zigzag(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One white line from side to side, up and down like the teeth of a saw."""
    along, beside = _beside_a_line(pixels, generator)
    turns = along / ZIGZAG_PERIOD
    tooth = ZIGZAG_HEIGHT * (4 * (turns - turns.round()).abs() - 1)
    slope = 4 * ZIGZAG_HEIGHT / ZIGZAG_PERIOD
    distance = (beside - tooth).abs() / math.hypot(1, slope)
    return torch.maximum(pixels, (ZIGZAG_WIDTH / 2 + 0.5 - distance).clamp(0, 1))


@_corruption
def canny_edges(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The outline alone, 0 or 1, as Canny's detector finds it (1986, doi:10.1109/TPAMI.1986.4767851). Nothing is drawn.

    Blurred by CANNY_SIGMA; of Sobel's slopes the crests are kept that are steeper than CANNY_STRONG, and those steeper
    than CANNY_WEAK that hang together with them.
    """
    crests = suppress_non_maxima(*_slopes(_blur(pixels, CANNY_SIGMA)))
    weak, edges = (crests > CANNY_WEAK).float(), (crests > CANNY_STRONG).float()
    while True:
        grown = F.max_pool2d(edges, 3, stride=1, padding=1) * weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's slopes, to the right and down, in brightness per pixel: two [B, 1, H, W]."""
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    right, down = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    return (
        (right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]) / 8,
        (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8,
    )


def suppress_non_maxima(right: Tensor, down: Tensor) -> Tensor:
    """Return the gradient magnitude, [B, 1, H, W], set to 0 where a neighbor along the gradient is steeper."""
    height, width = right.shape[-2:]
    steepness = torch.hypot(right, down)
    padded = F.pad(steepness, (1, 1, 1, 1))
    eighth = math.tan(math.pi / 8)  # beyond 22.5 degrees, the nearest of the eight neighbours is another one
    level, upright = down.abs() <= eighth * right.abs(), right.abs() <= eighth * down.abs()
    falling = ~level & ~upright & (right * down > 0)
    crests = torch.zeros_like(steepness)
    for chosen, dy, dx in ((level, 0, 1), (upright, 1, 0), (falling, 1, 1), (~(level | upright | falling), 1, -1)):
        before = padded[..., 1 - dy : height + 1 - dy, 1 - dx : width + 1 - dx]
        after = padded[..., 1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx]
        # Of two that are equal but for rounding, the second is kept.
        highest = (steepness >= before - 1e-5) & (steepness > after + 1e-5)
        crests = torch.where(chosen & highest, steepness, crests)
    return crests
