"""Test the corruptions: common properties, and the effect and strength of each."""

import itertools
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, ndimage
from strategies import generator, seeds, uint8_images
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from mnist import transforms
from mnist.gate import corruptions
from mnist.gate.corruptions import CORRUPTIONS
from mnist.transforms import Affine

DETERMINISTIC = ("brightness", "canny edges")
RANDOM = [name for name in CORRUPTIONS if name not in DETERMINISTIC]
IMAGES = 300

every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


@pytest.fixture(scope="module")
def digits(subset):
    """Return 30 images of each digit, in the order 0 to 9, 0 to 9 and so on: float32 [300, 1, 28, 28]."""
    classes = [subset.test.images[subset.test.labels == digit][:30] for digit in range(10)]
    return transforms.to_float(torch.stack(classes, 1).flatten(0, 1))


def flat(value: float, count: int = IMAGES, side: int = 28) -> torch.Tensor:
    return torch.full((count, 1, side, side), float(value))


def bumps() -> torch.Tensor:
    """Return a smooth image, [1, 1, 28, 28], without symmetry, bright near the middle only."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    peaks = ((9, 12, 1.0), (16, 11, 0.7), (14, 18, 0.5))
    return sum(height * torch.exp(-((x - across) ** 2 + (y - down) ** 2) / 6) for down, across, height in peaks).expand(
        1, 1, 28, 28
    )


def centre_and_covariance(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centre of mass of each image, [B, 2], x and y, and its covariance, [B, 2, 2], in pixels."""
    weights = (images / images.sum((1, 2, 3), keepdim=True)).flatten(1).double()
    y, x = (axis.flatten().double() for axis in torch.meshgrid(*map(torch.arange, images.shape[2:]), indexing="ij"))
    positions = torch.stack([x, y], 1)
    centre = weights @ positions
    offsets = positions - centre[:, None]
    return centre, torch.einsum("bn,bni,bnj->bij", weights, offsets, offsets)


def grow(seed: torch.Tensor, within: torch.Tensor, corners: bool) -> torch.Tensor:
    """Return the part of ``within`` that is connected to ``seed``, also diagonally if ``corners`` is True."""
    while True:
        wide, tall = (F.max_pool2d(seed, size, 1, padding) for size, padding in (((1, 3), (0, 1)), ((3, 1), (1, 0))))
        grown = (F.max_pool2d(seed, 3, 1, 1) if corners else torch.maximum(wide, tall)) * within
        if torch.equal(grown, seed):
            return seed
        seed = grown


# ---- Common properties -----------------------------------------------------------------------------------------------


def test_corruptions_are_those_of_mnist_c():
    assert ", ".join(CORRUPTIONS) == (
        "shot noise, impulse noise, glass blur, motion blur, shear, scale, rotate, brightness, translate, stripe, fog, "
        "spatter, dotted line, zigzag, canny edges"
    )
    for name, corruption in CORRUPTIONS.items():
        assert corruption is getattr(corruptions, name.replace(" ", "_"))


@every_corruption
@settings(max_examples=8)
@given(uint8_images(max_batch=3), seeds, st.booleans())
def test_corruption_returns_new_pixels(name, images, seed, transposed):
    """The input is unchanged; the result is contiguous and in [0, 1]."""
    pixels = transforms.to_float(images)
    pixels = pixels.transpose(2, 3) if transposed else pixels  # not contiguous
    before = pixels.clone()
    result = CORRUPTIONS[name](pixels, generator(seed))
    assert torch.equal(pixels, before)
    assert result.shape == pixels.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert ((result >= 0) & (result <= 1)).all()
    assert len(images) == 0 or result.data_ptr() != pixels.data_ptr()


@every_corruption
def test_corruption_accepts_images_of_any_size(name):
    for size in ((1, 1), (3, 17), (20, 31), (32, 24)):
        pixels = torch.rand(3, 1, *size, generator=generator(0))
        result = CORRUPTIONS[name](pixels, generator(1))
        assert result.shape == pixels.shape
        assert ((result >= 0) & (result <= 1)).all()


