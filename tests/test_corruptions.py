import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generator, seeds, uint8_images
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from mnist import transforms
from mnist.gate import corruptions
from mnist.gate.corruptions import CORRUPTIONS
from mnist.transforms import Affine

NOTHING_DRAWN = ("brightness", "canny edges")
DRAWN = [name for name in CORRUPTIONS if name not in NOTHING_DRAWN]
MANY = 300

every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


@pytest.fixture(scope="module")
def digits(subset):
    """30 of each digit in turn, 0 to 9 and again from 0: float32 [300, 1, 28, 28]."""
    classes = [subset.test.images[subset.test.labels == digit][:30] for digit in range(10)]
    return transforms.to_float(torch.stack(classes, 1).flatten(0, 1))


def flat(value: float, count: int = MANY, side: int = 28) -> torch.Tensor:
    return torch.full((count, 1, side, side), float(value))


def bumps() -> torch.Tensor:
    """[1, 1, 28, 28]: smooth, all of it near the middle, and like no turned, slanted or smaller version of itself."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    places = ((9, 12, 1.0), (16, 11, 0.7), (14, 18, 0.5))
    return sum(
        height * torch.exp(-((x - across) ** 2 + (y - down) ** 2) / 6) for down, across, height in places
    ).expand(1, 1, 28, 28)


def centre_and_spread(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the ink of each image is, [B, 2], x and y, and its covariance, [B, 2, 2], in pixels."""
    weights = (images / images.sum((1, 2, 3), keepdim=True)).flatten(1).double()
    y, x = (axis.flatten().double() for axis in torch.meshgrid(*map(torch.arange, images.shape[2:]), indexing="ij"))
    places = torch.stack([x, y], 1)
    centre = weights @ places
    away = places - centre[:, None]
    return centre, torch.einsum("bn,bni,bnj->bij", weights, away, away)


def grow(seed: torch.Tensor, within: torch.Tensor, corners: bool) -> torch.Tensor:
    """What can be reached from ``seed`` without leaving ``within``; diagonally, too, if ``corners``."""
    while True:
        wide, tall = (F.max_pool2d(seed, size, 1, padding) for size, padding in (((1, 3), (0, 1)), ((3, 1), (1, 0))))
        grown = (F.max_pool2d(seed, 3, 1, 1) if corners else torch.maximum(wide, tall)) * within
        if torch.equal(grown, seed):
            return seed
        seed = grown


# ---- What holds for all of them --------------------------------------------------------------------------------------


def test_there_are_the_fifteen_of_mnist_c_in_order():
    assert ", ".join(CORRUPTIONS) == (
        "shot noise, impulse noise, glass blur, motion blur, shear, scale, rotate, brightness, translate, stripe, fog, "
        "spatter, dotted line, zigzag, canny edges"
    )
    for name, corruption in CORRUPTIONS.items():
        assert corruption is getattr(corruptions, name.replace(" ", "_"))


@every_corruption
@settings(max_examples=8)
@given(uint8_images(max_batch=3), seeds, st.booleans())
def test_new_pixels_come_back_and_the_given_ones_stay_as_they_were(name, images, seed, transposed):
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
def test_images_may_have_any_size(name):
    for size in ((1, 1), (3, 17), (20, 31), (32, 24)):
        pixels = torch.rand(3, 1, *size, generator=generator(0))
        result = CORRUPTIONS[name](pixels, generator(1))
        assert result.shape == pixels.shape
        assert ((result >= 0) & (result <= 1)).all()


@every_corruption
def test_chance_comes_from_the_generator_alone(name, digits):
    digits, source = digits[:20], generator(0)
    first = CORRUPTIONS[name](digits, source)
    second, other = CORRUPTIONS[name](digits, generator(0)), CORRUPTIONS[name](digits, generator(1))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (name in NOTHING_DRAWN)
    assert torch.equal(source.get_state(), generator(0).get_state()) == (name in NOTHING_DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_every_image_has_a_draw_of_its_own(name, digits):
    result = CORRUPTIONS[name](digits[:1].expand(16, -1, -1, -1), generator(0))
    assert len(result.flatten(1).unique(dim=0)) >= (5 if name == "stripe" else 16), "a stripe has seven places only"


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "shot noise"])
def test_no_image_shows_in_another(name, digits):
    """But for shot noise, which draws more or less often from the generator, as there is more or less ink."""
    alone = digits[:8].clone()
    alone[::2] = 0
    together, apart = (CORRUPTIONS[name](pixels, generator(0))[1::2] for pixels in (digits[:8], alone))
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


@every_corruption
def test_every_digit_changes(name, digits):
    result = CORRUPTIONS[name](digits, generator(0))
    assert ((result - digits).abs().amax((1, 2, 3)) > 0.2).all()


