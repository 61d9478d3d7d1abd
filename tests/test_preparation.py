import io

import numpy as np
import paper
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from strategies import SEVEN, distance, drawn, seeds

from mnist import preparation
from mnist.preparation import NoDigitError, shape


def prepared(image: Image.Image | np.ndarray) -> np.ndarray:
    return preparation.prepare(image)


# ---- Fitting ---------------------------------------------------------------------------------------------------------


@st.composite
def inks(draw) -> np.ndarray:
    """Draw sparse or dense ink, float32 [H, W], of any size; at least one pixel is 1."""
    rng = np.random.default_rng(draw(seeds))
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    ink = rng.random((height, width), dtype=np.float32) * (rng.random((height, width)) < draw(st.floats(0.01, 1)))
    ink[rng.integers(height), rng.integers(width)] = 1
    return ink


def test_fit_leaves_mnist_images_unchanged(subset):
    originals = subset.test.images[:, 0].numpy()
    fitted = np.stack([preparation.fit((original / 255).astype(np.float32)) for original in originals])
    assert (fitted == originals).all((1, 2)).mean() > 0.99


@given(inks())
def test_fit_scales_the_longer_side_to_20_pixels(ink):
    """The aspect ratio does not change."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    sides = np.array([rows[-1] - rows[0], columns[-1] - columns[0]]) + 1
    fitted = preparation.fit(np.sign(ink))
    inked = np.array([np.ptp(np.flatnonzero(fitted.any(axis))) + 1 for axis in (1, 0)])
    assert (inked <= 20).all()
    expected = np.maximum(1, np.round(20 * sides / sides.max()))
    assert np.abs(inked - expected).max() <= 2, "a faint edge may be rounded to zero"


@given(inks())
def test_fit_centres_the_mass_unless_the_digit_would_not_fit(ink):
    fitted = preparation.fit(ink).astype(float)
    for axis in (0, 1):
        mass = fitted.sum(axis)
        inked = np.flatnonzero(mass)
        if mass.sum() > 1000 and inked[0] > 0 and inked[-1] < 27:
            assert abs(mass @ np.arange(28) / mass.sum() - 14) < 0.6


@given(inks(), st.integers(0, 40), st.integers(0, 40))
def test_fit_does_not_depend_on_the_position_of_the_ink(ink, above, before):
    assert np.array_equal(preparation.fit(ink), preparation.fit(np.pad(ink, ((above, 3), (before, 5)))))


def test_fit_without_ink_is_blank():
    assert not preparation.fit(np.zeros((30, 20), dtype=np.float32)).any()


# ---- Finding ink -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(seeds)
def test_find_ink_refuses_a_photo_of_blank_paper(seed):
    rng = np.random.default_rng(seed)
    blank = paper.photograph(np.zeros((28, 28), dtype=np.uint8), rng)
    with pytest.raises(NoDigitError, match="no digit found"):
        prepared(Image.open(io.BytesIO(paper.jpeg(blank, rng))))


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_find_ink_refuses_a_uniform_image(grey):
    with pytest.raises(NoDigitError, match="no digit found"):
        prepared(Image.new("L", (100, 80), grey))


@pytest.mark.slow
def test_photo_of_a_digit_is_nearest_to_the_same_digit(subset):
    originals, labels = subset.test.images[::5, 0].numpy(), subset.test.labels[::5]
    correct = 0
    for number in range(50):
        found = prepared(paper.photograph(originals[4 * number], np.random.default_rng(number), width=1))
        nearest = np.argmin([distance(found, original) for original in originals])
        correct += bool(labels[nearest] == labels[4 * number])
    assert correct >= 48, "the nearest image of a few digits shows another digit"


def test_digit_is_found_in_any_colours(subset):
    dark_on_light = prepared(drawn())
    for ink, page in [
        (255, 0),
        (40, 200),
        (150, 110),
        ((200, 30, 30), (30, 30, 200)),
        ((210, 210, 20), (250, 250, 250)),
        ((120, 80, 40), (40, 120, 80)),
    ]:
        mode = "L" if isinstance(ink, int) else "RGB"
        assert distance(prepared(drawn(ink, page, mode)), dark_on_light) < 0.05, (ink, page)


def test_digit_is_found_at_any_size(subset):
    expected = prepared(drawn())
    for scale, size in ((0.4, (640, 480)), (1, (300, 900)), (4, (900, 900)), (12, (2500, 2500))):
        page = Image.new("L", size, 255)
        ImageDraw.Draw(page).line([(x * scale, y * scale) for x, y in SEVEN], fill=0, width=round(16 * scale))
        assert distance(prepared(page), expected) < 0.25, scale


def test_digit_is_found_in_uneven_light():
    pixels = np.asarray(drawn(), dtype=np.float32) / 255
    y, x = np.meshgrid(*[np.linspace(0, 1, 200, dtype=np.float32)] * 2, indexing="ij")
    for light in (1 - 0.6 * x, 0.5 + 0.5 * y * x, 1 - 0.5 * (x - 0.5) ** 2 - 0.3 * y):
        assert distance(prepared(pixels * light), prepared(pixels)) < 0.1


def test_dirt_and_the_edge_of_the_paper_are_ignored():
    expected = prepared(drawn())
    dirty = drawn()
    for x, y in ((20, 20), (180, 190), (15, 150)):
        ImageDraw.Draw(dirty).ellipse((x, y, x + 4, y + 4), fill=0)
    assert np.array_equal(prepared(dirty), expected)
    with_edges = drawn()
    ImageDraw.Draw(with_edges).rectangle((0, 180, 200, 200), fill=0)
    ImageDraw.Draw(with_edges).rectangle((0, 0, 15, 200), fill=0)
    assert distance(prepared(with_edges), expected) < 0.02


@pytest.mark.parametrize(("ink", "background"), [(0, 255), (255, 0), (200, 90), (60, 140)])
@pytest.mark.parametrize("side", [16, 32, 60])
def test_digit_that_fills_the_image_is_found(subset, side, ink, background):
    """Data sets such as USPS crop their images to the digit, so that ink covers much of the border."""
    distances = []
    for digit in subset.test.images[::25, 0].numpy():
        rows, columns = np.flatnonzero(digit.max(1) > 127), np.flatnonzero(digit.max(0) > 127)
        crop = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        width, height = (max(shape.MIN_SIDE, length * side // max(crop.size)) for length in crop.size)
        share = np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
        pixels = np.repeat((background + (ink - background) * share)[..., None] / 255, 3, 2)
        try:
            distances.append(distance(prepared(pixels), digit))
        except NoDigitError:
            distances.append(np.inf)
    assert np.mean(np.array(distances) < 0.7) >= 0.85  # narrow digits cover most of the border


@given(seeds, st.sampled_from(["noise", "gradient", "steps"]))
def test_texture_is_not_taken_for_a_crop(seed, kind):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(16, 60, 2)
    grey = {
        "noise": rng.normal(0.5, 0.2, (height, width)),
        "gradient": np.linspace(0, 1, width) * np.ones((height, 1)),
        "steps": np.linspace(0, 1, 5)[np.arange(width) * 5 // width] * np.ones((height, 1)),
    }[kind]
    pixels = np.repeat(np.clip(grey, 0, 1)[..., None], 3, 2).astype(np.float32)
    with pytest.raises(NoDigitError):
        prepared(pixels)


def test_small_holes_are_noise_and_faint_strokes_connect():
    image = drawn(width=24)
    rng = np.random.default_rng(0)
    pixels = np.asarray(image).copy()
    for row, column in zip(*rng.permutation(np.argwhere(pixels < 128))[:20].T, strict=True):
        pixels[row, column] = 255
    assert distance(prepared(Image.fromarray(pixels)), prepared(image)) < 0.1
    line = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(line).line([(100, 40), (100, 160)], fill=0, width=14)
    ImageDraw.Draw(line).line([(100, 90), (100, 110)], fill=150, width=14)  # 0.41 of the contrast
    assert (prepared(line).max(1) > 0).sum() == 20


def test_thin_strokes_are_widened():
    widths = [np.count_nonzero(prepared(drawn(width=width)) > 127) for width in (2, 6, 12)]
    assert widths[0] > 0.75 * widths[2]
    assert widths[0] <= widths[1] <= widths[2]


def test_two_digits_are_refused_but_not_two_strokes_of_one():
    two = drawn(size=(400, 200))
    two.paste(drawn(), (200, 0))
    with pytest.raises(NoDigitError, match=r"several separate shapes found \(use --split"):
        prepared(two)
    five = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(five).line([(100, 50), (150, 50)], fill=0, width=12)  # the upper stroke does not touch the rest
    ImageDraw.Draw(five).line([(80, 50), (75, 95), (130, 105), (125, 150), (70, 150)], fill=0, width=12)
    assert prepared(five).any()


def test_slanted_ones_are_two_digits_but_the_strokes_of_a_four_one():
    ones, four = (Image.new("L", (200, 200), 255) for _ in range(2))
    for left in (60, 95):
        ImageDraw.Draw(ones).line([(left + 50, 40), (left, 160)], fill=0, width=10)
    with pytest.raises(NoDigitError, match="several separate shapes found"):
        prepared(ones)
    ImageDraw.Draw(four).line([(90, 40), (60, 110), (150, 110)], fill=0, width=10)
    ImageDraw.Draw(four).line([(125, 30), (120, 102)], fill=0, width=10)
    ImageDraw.Draw(four).line([(119, 118), (115, 170)], fill=0, width=10)
    assert prepared(four).any()


@given(st.integers(8, 60), st.integers(4, 90), st.integers(1, 8), st.integers(0, 20), st.integers(0, 3))
def test_halves_are_the_parts_beside_a_joint(height, width, joint, margin, position):
    """Two rectangles of these sides are joined by a stroke, at the top or lower."""
    ink = np.zeros((height, 2 * width + joint), dtype=np.float32)
    ink[:, :width] = ink[:, width + joint :] = 1
    ink[height * position // 4, :] = 1
    cut = shape.halves(np.pad(ink, margin))
    if (2 * width + joint) < 0.8 * height:
        assert not cut
        return
    left, right = cut
    assert np.array_equal(left[margin : margin + height, margin : margin + width], ink[:, :width])
    assert np.array_equal(right[margin : margin + height, -width - margin :][:, :width], ink[:, -width:])
    assert left.shape[1] + 1 + right.shape[1] == 2 * width + joint + 2 * margin


@given(st.integers(0, 59), st.floats(0.75, 1))
def test_halves_are_about_as_tall_as_the_shape(height, strength):
    ink = np.zeros((60, 60), dtype=np.float32)
    ink[:, :25] = ink[30, :] = strength
    ink[60 - height :, 35:] = strength
    assert bool(shape.halves(ink)) == (max(height, 1) >= 0.7 * 60)


def test_grid_and_scattered_marks_are_not_a_digit():
    grid, dots = (Image.new("L", (200, 200), 255) for _ in range(2))
    for at in range(40, 170, 20):
        ImageDraw.Draw(grid).line([(40, at), (160, at)], fill=0, width=3)
        ImageDraw.Draw(grid).line([(at, 40), (at, 160)], fill=0, width=3)
        ImageDraw.Draw(dots).ellipse((at - 5, 97, at + 5, 107), fill=0)
        ImageDraw.Draw(dots).ellipse((97, at - 5, 107, at + 5), fill=0)
    for picture in (grid, dots):
        with pytest.raises(NoDigitError, match=r"too many marks for one digit|separate shapes found"):
            prepared(picture)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (7, 7), (5000, 2), (9, 4000)])
def test_image_too_small_for_a_digit_is_refused(size):
    with pytest.raises(NoDigitError, match="is too small"):
        prepared(Image.new("L", size))
    with pytest.raises(NoDigitError, match="is too small"):
        prepared(np.zeros((*size, 3), dtype=np.float32))


@given(st.integers(8, 40), st.integers(8, 40), seeds)
def test_prepare_random_pixels(height, width, seed):
    """Any image is prepared, or refused with the documented error."""
    pixels = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    try:
        found = prepared(pixels)
    except NoDigitError:
        return
    assert (found.shape, found.dtype) == ((28, 28), np.uint8)