@every_corruption
def test_corruption_draws_from_the_generator_only(name, digits):
    digits, source = digits[:20], generator(0)
    first = CORRUPTIONS[name](digits, source)
    second, other = CORRUPTIONS[name](digits, generator(0)), CORRUPTIONS[name](digits, generator(1))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (name in DETERMINISTIC)
    assert torch.equal(source.get_state(), generator(0).get_state()) == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", RANDOM)
def test_corruption_draws_independently_for_each_image(name, digits):
    result = CORRUPTIONS[name](digits[:1].expand(16, -1, -1, -1), generator(0))
    assert len(result.flatten(1).unique(dim=0)) >= (5 if name == "stripe" else 16), "a stripe has only seven positions"


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "shot noise"])
def test_corruption_does_not_mix_images(name, digits):
    """Shot noise is excluded, because the number of its draws depends on the pixels."""
    alone = digits[:8].clone()
    alone[::2] = 0
    together, apart = (CORRUPTIONS[name](pixels, generator(0))[1::2] for pixels in (digits[:8], alone))
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


@every_corruption
def test_corruption_changes_every_digit(name, digits):
    result = CORRUPTIONS[name](digits, generator(0))
    assert ((result - digits).abs().amax((1, 2, 3)) > 0.2).all()


@every_corruption
def test_corruption_preserves_differences_between_digits(name, digits):
    """With the same draw, the distance of two different digits stays above a third of the original distance."""
    others = digits.roll(1, 0)
    before = (digits - others).flatten(1).norm(dim=1)
    after = (CORRUPTIONS[name](digits, generator(0)) - CORRUPTIONS[name](others, generator(0))).flatten(1).norm(dim=1)
    assert (after > before / 3).all()


# ---- Noise and blur --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_shot_noise_has_the_mean_of_a_poisson_distribution(level):
    result = corruptions.shot_noise(flat(level), generator(0))
    torch.testing.assert_close(result * 5, (result * 5).round(), rtol=0, atol=1e-6)
    rate = level * 5
    expected = sum(min(n / 5, 1) * math.exp(-rate) * rate**n / math.factorial(n) for n in range(60))
    if level == 0.1:
        assert expected == pytest.approx(level, abs=1e-4), "without clipping, the mean is the value of the pixel"
    assert result.mean().item() == pytest.approx(expected, abs=0.005)


def test_impulse_noise_changes_15_percent_of_the_pixels():
    pixels = 0.25 + torch.rand(IMAGES, 1, 28, 28, generator=generator(0)) / 2
    result = corruptions.impulse_noise(pixels, generator(1))
    black, white = result == 0, result == 1
    assert torch.equal(result[~(black | white)], pixels[~(black | white)])
    deviation = math.sqrt(pixels.numel() * 0.075 * 0.925)
    for changed in (black, white):
        assert abs(changed.sum().item() - pixels.numel() * 0.075) < 4 * deviation


def test_glass_blur_spreads_a_dot_by_at_most_its_offset():
    dot = flat(0, count=4000, side=15)
    dot[:, :, 7, 7] = 1
    result = corruptions.glass_blur(dot, generator(0))
    normal = NormalDist(0, corruptions.GLASS_OFFSET_SIGMA_PIXELS)
    shares = [1 - normal.cdf(1.5), normal.cdf(1.5) - normal.cdf(0.5), normal.cdf(0.5) - normal.cdf(-0.5)]
    offsets = torch.tensor([*shares, *shares[1::-1]])
    expected = F.pad(torch.outer(offsets, offsets), (5, 5, 5, 5))
    expected = oracle.gaussian_blur(expected[None], [9, 9], [0.7, 0.7])[0]
    torch.testing.assert_close(result.mean((0, 1)), expected, rtol=0, atol=0.01)
    beyond = torch.ones(15, 15, dtype=torch.bool)
    beyond[2:13, 2:13] = False
    assert result[:, 0, beyond].max() < 1e-3