@every_corruption
def test_what_tells_digits_apart_is_not_lost(name, digits):
    """The same draw leaves two digits of different kinds at least a third as far apart as they were."""
    others = digits.roll(1, 0)
    before = (digits - others).flatten(1).norm(dim=1)
    after = (CORRUPTIONS[name](digits, generator(0)) - CORRUPTIONS[name](others, generator(0))).flatten(1).norm(dim=1)
    assert (after > before / 3).all()


# ---- Noise and blur --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_shot_noise_counts_photons_with_poissons_mean(level):
    result = corruptions.shot_noise(flat(level), generator(0))
    torch.testing.assert_close(result * 5, (result * 5).round(), rtol=0, atol=1e-6)
    rate = level * 5
    expected = sum(min(n / 5, 1) * math.exp(-rate) * rate**n / math.factorial(n) for n in range(60))
    if level == 0.1:
        assert expected == pytest.approx(level, abs=1e-4), "where white clips nothing, the mean is the pixel"
    assert result.mean().item() == pytest.approx(expected, abs=0.005)


def test_impulse_noise_turns_its_share_of_pixels_black_or_white():
    pixels = 0.25 + torch.rand(MANY, 1, 28, 28, generator=generator(0)) / 2
    result = corruptions.impulse_noise(pixels, generator(1))
    black, white = result == 0, result == 1
    assert torch.equal(result[~(black | white)], pixels[~(black | white)])
    deviation = math.sqrt(pixels.numel() * 0.075 * 0.925)
    for hit in (black, white):
        assert abs(hit.sum().item() - pixels.numel() * 0.075) < 4 * deviation


def test_glass_blur_spreads_a_dot_as_its_draws_say_and_no_farther():
    dot = flat(0, count=4000, side=15)
    dot[:, :, 7, 7] = 1
    result = corruptions.glass_blur(dot, generator(0))
    bell = NormalDist(0, corruptions.GLASS_OFFSET_SIGMA)
    shares = [1 - bell.cdf(1.5), bell.cdf(1.5) - bell.cdf(0.5), bell.cdf(0.5) - bell.cdf(-0.5)]
    jitter = torch.tensor([*shares, *shares[1::-1]])
    expected = F.pad(torch.outer(jitter, jitter), (5, 5, 5, 5))
    expected = oracle.gaussian_blur(expected[None], [9, 9], [0.7, 0.7])[0]
    torch.testing.assert_close(result.mean((0, 1)), expected, rtol=0, atol=0.01)
    beyond = torch.ones(15, 15, dtype=torch.bool)
    beyond[2:13, 2:13] = False
    assert result[:, 0, beyond].max() < 1e-3


def test_motion_blur_draws_a_dot_out_into_a_line_of_seven_pixels_in_any_direction():
    dot = flat(0, side=15)
    dot[:, :, 7, 7] = 1
    result = corruptions.motion_blur(dot, generator(0))
    torch.testing.assert_close(result.sum((1, 2, 3)), torch.ones(MANY))
    centre, spread = centre_and_spread(result)
    torch.testing.assert_close(centre, torch.full_like(centre, 7), rtol=0, atol=1e-4)
    variances, axes = torch.linalg.eigh(spread)
    assert ((variances[:, 1] > 3) & (variances[:, 1] < 5)).all(), "that of seven pixels in a row is 4"
    assert (variances[:, 0] < 0.4).all()
    directions = torch.atan2(axes[:, 1, 1], axes[:, 0, 1]) % math.pi
    assert torch.histc(directions.float(), bins=6, min=0, max=math.pi).min() > MANY / 6 / 2


@pytest.mark.parametrize("name", ["glass blur", "motion blur"])
def test_blurs_leave_what_is_all_white_white(name):
    inside = CORRUPTIONS[name](flat(1), generator(0))[:, :, 3:-3, 3:-3]
    torch.testing.assert_close(inside, torch.ones_like(inside))


# ---- Movement and light ----------------------------------------------------------------------------------------------


