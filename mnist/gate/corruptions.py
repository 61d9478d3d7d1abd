"""Fifteen corruptions that leave digits readable, after MNIST-C (Mu and Gilmer, 2019, arXiv 1906.02337).

They are implemented from the descriptions in the paper, so results on them cannot be compared with results on MNIST-C.

Every corruption takes pixels (float32 [B, 1, H, W] in [0, 1], white digits on black) and a generator on the CPU. It
returns new pixels of the same shape. It processes the whole batch at once, with independent random draws for each
image. Constants given in pixels are chosen for images of 28 x 28 pixels.
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

PHOTONS_PER_WHITE_PIXEL = 5.0  # expected count
IMPULSE_SHARE = 0.15  # share of the pixels that are changed; half of them turn black, half white
GLASS_OFFSET_SIGMA_PIXELS = 0.9  # standard deviation of the random offsets along each axis
GLASS_MAX_OFFSET_PIXELS = 2  # largest offset in each of the four directions
GLASS_BLUR_SIGMA_PIXELS = 0.7
MOTION_PATH_PIXELS = 7  # odd, so that the path has a middle pixel
SHEAR_PIXELS_PER_ROW = (0.25, 0.5)
SCALE_FACTORS = (0.6, 0.75)
ROTATION_RANGE_DEGREES = (20.0, 30.0)
BRIGHTNESS_INCREASE = 0.25
TRANSLATION_RANGE_PIXELS = (2.0, 4.0)  # along each axis
STRIPE_WIDTH_PIXELS = 6
STRIPE_MAX_OFFSET_PIXELS = 3  # largest offset from the middle of the image to the left or right
FOG_MAX_BRIGHTNESS = 0.7  # before the sum of image and fog is scaled back to [0, 1]
FOG_CELLS_PER_SIDE = (2, 4, 8, 16)  # number of noise cells, for each octave
SPATTER_BRIGHTNESS = 0.5
SPATTER_BLUR_SIGMA_PIXELS = 1.3
SPATTER_THRESHOLD_SIGMAS = 1.0  # drops are at pixels where the noise is above this number of standard deviations
DOT_RADIUS_PIXELS = 1.0
DOT_SPACING_PIXELS = 4.0
ZIGZAG_WIDTH_PIXELS = 1.0  # width of the line
ZIGZAG_AMPLITUDE_PIXELS = 3.0
ZIGZAG_PERIOD_PIXELS = 7.0
CANNY_BLUR_SIGMA_PIXELS = 1.0
CANNY_WEAK_GRADIENT = 0.05  # brightness per pixel
CANNY_STRONG_GRADIENT = 0.1  # brightness per pixel

CORRUPTIONS: dict[str, Corruption] = {}  # keyed by name, such as "shot noise", in the order of definition


def _corruption(function: Corruption) -> Corruption:
    """Add a function to CORRUPTIONS; make it accept an empty batch, and return contiguous pixels in [0, 1]."""

    @functools.wraps(function)
    def corrupt(pixels: Tensor, generator: torch.Generator) -> Tensor:
        return function(pixels, generator).clamp(0, 1).contiguous() if len(pixels) else pixels

    CORRUPTIONS[function.__name__.replace("_", " ")] = corrupt
    return corrupt


# ---- Shared functions ------------------------------------------------------------------------------------------------


def _draw(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return uniform random numbers between ``low`` and ``high``, float32 [count], on the CPU."""
    return low + (high - low) * torch.rand(count, generator=generator)


