"""Test digits on pages with frames, lines, dots and other clutter, and the connected components of ink."""

import clutter
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from strategies import distance, drawn, seeds

from mnist import preparation
from mnist.preparation import NoDigitError, components, placement
from mnist.preparation.components import Box

# Minimum share of generated pages whose prepared digit resembles the original. Most of the others are rejected.
MIN_FOUND = {
    **dict.fromkeys(clutter.KINDS, 0.8),
    "ruled paper": 0.6,
    "squared paper": 0.4,
    "line through": 0.5,
    "shadow": 0.7,
    "thin pen": 0.6,
}
PAGES_PER_KIND = 10

sides = st.floats(0.08, 0.5)  # of the gap between the digit and a line, as a fraction of the digit
greys = st.integers(0, 120)
thicknesses = st.integers(1, 6)  # of a line, in pixels; the digit's strokes are 16 pixels wide


def found(image: Image.Image) -> np.ndarray:
    """Prepare an image; return zeros if no digit is found."""
    try:
        return preparation.prepare(image)
    except NoDigitError:
        return np.zeros((28, 28), dtype=np.uint8)


@pytest.mark.parametrize("kind", [kind for kind in clutter.KINDS if kind not in clutter.SEVERAL_DIGITS])
def test_digit_is_found_on_cluttered_pages(subset, kind):
    near = []
    for number in range(PAGES_PER_KIND):
        digit = subset.test.images[number * len(subset.test) // PAGES_PER_KIND, 0].numpy()
        near.append(distance(found(clutter.page(kind, digit, np.random.default_rng(number))), digit) < 0.8)
    assert np.mean(near) >= MIN_FOUND[kind]


@pytest.mark.parametrize("number", range(10))
def test_two_digits_are_refused(subset, number):
    digit = subset.test.images[number * len(subset.test) // 10, 0].numpy()
    with pytest.raises(NoDigitError):
        preparation.prepare(clutter.page("two digits", digit, np.random.default_rng(number)))


@given(st.tuples(sides, sides, sides, sides), greys, thicknesses)
def test_frame_is_removed(gaps, grey, thickness):
    """The digit of ``drawn()`` extends from (52, 42) to (148, 168)."""
    image = Image.new("L", (260, 280), 255)
    image.paste(drawn().crop((40, 30, 160, 180)), (70, 60))
    left, top, right, bottom = (round(110 * gap) + thickness + 2 for gap in gaps)
    ImageDraw.Draw(image).rectangle(
        (max(1, 78 - left), max(1, 70 - top), min(258, 180 + right), min(278, 200 + bottom)),
        outline=grey,
        width=thickness,
    )
    assert distance(found(image), preparation.prepare(drawn())) < 0.1


@given(st.floats(0, 6.28), st.floats(-0.3, 0.3), st.floats(0.01, 0.1), st.floats(0.15, 0.3))
@example(1.5, 0.2, 0.03, 0.3)  # nothing is found before the light is evened
@example(4.5, 0.2, 0.03, 0.3)
def test_digit_is_found_across_the_edge_of_a_shadow(angle, offset, softness, depth):
    page = np.asarray(drawn(), dtype=np.float32)
    y, x = np.mgrid[: page.shape[0], : page.shape[1]] / page.shape[0] - 0.5
    into_shadow = (x * np.cos(angle) + y * np.sin(angle) - offset) / softness
    light = 1 - depth / (1 + np.exp(-into_shadow.clip(-50, 50)))
    image = Image.fromarray(((40 + page * 215 / 255) * light).astype(np.uint8))
    assert distance(found(image), preparation.prepare(drawn())) < 0.5


@pytest.mark.parametrize("pen", [1, 2])
def test_strokes_of_a_thin_pen_are_widened(pen):
    image = Image.new("L", (56, 56), 255)
    ImageDraw.Draw(image).line([(16, 14), (34, 12), (38, 22), (18, 42), (40, 42)], fill=0, width=pen)
    assert placement.half_width(preparation.prepare(image) > 127) > 0.6  # 0.5 is that of a line of one pixel


@given(st.integers(0, 140))
def test_label_beside_a_panel_is_not_a_digit(left):
    """The digit is light on a dark panel, and the page is light."""
    page = Image.new("L", (300, 330), 255)
    page.paste(ImageOps.invert(drawn()), (50, 30))
    ImageDraw.Draw(page).text((50 + left, 250), "No. 17", font_size=20, fill=0)
    assert distance(found(page), preparation.prepare(drawn())) < 0.1


@given(st.integers(4, 12), st.integers(8, 16), greys)
def test_dot_in_a_zero_is_a_part_of_it(radius, thickness, grey):
    """Some fonts print zeros with a dot."""
    image = Image.new("L", (160, 200), 255)
    ImageDraw.Draw(image).ellipse((40, 30, 120, 170), outline=grey, width=thickness)
    ImageDraw.Draw(image).ellipse((80 - radius, 100 - radius, 80 + radius, 100 + radius), fill=grey)
    box = preparation.find_digit(preparation.to_picture(image)).box
    assert (box.height, box.width) == (pytest.approx(141, abs=4), pytest.approx(81, abs=4))


@given(st.floats(0.06, 0.3), st.floats(-0.2, 0.6), st.floats(0.3, 0.9), greys, thicknesses)
def test_underline_is_removed(gap, before, after, grey, thickness):
    image = Image.new("L", (300, 260), 255)
    image.paste(drawn(), (40, 0))
    y = 170 + round(110 * gap) + thickness
    ImageDraw.Draw(image).line([(92 - 110 * before, y), (180 + 110 * after, y)], fill=grey, width=thickness)
    assert distance(found(image), preparation.prepare(drawn())) < 0.1


@given(st.lists(st.tuples(st.integers(10, 40), st.integers(2, 9)), min_size=1, max_size=6))
def test_punch_holes_are_removed(holes):
    image = Image.new("L", (280, 200), 255)
    image.paste(drawn(), (80, 0))
    for number, (x, radius) in enumerate(holes):
        y = 25 + 30 * number
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=60)
    assert distance(found(image), preparation.prepare(drawn())) < 0.1


@settings(max_examples=20)
@given(st.integers(20, 60), thicknesses, seeds)
def test_squared_paper_is_removed_or_refused(step, thickness, seed):
    image = drawn(width=20)
    offset = np.random.default_rng(seed).integers(0, step, 2)
    for axis, first in enumerate(offset.tolist()):
        for at in range(first, 200, step):
            ends = [(at, 0), (at, 200)] if axis else [(0, at), (200, at)]
            ImageDraw.Draw(image).line(ends, fill=90, width=min(thickness, 3))
    prepared = found(image)
    assert not prepared.any() or distance(prepared, preparation.prepare(drawn())) < 0.8


boxes = st.builds(
    lambda top, left, height, width: Box(top, left, top + height, left + width),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(1, 50),
    st.integers(1, 50),
)


@given(boxes, boxes)
def test_gap_is_negative_if_boxes_overlap(first, second):
    for gap, axis in zip(first.gap(second), (0, 1), strict=True):
        pixels = [set(range(box[axis], box[axis + 2])) for box in (first, second)]
        assert (gap < 0) == bool(pixels[0] & pixels[1])
        assert first.gap(second) == second.gap(first)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(-6, 6), st.integers(0, 99))
def test_reading_order_follows_tilted_lines(counts, degrees, seed):
    """Digits of a handwritten number differ in height and position, and the line may rise or fall."""
    random, slope = np.random.default_rng(seed), np.tan(np.radians(degrees))
    lines = []
    for row, count in enumerate(counts):
        lines.append([])
        for column in range(count):
            left, height = 100 * column + random.integers(0, 20), random.integers(45, 65)
            top = int(150 * row + random.integers(0, 10) - slope * left + 1000)
            lines[-1].append(Box(top, left, top + height, left + 40))
    expected = [box for line in lines for box in line]
    shuffled = [expected[index] for index in random.permutation(len(expected))]
    assert [shuffled[index] for index in components.reading_order(shuffled)] == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_reading_order_goes_line_by_line(counts):
    """The lines have different numbers of boxes, whose upper edges differ."""
    lines = [
        [Box(40 * row + 3 * (column % 2), 30 * column, 40 * row + 30, 30 * column + 20) for column in range(count)]
        for row, count in enumerate(counts)
    ]
    expected = [box for line in lines for box in line]
    shuffled = [expected[i] for i in np.random.default_rng(sum(counts)).permutation(len(expected))]
    assert [shuffled[index] for index in components.reading_order(shuffled)] == expected