def test_motion_blur_spreads_a_dot_into_a_line_of_seven_pixels():
    dot = flat(0, side=15)
    dot[:, :, 7, 7] = 1
    result = corruptions.motion_blur(dot, generator(0))
    torch.testing.assert_close(result.sum((1, 2, 3)), torch.ones(IMAGES))
    centre, covariance = centre_and_covariance(result)
    torch.testing.assert_close(centre, torch.full_like(centre, 7), rtol=0, atol=1e-4)
    variances, axes = torch.linalg.eigh(covariance)
    assert ((variances[:, 1] > 3) & (variances[:, 1] < 5)).all(), "seven pixels in a row have a variance of 4"
    assert (variances[:, 0] < 0.4).all()
    directions = torch.atan2(axes[:, 1, 1], axes[:, 0, 1]) % math.pi
    assert torch.histc(directions.float(), bins=6, min=0, max=math.pi).min() > IMAGES / 6 / 2


def test_motion_blur_along_the_rows_averages_seven_pixels(digits, monkeypatch):
    monkeypatch.setattr(corruptions, "_draw", lambda count, low, high, generator: torch.full((count,), low))
    blurred = corruptions.motion_blur(digits, generator(0))
    expected = F.avg_pool2d(digits, (1, 7), stride=1, padding=(0, 3))
    torch.testing.assert_close(blurred, expected, rtol=0, atol=0.01)  # pixels are rounded to 8 bits


@pytest.mark.parametrize("name", ["glass blur", "motion blur"])
def test_blur_preserves_a_white_image(name):
    inside = CORRUPTIONS[name](flat(1), generator(0))[:, :, 3:-3, 3:-3]
    torch.testing.assert_close(inside, torch.ones_like(inside))


# ---- Slow computations with the same random numbers ------------------------------------------------------------------