def _draw_signed(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return uniform random numbers between ``low`` and ``high``, each with a random sign."""
    return _draw(count, low, high, generator) * (torch.randint(0, 2, (count,), generator=generator) * 2 - 1)


def _per_image(values: Tensor, pixels: Tensor) -> Tensor:
    """Reshape values, [B], to [B, 1, 1, 1], on the device of the pixels."""
    return values.view(-1, 1, 1, 1).to(pixels.device)


def _blur(pixels: Tensor, sigma: float, norm: float = 1) -> Tensor:
    """Apply a Gaussian blur that uses only pixels inside the image.

    Args:
        norm: order of the norm by which the weights of each output pixel are normalized to 1. Order 1 leaves a uniform
            image unchanged; order 2 preserves the standard deviation of independent noise.
    """
    # Two matrix products are many times as fast as a convolution.

    def weights(size: int) -> Tensor:
        position = torch.arange(size, device=pixels.device)
        return F.normalize(torch.exp((position - position[:, None]) ** 2 / (-2 * sigma**2)), p=norm, dim=1)

    height, width = pixels.shape[-2:]
    return weights(height) @ pixels @ weights(width).T


def _line_coordinates(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return each pixel's position along a random line and its signed distance from the line, each [B, 1, H, W].

    Each line runs from a random point on one side of the image to one on the opposite side; neither point is near a
    corner.
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
    """Replace each pixel with a Poisson count of photons, as under low light."""
    photons = torch.poisson(pixels.cpu() * PHOTONS_PER_WHITE_PIXEL, generator)
    return photons.to(pixels.device) / PHOTONS_PER_WHITE_PIXEL


@_corruption
def impulse_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turn randomly chosen pixels black or white (salt-and-pepper noise)."""
    uniform = torch.rand(pixels.shape, generator=generator).to(pixels.device)
    return pixels.masked_fill(uniform < IMPULSE_SHARE, 0).masked_fill(uniform < IMPULSE_SHARE / 2, 1)


@_corruption
def glass_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Replace each pixel with a random nearby pixel, then blur, as if seen through frosted glass."""
    height, width = pixels.shape[-2:]
    offsets = (torch.randn(2, *pixels.shape, generator=generator) * GLASS_OFFSET_SIGMA_PIXELS).round()
    down, right = offsets.clamp(-GLASS_MAX_OFFSET_PIXELS, GLASS_MAX_OFFSET_PIXELS).long().to(pixels.device)
    rows = (torch.arange(height, device=pixels.device)[:, None] + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=pixels.device) + right).clamp(0, width - 1)
    shuffled = pixels.flatten(1).gather(1, (rows * width + columns).flatten(1))
    return _blur(shuffled.view(pixels.shape), GLASS_BLUR_SIGMA_PIXELS)


@_corruption
def motion_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Average along a straight path in a random direction, as if the camera had moved."""
    angle = _per_image(_draw(len(pixels), 0, math.pi, generator), pixels)
    x = torch.arange(MOTION_PATH_PIXELS, device=pixels.device) - (MOTION_PATH_PIXELS - 1) / 2
    y = x[:, None]
    along = (x * angle.cos() + y * angle.sin()).abs()
    distance = (y * angle.cos() - x * angle.sin()).abs()
    kernel = (1 - distance).clamp(min=0) * (MOTION_PATH_PIXELS / 2 + 0.5 - along).clamp(0, 1)  # [B, 1, 7, 7]
    kernel = kernel / kernel.sum((2, 3), keepdim=True)
    # A grouped convolution with the images as channels applies a different kernel to each image.
    padding = MOTION_PATH_PIXELS // 2
    return F.conv2d(pixels.transpose(0, 1), kernel, padding=padding, groups=len(pixels)).transpose(0, 1)


# ---- Geometry and brightness -----------------------------------------------------------------------------------------


@_corruption
def shear(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Slant the image to the left or right about its middle row."""
    slant = _draw_signed(len(pixels), *SHEAR_PIXELS_PER_ROW, generator) * pixels.shape[-2] / pixels.shape[-1]
    inverse = torch.eye(2, 3).repeat(len(pixels), 1, 1)
    inverse[:, 0, 1] = slant
    grid = F.affine_grid(inverse.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@_corruption
def scale(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shrink the image about its centre."""
    count = len(pixels)
    factor = _draw(count, *SCALE_FACTORS, generator)
    return transforms.affine(pixels, Affine(torch.zeros(count), torch.zeros(count, 2), factor))


@_corruption
def rotate(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate the image clockwise or counterclockwise."""
    count = len(pixels)
    angle = _draw_signed(count, *ROTATION_RANGE_DEGREES, generator)
    return transforms.affine(pixels, Affine(angle, torch.zeros(count, 2), torch.ones(count)))


@_corruption
def brightness(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Increase the brightness of every pixel by the same amount, without randomness."""
    return pixels + BRIGHTNESS_INCREASE


@_corruption
def translate(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift the image up or down, and to the left or right."""
    count = len(pixels)
    shifts = _draw_signed(2 * count, *TRANSLATION_RANGE_PIXELS, generator).view(count, 2)
    return transforms.affine(pixels, Affine(torch.zeros(count), shifts, torch.ones(count)))


# ---- Occlusion -------------------------------------------------------------------------------------------------------


@_corruption
def stripe(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Invert a vertical stripe near the middle."""
    width, limit = pixels.shape[-1], STRIPE_MAX_OFFSET_PIXELS
    offsets = torch.randint(-limit, limit + 1, (len(pixels),), generator=generator)
    left = _per_image((width - STRIPE_WIDTH_PIXELS) // 2 + offsets, pixels)
    columns = torch.arange(width, device=pixels.device) - left
    return torch.where((columns >= 0) & (columns < STRIPE_WIDTH_PIXELS), 1 - pixels, pixels)


@_corruption
def fog(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add fog, and scale the sum back to [0, 1].

    The fog is the sum of four octaves of value noise with amplitudes inversely proportional to their frequencies. It is
    scaled to the range from 0 to ``FOG_MAX_BRIGHTNESS`` in each image.
    """
    density = torch.zeros_like(pixels)
    for cells in FOG_CELLS_PER_SIDE:
        corners = torch.rand(len(pixels), 1, cells + 1, cells + 1, generator=generator).to(pixels.device)
        density += F.interpolate(corners, pixels.shape[-2:], mode="bilinear", align_corners=True) / cells
    density -= density.amin((2, 3), keepdim=True)
    density /= density.amax((2, 3), keepdim=True).clamp(min=1e-6)  # the maximum is 0 for an image of one pixel
    return (pixels + FOG_MAX_BRIGHTNESS * density) / (1 + FOG_MAX_BRIGHTNESS)


@_corruption
def spatter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Cover parts of the image with grey drops that have soft edges."""
    noise = _blur(torch.randn(pixels.shape, generator=generator).to(pixels.device), SPATTER_BLUR_SIGMA_PIXELS, norm=2)
    opacity = ((noise - SPATTER_THRESHOLD_SIGMAS) * 2 + 0.5).clamp(0, 1)
    return torch.lerp(pixels, torch.full_like(pixels, SPATTER_BRIGHTNESS), opacity)


# ---- Lines and edges -------------------------------------------------------------------------------------------------


@_corruption
def dotted_line(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a straight line of white dots from one side to the opposite side."""
    along, across = _line_coordinates(pixels, generator)
    distance = torch.hypot(along - DOT_SPACING_PIXELS * (along / DOT_SPACING_PIXELS).round(), across)
    return torch.maximum(pixels, DOT_RADIUS_PIXELS + 0.5 - distance)


@_corruption
def zigzag(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a white zigzag line from one side to the opposite side."""
    along, across = _line_coordinates(pixels, generator)
    periods = along / ZIGZAG_PERIOD_PIXELS
    triangle_wave = ZIGZAG_AMPLITUDE_PIXELS * (4 * (periods - periods.round()).abs() - 1)
    slope = 4 * ZIGZAG_AMPLITUDE_PIXELS / ZIGZAG_PERIOD_PIXELS
    distance = (across - triangle_wave).abs() / math.hypot(1, slope)
    return torch.maximum(pixels, ZIGZAG_WIDTH_PIXELS / 2 + 0.5 - distance)


@_corruption
def canny_edges(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the edges of the image as pixels of 0 and 1, without randomness.

    The steps are those of Canny (1986, doi:10.1109/TPAMI.1986.4767851): blur, gradient, non-maximum suppression, and
    hysteresis, which keeps weak edges if they are connected to a strong one.
    """
    magnitude = suppress_non_maxima(*_sobel(_blur(pixels, CANNY_BLUR_SIGMA_PIXELS)))
    weak, edges = (magnitude > CANNY_WEAK_GRADIENT).float(), (magnitude > CANNY_STRONG_GRADIENT).float()
    while True:
        grown = F.max_pool2d(edges, 3, stride=1, padding=1) * weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _sobel(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Sobel gradients to the right and down, in brightness per pixel, [B, 1, H, W] each."""
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    right, down = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    return (
        (right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]) / 8,
        (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8,
    )


def suppress_non_maxima(right: Tensor, down: Tensor) -> Tensor:
    """Return the gradient magnitude, [B, 1, H, W], set to 0 at pixels that are not a maximum along the gradient.

    A pixel is compared with the two of its eight neighbours that are nearest to the direction of the gradient.
    """
    height, width = right.shape[-2:]
    magnitude = torch.hypot(right, down)
    padded = F.pad(magnitude, (1, 1, 1, 1))
    limit = math.tan(math.pi / 8)  # half the angle between two adjacent neighbours: 22.5 degrees
    horizontal = down.abs() <= limit * right.abs()
    vertical = right.abs() <= limit * down.abs()
    falling = ~horizontal & ~vertical & (right * down > 0)
    rising = ~(horizontal | vertical | falling)
    maxima = torch.zeros_like(magnitude)
    for chosen, dy, dx in ((horizontal, 0, 1), (vertical, 1, 0), (falling, 1, 1), (rising, 1, -1)):
        before = padded[..., 1 - dy : height + 1 - dy, 1 - dx : width + 1 - dx]
        after = padded[..., 1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx]
        # If two adjacent magnitudes are equal up to rounding, only the second is a maximum.
        is_maximum = (magnitude >= before - 1e-5) & (magnitude > after + 1e-5)
        maxima = torch.where(chosen & is_maximum, magnitude, maxima)
    return maxima