def fitted(name: str, image: torch.Tensor, values: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Which of the values each of MANY corrupted copies of an image was made with; ``expected`` shows all values."""
    result = CORRUPTIONS[name](image.expand(MANY, -1, -1, -1), generator(0))
    deviations, indices = torch.cdist(result.flatten(1), expected.flatten(1), p=math.inf).min(1)
    assert deviations.max() < 0.01
    return values[indices]


def assert_fills(values: torch.Tensor, low: float, high: float) -> None:
    """Evenly so, to both sides of 0."""
    counts = torch.histc(values.abs(), bins=5, min=low, max=high)
    assert counts.sum() == len(values)
    assert counts.min() > len(values) / 5 / 2
    assert 0.35 < (values > 0).float().mean() < 0.65


def candidates(low: float, high: float, count: int = 150) -> torch.Tensor:
    """Values between the two, with either sign; some are smaller and larger, for what must not be drawn."""
    values = torch.linspace(low, high, count)
    step = values[1] - values[0]
    values = torch.cat([low - step * torch.arange(20, 0, -1), values, high + step * torch.arange(1, 21)])
    return torch.cat([-values, values])


def test_shear_slants_by_a_quarter_to_half_a_pixel_for_each_row():
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


def test_rotate_turns_by_20_to_30_degrees_either_way():
    values = candidates(20, 30)
    count = len(values)
    expected = transforms.affine(
        bumps().expand(count, -1, -1, -1), Affine(values, torch.zeros(count, 2), torch.ones(count))
    )
    assert_fills(fitted("rotate", bumps(), values, expected), 19.9, 30.1)


def test_scale_makes_images_smaller_by_its_factors():
    values = torch.linspace(0.5, 0.85, 400)
    unmoved = torch.zeros(400), torch.zeros(400, 2)
    expected = transforms.affine(bumps().expand(400, -1, -1, -1), Affine(*unmoved, values))
    factors = fitted("scale", bumps(), values, expected)
    counts = torch.histc(factors, bins=5, min=0.599, max=0.751)
    assert counts.sum() == MANY
    assert counts.min() > MANY / 5 / 2


@pytest.mark.parametrize("name", ["shear", "scale", "rotate", "translate"])
def test_what_moves_in_from_outside_is_black(name):
    result = CORRUPTIONS[name](flat(1), generator(0))
    corners = result[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.amin((1, 2)) < 0.01).all()


@given(uint8_images())
def test_brightness_adds_up_to_white(images):
    pixels = transforms.to_float(images)
    assert torch.equal(corruptions.brightness(pixels, generator(0)), (pixels + 0.25).clamp(max=1))


def test_translate_shifts_all_ink_by_2_to_4_pixels_each_way():
    pixels = F.pad(bumps(), (4, 4, 4, 4)).expand(MANY, -1, -1, -1)
    result = corruptions.translate(pixels, generator(0))
    torch.testing.assert_close(result.sum((1, 2, 3)), pixels.sum((1, 2, 3)), rtol=1e-3, atol=0)
    shifts = centre_and_spread(result)[0] - centre_and_spread(pixels)[0]
    for axis in shifts.float().unbind(1):
        assert_fills(axis, 1.99, 4.01)
    assert abs(torch.corrcoef(shifts.T)[0, 1]) < 0.2, "the two ways are drawn independently"


# ---- What lies in front ----------------------------------------------------------------------------------------------


@given(seeds)
def test_a_stripe_inverts_six_columns_near_the_middle_from_top_to_bottom(seed):
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


def neighbours_correlation(images: torch.Tensor) -> float:
    pairs = torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()])
    return torch.corrcoef(pairs)[0, 1].item()


def test_fog_adds_clouds_and_dims_what_it_hides(digits):
    foggy, clouds = (corruptions.fog(pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    torch.testing.assert_close(foggy - clouds, digits / 1.7)
    torch.testing.assert_close(clouds.amin((1, 2, 3)), torch.zeros(MANY))
    torch.testing.assert_close(clouds.amax((1, 2, 3)), torch.full((MANY,), 0.7 / 1.7))
    assert neighbours_correlation(clouds) > 0.9, "clouds are smooth"


def test_spatter_hides_a_sixth_of_ink_and_background_behind_the_same_grey_drops(digits):
    spattered, black = (corruptions.spatter(pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    drops = black / 0.5
    torch.testing.assert_close(spattered, digits * (1 - drops) + 0.5 * drops)
    assert drops.max() == 1
    assert (drops > 0.5).float().mean().item() == pytest.approx(1 - NormalDist().cdf(1), abs=0.01)
    assert neighbours_correlation(drops) > 0.7, "drops are larger than a pixel"


# ---- Pen strokes and outlines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dotted line", "zigzag"])
def test_lines_are_drawn_over_the_digit_and_take_nothing_away(name, digits):
    result, line = (CORRUPTIONS[name](pixels, generator(0)) for pixels in (digits, torch.zeros_like(digits)))
    assert torch.equal(result, torch.maximum(digits, line))


def touched_sides(line: torch.Tensor, margin: int) -> torch.Tensor:
    """Whether the ink of each image comes near two opposite sides: left and right, top and bottom; bool [B, 2]."""
    ink = line[:, 0] > 0.4
    columns, rows = ink.any(1), ink.any(2)
    return torch.stack([lines[:, :margin].any(1) & lines[:, -margin:].any(1) for lines in (columns, rows)], 1)


def test_a_dotted_line_is_straight_and_of_separate_dots_from_side_to_side():
    line = corruptions.dotted_line(flat(0), generator(0))
    centre, spread = centre_and_spread(line)
    assert (centre.std(0) > 2).all(), "not all through the same point"
    assert (torch.linalg.eigvalsh(spread)[:, 0] < 0.6).all(), "no wider than a dot"
    sides = touched_sides(line, 4)
    assert sides.any(1).all()
    assert (sides.float().mean(0) > 0.35).all(), "as many lines run across as down"
    dots, left = torch.zeros(MANY), (line > 0.4).float()
    while left.any():
        first = torch.zeros_like(left).flatten(1).scatter(1, left.flatten(1).argmax(1, keepdim=True), 1)
        dot = grow(first.view_as(left) * left, left, corners=False)
        assert (dot.sum((1, 2, 3)) <= 9).all()
        dots += dot.amax((1, 2, 3))
        left = left - dot
    assert ((dots >= 6) & (dots <= 10)).all(), "one every four pixels"


def test_a_zigzag_sways_and_runs_on_without_a_gap_from_side_to_side():
    line = corruptions.zigzag(flat(0), generator(0))
    variances = torch.linalg.eigvalsh(centre_and_spread(line)[1])
    assert ((variances[:, 0] > 2) & (variances[:, 0] < 5)).all(), "teeth of three pixels each way have about 3"
    ink = (line > 0.4).float()
    away = torch.arange(28) - 13.5
    innermost = (ink / torch.hypot(away, away[:, None])).flatten(1).argmax(1, keepdim=True)
    start = torch.zeros_like(ink).flatten(1).scatter(1, innermost, 1).view_as(ink)
    connected = grow(start, ink, corners=True)
    assert touched_sides(connected, 4).any(1).all()
    assert ((connected.sum((1, 2, 3)) / ink.sum((1, 2, 3))) > 0.85).all()


def square(brightness: torch.Tensor | float = 1.0) -> torch.Tensor:
    pixels = flat(0, count=1)
    pixels[..., 8:20, 8:20] = brightness
    return pixels


def test_canny_edges_of_a_square_are_its_closed_outline_one_pixel_thin():
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
    assert grow(corner, 1 - edges, corners=False)[..., 14, 14] == 0, "there is no way in"


def test_canny_edges_of_digits_are_thin(digits):
    edges = corruptions.canny_edges(digits, generator(0))
    assert (F.avg_pool2d(edges, 2, 1) == 1).sum() < edges.sum() * 0.002, "two by two pixels are hardly ever all edge"
    assert (edges.sum((1, 2, 3)) > 20).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_what_is_flat_has_no_canny_edges(value):
    assert not corruptions.canny_edges(flat(value, count=1), generator(0)).any()


def test_canny_keeps_a_weak_edge_only_where_it_hangs_together_with_a_strong_one():
    assert not corruptions.canny_edges(square(0.25), generator(0)).any()
    brightness = torch.cat([torch.linspace(0.5, 0.25, 6), torch.full((6,), 0.25)])
    fading = corruptions.canny_edges(square(brightness[:, None]), generator(0))
    assert (fading[..., 11:19, :14].sum(3) == 1).all(), "the left edge runs on to where it is as weak"


def test_crests_are_no_less_steep_than_the_two_neighbours_nearest_to_up_and_downhill():
    right, down = torch.randn(2, 1, 1, 14, 14, generator=generator(0))
    steepness = F.pad(torch.hypot(right, down)[0, 0], (1, 1, 1, 1))
    expected = torch.zeros(14, 14)
    for y in range(14):
        for x in range(14):
            eighths = round(math.atan2(down[0, 0, y, x], right[0, 0, y, x]) / (math.pi / 4))
            dx, dy = round(math.cos(eighths * math.pi / 4)), round(math.sin(eighths * math.pi / 4))
            here = steepness[y + 1, x + 1]
            if here >= steepness[y + 1 + dy, x + 1 + dx] and here >= steepness[y + 1 - dy, x + 1 - dx]:
                expected[y, x] = here
    assert torch.equal(corruptions.suppress_non_maxima(right, down)[0, 0], expected)


@settings(max_examples=15)
@given(seeds)
def test_canny_edges_turn_with_the_image(seed):
    """On blurred noise, where hardly any two slopes are equal."""
    noise = torch.rand(4, 1, 28, 28, generator=generator(seed))
    noise = oracle.gaussian_blur(noise, [5, 5], [0.8, 0.8])
    noise = (noise - 0.5) * 3 + 0.5
    edges = corruptions.canny_edges(noise, generator(0))
    assert edges.any()
    for turn in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        assert (corruptions.canny_edges(turn(noise), generator(0)) != turn(edges)).float().mean() < 0.005