def slow_blur(images: np.ndarray, sigma: float, norm: int) -> np.ndarray:
    """Blur images, [B, H, W], with the pixels inside only, and normalize the weights of each output pixel."""
    weights = np.exp(np.arange(-30, 31) ** 2 / (-2 * sigma**2))

    def filtered(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
        along_columns = ndimage.correlate1d(image, weights, axis=0, mode="constant")
        return ndimage.correlate1d(along_columns, weights, axis=1, mode="constant")

    sums = [filtered(np.ones_like(image), weights**norm) ** (1 / norm) for image in images]
    return np.stack([filtered(image, weights) / total for image, total in zip(images, sums, strict=True)])


def slow_glass_blur(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    down, right = np.clip(np.round(torch.randn(2, *images.shape, generator=g).numpy() * np.float32(0.9)), -2, 2)
    moved = np.empty_like(images)
    for image, y, x in np.ndindex(images.shape):
        row, column = np.clip([y + down[image, y, x], x + right[image, y, x]], 0, 27).astype(int)
        moved[image, y, x] = images[image, row, column]
    return slow_blur(moved, 0.7, norm=1)


def slow_motion_blur(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    """The path is one pixel wide and seven pixels long."""
    blurred = []
    for image, angle in zip(images, torch.rand(len(images), generator=g).double().numpy() * math.pi, strict=True):
        kernel = np.zeros((7, 7))
        for row, column in np.ndindex(7, 7):
            along = abs((column - 3) * math.cos(angle) + (row - 3) * math.sin(angle))
            across = abs((row - 3) * math.cos(angle) - (column - 3) * math.sin(angle))
            kernel[row, column] = max(0, 1 - across) * min(1, max(0, 4 - along))
        blurred.append(ndimage.correlate(image, kernel / kernel.sum(), mode="constant"))
    return np.stack(blurred)


def slow_fog(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    fog = np.zeros_like(images)
    for cells in (2, 4, 8, 16):
        corners = torch.rand(len(images), cells + 1, cells + 1, generator=g).double().numpy()
        grid, positions = np.arange(cells + 1), np.linspace(0, cells, 28)
        points = np.stack(np.meshgrid(positions, positions, indexing="ij"), -1)
        fog += [interpolate.RegularGridInterpolator((grid, grid), each)(points) / cells for each in corners]
    fog -= fog.min((1, 2), keepdims=True)
    return (images + 0.7 * fog / fog.max((1, 2), keepdims=True)) / 1.7


def slow_spatter(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    noise = slow_blur(torch.randn(images.shape, generator=g).double().numpy(), 1.3, norm=2)
    opacity = np.interp(noise, [0.75, 1.25], [0, 1])
    return (1 - opacity) * images + opacity * 0.5


def slow_lines(images: np.ndarray, g: torch.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each pixel's position along a random line, and its signed distance from the line."""
    first, last = (0.2 + 0.6 * torch.rand(len(images), generator=g).double().numpy() for _ in range(2))
    downward = torch.rand(len(images), generator=g) < 0.5
    y, x = np.indices((28, 28)) + 0.5
    for a, b, is_downward in zip(first * 28, last * 28, downward, strict=True):
        (left, top), (right, bottom) = ((a, 0), (b, 28)) if is_downward else ((0, a), (28, b))
        length = math.hypot(right - left, bottom - top)
        across, down = (right - left) / length, (bottom - top) / length
        yield (x - left) * across + (y - top) * down, (y - top) * across - (x - left) * down


def slow_dotted_line(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    """The line has a dot every four pixels, from its start to its end and beyond."""
    lines = [
        np.min([np.hypot(along - dot, across) for dot in range(-40, 80, 4)], 0)
        for along, across in slow_lines(images, g)
    ]
    return np.maximum(images, np.clip(1.5 - np.stack(lines), 0, 1))


def slow_zigzag(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    """The line is one pixel wide, and crosses its middle every 3.5 pixels, at most three pixels away from it."""
    lines = [
        np.abs(across - np.interp(along % 7, [0, 3.5, 7], [-3, 3, -3])) / math.hypot(1, 3 * 4 / 7)
        for along, across in slow_lines(images, g)
    ]
    return np.maximum(images, np.clip(1 - np.stack(lines), 0, 1))


@pytest.mark.parametrize(
    "slow",
    [slow_glass_blur, slow_motion_blur, slow_fog, slow_spatter, slow_dotted_line, slow_zigzag],
    ids=lambda function: function.__name__,
)
def test_corruption_equals_a_slow_computation(slow):
    """Images of noise show what happens at the border, too."""
    pixels = torch.rand(6, 1, 28, 28, generator=generator(0))
    expected = slow(pixels[:, 0].double().numpy(), generator(1))
    found = CORRUPTIONS[slow.__name__.removeprefix("slow_").replace("_", " ")](pixels, generator(1))
    torch.testing.assert_close(found[:, 0].double(), torch.from_numpy(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_sobel_equals_scipy(axis):
    pixels = torch.rand(28, 28, generator=generator(0))
    expected = ndimage.sobel(pixels.numpy(), axis=1 - axis, mode="nearest") / 8
    torch.testing.assert_close(corruptions._sobel(pixels[None, None])[axis][0, 0], torch.from_numpy(expected))


# ---- Geometry and brightness -----------------------------------------------------------------------------------------


def fitted(name: str, image: torch.Tensor, values: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return which of the values was drawn for each of IMAGES corrupted copies of an image.

    Args:
        expected: the image corrupted with each of the values.
    """
    result = CORRUPTIONS[name](image.expand(IMAGES, -1, -1, -1), generator(0))
    deviations, indices = torch.cdist(result.flatten(1), expected.flatten(1), p=math.inf).min(1)
    assert deviations.max() < 0.01
    return values[indices]


def assert_fills(values: torch.Tensor, low: float, high: float) -> None:
    """Assert that the values are evenly distributed between the limits, on both sides of 0."""
    counts = torch.histc(values.abs(), bins=5, min=low, max=high)
    assert counts.sum() == len(values)
    assert counts.min() > len(values) / 5 / 2
    margin = 0.04 * (high - low)
    assert values.abs().min() < low + margin
    assert values.abs().max() > high - margin
    assert 0.35 < (values > 0).float().mean() < 0.65


def candidates(low: float, high: float, count: int = 150) -> torch.Tensor:
    """Return values between the limits, with both signs, and some outside the limits, which must not be drawn."""
    values = torch.linspace(low, high, count)
    step = values[1] - values[0]
    values = torch.cat([low - step * torch.arange(20, 0, -1), values, high + step * torch.arange(1, 21)])
    return torch.cat([-values, values])


def test_shear_slants_by_a_quarter_to_half_a_pixel_per_row():
    image, values = F.pad(bumps(), (5, 5, 0, 0)), candidates(0.25, 0.5)
    expected = [
        oracle.affine(
            image,
            angle=0.0,
            translate=[0, 0],
            scale=1.0,
            shear=[math.degrees(math.atan(value)), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        for value in values.tolist()
    ]
    assert_fills(fitted("shear", image, values, torch.cat(expected)), 0.248, 0.502)


def test_rotate_turns_by_20_to_30_degrees():
    values = candidates(20, 30)
    count = len(values)
    expected = transforms.affine(
        bumps().expand(count, -1, -1, -1), Affine(values, torch.zeros(count, 2), torch.ones(count))
    )
    assert_fills(fitted("rotate", bumps(), values, expected), 19.9, 30.1)


def test_scale_shrinks_by_its_factors():
    values = torch.linspace(0.5, 0.85, 400)
    unmoved = torch.zeros(400), torch.zeros(400, 2)
    expected = transforms.affine(bumps().expand(400, -1, -1, -1), Affine(*unmoved, values))
    factors = fitted("scale", bumps(), values, expected)
    counts = torch.histc(factors, bins=5, min=0.599, max=0.751)
    assert counts.sum() == IMAGES
    assert counts.min() > IMAGES / 5 / 2
    assert factors.min() < 0.606
    assert factors.max() > 0.744


@pytest.mark.parametrize("name", ["shear", "scale", "rotate", "translate"])
def test_geometric_corruption_fills_with_black(name):
    result = CORRUPTIONS[name](flat(1), generator(0))
    corners = result[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.amin((1, 2)) < 0.01).all()


@given(uint8_images())
def test_brightness_increases_and_clips(images):
    pixels = transforms.to_float(images)
    assert torch.equal(corruptions.brightness(pixels, generator(0)), (pixels + 0.25).clamp(max=1))


def test_translate_shifts_by_2_to_4_pixels_along_each_axis():
    pixels = F.pad(bumps(), (4, 4, 4, 4)).expand(IMAGES, -1, -1, -1)
    result = corruptions.translate(pixels, generator(0))
    torch.testing.assert_close(result.sum((1, 2, 3)), pixels.sum((1, 2, 3)), rtol=1e-3, atol=0)
    shifts = centre_and_covariance(result)[0] - centre_and_covariance(pixels)[0]
    for axis in shifts.float().unbind(1):
        assert_fills(axis, 1.99, 4.01)
    assert abs(torch.corrcoef(shifts.T)[0, 1]) < 0.2, "the shifts along the two axes are independent"


# ---- Occlusion -------------------------------------------------------------------------------------------------------


@given(seeds)
def test_stripe_inverts_six_columns_near_the_middle(seed):
    pixels = torch.rand(8, 1, 28, 28, generator=generator(seed)) * 0.4
    result = corruptions.stripe(pixels, generator(seed))
    for image, striped in zip(pixels[:, 0], result[:, 0], strict=True):
        inverted = (striped != image).all(0)
        columns = inverted.nonzero()[:, 0]
        assert len(columns) == 6
        first = columns[0].item()
        assert torch.equal(columns, torch.arange(first, first + 6))
        assert 8 <= first <= 14
        assert torch.equal(striped, torch.where(inverted, 1 - image, image))


def test_stripe_is_at_every_position_near_the_middle():
    firsts = corruptions.stripe(flat(0), generator(0))[:, 0, 0].argmax(1)
    assert sorted(set(firsts.tolist())) == list(range(8, 15))


def neighbour_correlation(images: torch.Tensor) -> float:
    pairs = torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()])
    return torch.corrcoef(pairs)[0, 1].item()


def test_fog_is_added_and_dims_the_digit(digits):
    foggy, fog = (corruptions.fog(pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    torch.testing.assert_close(foggy - fog, digits / 1.7)
    torch.testing.assert_close(fog.amin((1, 2, 3)), torch.zeros(IMAGES))
    torch.testing.assert_close(fog.amax((1, 2, 3)), torch.full((IMAGES,), 0.7 / 1.7))
    assert neighbour_correlation(fog) > 0.9, "fog is smooth"
    cells = corruptions.FOG_CELLS_PER_SIDE
    assert all(fine == 2 * coarse for coarse, fine in itertools.pairwise(cells)), "each octave doubles the frequency"


def test_spatter_covers_a_sixth_of_the_image(digits):
    """Drops cover the digit and the background alike."""
    spattered, black = (corruptions.spatter(pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    drops = black / 0.5
    torch.testing.assert_close(spattered, digits * (1 - drops) + 0.5 * drops)
    assert drops.max() == 1
    assert (drops > 0.5).float().mean().item() == pytest.approx(1 - NormalDist().cdf(1), abs=0.01)
    assert neighbour_correlation(drops) > 0.7, "drops are larger than a pixel"


# ---- Lines and edges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dotted line", "zigzag"])
def test_line_is_drawn_over_the_digit(name, digits):
    result, line = (CORRUPTIONS[name](pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    assert torch.equal(result, torch.maximum(digits, line))


def touched_sides(line: torch.Tensor, margin: int) -> torch.Tensor:
    """Return whether each line reaches both the left and right, and both the top and bottom margin: bool [B, 2]."""
    white = line[:, 0] > 0.4
    columns, rows = white.any(1), white.any(2)
    return torch.stack([lines[:, :margin].any(1) & lines[:, -margin:].any(1) for lines in (columns, rows)], 1)


def test_dotted_line_is_straight_with_separate_dots():
    line = corruptions.dotted_line(flat(0), generator(0))
    centre, covariance = centre_and_covariance(line)
    assert (centre.std(0) > 2).all(), "lines are at different positions"
    assert (torch.linalg.eigvalsh(covariance)[:, 0] < 0.6).all(), "the line is straight"
    sides = touched_sides(line, 4)
    assert sides.any(1).all()
    assert (sides.float().mean(0) > 0.35).all(), "both directions are about equally frequent"
    dots, remaining = torch.zeros(IMAGES), (line > 0.4).float()
    while remaining.any():
        first = torch.zeros_like(remaining).flatten(1).scatter(1, remaining.flatten(1).argmax(1, keepdim=True), 1)
        dot = grow(first.view_as(remaining) * remaining, remaining, corners=False)
        assert (dot.sum((1, 2, 3)) <= 9).all()
        dots += dot.amax((1, 2, 3))
        remaining = remaining - dot
    assert ((dots >= 6) & (dots <= 10)).all(), "one dot every four pixels"


def test_zigzag_is_connected_from_side_to_side():
    line = corruptions.zigzag(flat(0), generator(0))
    variances = torch.linalg.eigvalsh(centre_and_covariance(line)[1])
    assert ((variances[:, 0] > 2) & (variances[:, 0] < 5)).all(), "a triangle wave of amplitude 3 has a variance of 3"
    white = (line > 0.4).float()
    offset = torch.arange(28) - 13.5
    innermost = (white / torch.hypot(offset, offset[:, None])).flatten(1).argmax(1, keepdim=True)
    start = torch.zeros_like(white).flatten(1).scatter(1, innermost, 1).view_as(white)
    connected = grow(start, white, corners=True)
    assert touched_sides(connected, 4).any(1).all()
    assert ((connected.sum((1, 2, 3)) / white.sum((1, 2, 3))) > 0.85).all()


def square(brightness: torch.Tensor | float = 1.0) -> torch.Tensor:
    pixels = flat(0, count=1)
    pixels[..., 8:20, 8:20] = brightness
    return pixels


def test_canny_edges_of_a_square_are_its_thin_closed_outline():
    edges = corruptions.canny_edges(square(), generator(0))
    assert set(edges.unique().tolist()) == {0, 1}
    assert (edges[..., 11:17, :].sum(3) == 2).all()
    assert (edges[..., :, 11:17].sum(2) == 2).all()
    assert not edges[..., :7, :].any()
    assert not edges[..., 21:, :].any()
    assert not edges[..., :, :7].any()
    assert not edges[..., :, 21:].any()
    assert not edges[..., 10:18, 10:18].any()
    corner = torch.zeros_like(edges)
    corner[..., 0, 0] = 1
    assert grow(corner, 1 - edges, corners=False)[..., 14, 14] == 0, "the outline is closed"


def test_canny_edges_of_digits_are_thin(digits):
    edges = corruptions.canny_edges(digits, generator(0))
    assert (F.avg_pool2d(edges, 2, 1) == 1).sum() < edges.sum() * 0.002, "blocks of 2 x 2 edge pixels are rare"
    assert (edges.sum((1, 2, 3)) > 20).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_uniform_image_has_no_canny_edges(value):
    assert not corruptions.canny_edges(flat(value, count=1), generator(0)).any()


def test_canny_keeps_weak_edges_connected_to_strong_ones():
    assert not corruptions.canny_edges(square(0.25), generator(0)).any()
    brightness = torch.cat([torch.linspace(0.5, 0.25, 6), torch.full((6,), 0.25)])
    fading = corruptions.canny_edges(square(brightness[:, None]), generator(0))
    assert (fading[..., 11:19, :14].sum(3) == 1).all(), "the left edge continues where it is weak"


def test_suppress_non_maxima_equals_a_simple_computation():
    right, down = torch.randn(2, 1, 1, 14, 14, generator=generator(0))
    magnitude = F.pad(torch.hypot(right, down)[0, 0], (1, 1, 1, 1))
    expected = torch.zeros(14, 14)
    for y in range(14):
        for x in range(14):
            eighths = round(math.atan2(down[0, 0, y, x], right[0, 0, y, x]) / (math.pi / 4))
            dx, dy = round(math.cos(eighths * math.pi / 4)), round(math.sin(eighths * math.pi / 4))
            here = magnitude[y + 1, x + 1]
            if here >= magnitude[y + 1 + dy, x + 1 + dx] and here >= magnitude[y + 1 - dy, x + 1 - dx]:
                expected[y, x] = here
    assert torch.equal(corruptions.suppress_non_maxima(right, down)[0, 0], expected)


@pytest.mark.parametrize(("excess", "first_is_maximum"), [(0, False), (-5e-6, False), (5e-6, False), (1.5e-5, True)])
def test_second_of_two_nearly_equal_gradients_is_the_maximum(excess, first_is_maximum):
    """The first one is the maximum only if it exceeds the second by more than rounding errors."""
    right = torch.tensor([0.0, 0.1, 0.3 + excess, 0.3, 0.1, 0.0]).view(1, 1, 1, 6)
    for gradient in ((right, torch.zeros_like(right)), (torch.zeros_like(right).mT, right.mT)):
        found = corruptions.suppress_non_maxima(*gradient).flatten() > 0
        assert found.tolist() == [False, False, first_is_maximum, not first_is_maximum, False, False]


@settings(max_examples=15)
@given(seeds)
def test_canny_edges_follow_flips_and_transposition(seed):
    """The images are blurred noise, in which gradients are hardly ever equal."""
    noise = torch.rand(4, 1, 28, 28, generator=generator(seed))
    noise = oracle.gaussian_blur(noise, [5, 5], [0.8, 0.8])
    noise = (noise - 0.5) * 3 + 0.5
    edges = corruptions.canny_edges(noise, generator(0))
    assert edges.any()
    for transform in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        assert (corruptions.canny_edges(transform(noise), generator(0)) != transform(edges)).float().mean() < 0.005
