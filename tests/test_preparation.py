import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import paper
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from strategies import seeds

from mnist import preparation
from mnist.preparation import ImageError, NoDigitError

SEVEN = [(60, 50), (140, 50), (90, 160)]  # corners (x, y) of a stroke, in an image of 200 x 200 pixels


def drawn(ink=0, paper=255, mode="L", width=16, size=(200, 200)) -> Image.Image:
    image = Image.new(mode, size, paper)
    ImageDraw.Draw(image).line(SEVEN, fill=ink, width=width, joint="curve")
    return image


def prepared(image: Image.Image) -> np.ndarray:
    return preparation.prepare(preparation.to_pixels(image))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the total difference between two prepared images, divided by the ink of the lighter one."""
    difference = np.abs(first.astype(int) - second).sum()
    return difference / max(1, min(first.astype(int).sum(), second.astype(int).sum()))


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
    pixels = preparation.to_pixels(drawn())
    y, x = np.meshgrid(*[np.linspace(0, 1, 200, dtype=np.float32)] * 2, indexing="ij")
    for light in (1 - 0.6 * x, 0.5 + 0.5 * y * x, 1 - 0.5 * (x - 0.5) ** 2 - 0.3 * y):
        assert distance(preparation.prepare(pixels * light[..., None]), preparation.prepare(pixels)) < 0.1


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
    for digit in subset.test.images[::10, 0].numpy():
        rows, columns = np.flatnonzero(digit.max(1) > 127), np.flatnonzero(digit.max(0) > 127)
        crop = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        width, height = (max(preparation.MIN_DIGIT_SIDE, length * side // max(crop.size)) for length in crop.size)
        share = np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
        pixels = np.repeat((background + (ink - background) * share)[..., None] / 255, 3, 2)
        try:
            distances.append(distance(preparation.prepare(pixels), digit))
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
        preparation.prepare(pixels)


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
    with pytest.raises(NoDigitError, match="more than one digit found"):
        prepared(two)
    five = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(five).line([(100, 50), (150, 50)], fill=0, width=12)  # the upper stroke does not touch the rest
    ImageDraw.Draw(five).line([(80, 50), (75, 95), (130, 105), (125, 150), (70, 150)], fill=0, width=12)
    assert prepared(five).any()


def test_grid_and_scattered_marks_are_not_a_digit():
    grid, dots = (Image.new("L", (200, 200), 255) for _ in range(2))
    for at in range(40, 170, 20):
        ImageDraw.Draw(grid).line([(40, at), (160, at)], fill=0, width=3)
        ImageDraw.Draw(grid).line([(at, 40), (at, 160)], fill=0, width=3)
        ImageDraw.Draw(dots).ellipse((at - 5, 97, at + 5, 107), fill=0)
        ImageDraw.Draw(dots).ellipse((97, at - 5, 107, at + 5), fill=0)
    for picture in (grid, dots):
        with pytest.raises(NoDigitError, match="too many marks for one"):
            prepared(picture)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (7, 7), (5000, 2), (9, 4000)])
def test_image_too_small_for_a_digit_is_refused(size):
    with pytest.raises(NoDigitError, match="is too small"):
        prepared(Image.new("L", size))
    with pytest.raises(NoDigitError, match="is too small"):
        preparation.prepare(np.zeros((*size, 3), dtype=np.float32))


@given(st.integers(8, 40), st.integers(8, 40), seeds)
def test_prepare_random_pixels(height, width, seed):
    """Any image is prepared, or refused with the documented error."""
    pixels = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    try:
        found = preparation.prepare(pixels)
    except NoDigitError:
        return
    assert (found.shape, found.dtype) == ((28, 28), np.uint8)


# ---- Reading ---------------------------------------------------------------------------------------------------------


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def converted(mode: str) -> Image.Image:
    """Return the drawing in another mode of Pillow."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(drawn()).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(drawn()).astype(np.int32) * 5 - 100)
    if mode == "F":
        return Image.fromarray(np.asarray(drawn()).astype(np.float32) / 255)
    return drawn().convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[(mode, "png") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")],
        *[(mode, "tiff") for mode in ("1", "CMYK", "I", "F")],
        *[(mode, "jpeg") for mode in ("L", "RGB", "CMYK")],
        *[("RGB", "bmp"), ("P", "gif"), ("RGB", "webp"), ("L", "ppm")],
    ],
)
def test_read_supports_every_format_and_mode(tmp_path, mode, kind):
    path = tmp_path / f"seven.{kind}"
    path.write_bytes(file_of(converted(mode), kind))
    assert distance(preparation.prepare(preparation.read(path)), prepared(drawn())) < 0.05


@pytest.mark.parametrize(
    ("ink", "hidden"), [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (255, 255, 255)), ((9, 9, 9), (255, 0, 0))]
)
def test_digit_defined_by_transparency_is_found(ink, hidden):
    image = Image.new("RGBA", (200, 200), (*hidden, 0))
    ImageDraw.Draw(image).line(SEVEN, fill=(*ink, 255), width=16, joint="curve")
    assert distance(prepared(image), prepared(drawn())) < 0.05


def test_transparent_corners_are_not_ink():
    image = drawn(mode="RGBA", ink=(0, 0, 0, 255), paper=(250, 250, 240, 255))
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 199, 199), 40, fill=255)
    image.putalpha(mask)
    assert distance(prepared(image), prepared(drawn())) < 0.05


def test_fully_transparent_image_has_no_digit():
    with pytest.raises(NoDigitError):
        prepared(Image.new("RGBA", (100, 100), (0, 0, 0, 0)))


def test_read_applies_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers must rotate the image by 90 degrees clockwise
    path = tmp_path / "photo.jpg"
    drawn().rotate(90).save(path, exif=exif, quality=95)
    assert distance(preparation.prepare(preparation.read(path)), prepared(drawn())) < 0.05


def png_of(width: int, height: int, depth: int = 1, colour: int = 0) -> bytes:
    """Return a PNG whose header declares this size and kind but which contains almost no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


BAD = {
    "text.png": (b"this is a text", "is not an image that can be read"),
    "empty.png": (b"", "is not an image that can be read"),
    "truncated.jpg": (file_of(drawn(), "jpeg")[:-900], "is damaged: image file is truncated"),
    "truncated.png": (file_of(drawn(), "png")[:-200], "is damaged"),
    "moving.gif": (file_of(drawn(), "gif", save_all=True, append_images=[drawn(width=30)]), "it has 2 frames or pages"),
    "pages.tiff": (file_of(drawn(), "tiff", save_all=True, append_images=[drawn()] * 2), "it has 3 frames or pages"),
    "huge.png": (png_of(50_000, 40_000), "has over 89,478,485 pixels"),
    "large.png": (png_of(12_000, 10_000), "has over 89,478,485 pixels"),
    "rgba.png": (png_of(8_000, 8_000, 8, 6), "pixels of this kind take up to 512 MB, over the limit of 400"),
    "nan.tiff": (
        file_of(Image.fromarray(np.full((50, 50), np.nan, np.float32)), "tiff"),
        "some pixels are NaN or infinite",
    ),
    "program.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "is not an image that can be read",
    ),
    "photo.heic": (b"\0\0\0\x18ftypheic", "is not an image that can be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_prepare_file_returns_an_error_of_one_line(tmp_path, name):
    content, complaint = BAD[name]
    (tmp_path / name).write_bytes(content)
    error = preparation.prepare_file(tmp_path / name)
    assert isinstance(error, ImageError)
    assert complaint in str(error)
    assert str(tmp_path / name) in str(error)
    assert "\n" not in str(error)


KINDS = [
    *[("RGB", "jpeg"), ("L", "jpeg"), ("RGB", "webp"), ("RGBA", "webp"), ("I;16", "tiff"), ("CMYK", "tiff")],
    *[(mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[(mode, "tiff") for mode in ("I", "F")],
]


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_read_bounds_the_memory_of_every_kind(tmp_path, monkeypatch, mode, kind):
    """The limit counts the file and at least the decoded pixels, at the size that the file has."""
    path = tmp_path / f"large.{kind}"
    path.write_bytes(file_of(converted(mode).resize((2000, 1500)), kind))
    decoded = {"1": 1, "L": 1, "P": 1, "I;16": 2}.get(mode, 4) * (2000 * 1500)
    monkeypatch.setattr(preparation, "MAX_READ_BYTES", path.stat().st_size + decoded - 1)
    with pytest.raises(ImageError, match=r"too much memory to read: 2,000 x 1,500 pixels of this kind .*\(reduce it"):
        preparation.read(path)
    monkeypatch.setattr(preparation, "MAX_READ_BYTES", path.stat().st_size + 24 * 2000 * 1500)
    assert preparation.read(path).shape == (768, 1024, 3)


MEASURE = """
import os, sys
from pathlib import Path
from mnist import preparation

def peak():
    # getrusage would count the memory of the parent process, too
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

small, large, pixels = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
preparation.read(small)
before = peak()
for bytes_per_pixel in range(1, 30):  # find the least limit with which the file is read
    preparation.MAX_READ_BYTES = os.path.getsize(large) + bytes_per_pixel * pixels
    try:
        preparation.read(large)
    except preparation.ImageError as error:
        assert "takes too much memory" in str(error), error
    else:
        break
print(peak() - before - preparation.MAX_READ_BYTES)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory with /proc")
@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "png"), ("LA", "png"), ("L", "png"), ("F", "tiff"), ("CMYK", "tiff"), ("RGB", "webp")]
)
def test_read_stays_within_its_memory(tmp_path, mode, kind):
    side = 2500
    small, large = (tmp_path / f"{name}.{kind}" for name in ("small", "large"))
    small.write_bytes(file_of(converted(mode), kind))
    large.write_bytes(file_of(converted(mode).resize((side, side)), kind))
    command = [sys.executable, "-c", MEASURE, small, large, str(side * side)]
    excess = int(subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout)
    assert excess < 40_000_000, "more than the array, Python and Pillow need"


def test_read_reduces_deep_images_like_others(tmp_path):
    """Conversion in strips leaves no seams, and grey levels are scaled to the full range."""
    values = np.linspace(-1, 3, 300 * 200, dtype=np.float32).reshape(300, 200)
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    expected = ((values + 1) * (255 / 4)).astype(np.uint8)
    assert np.abs(preparation.read(tmp_path / "deep.tiff")[..., 0] * 255 - expected).max() <= 1


def test_to_pixels_leaves_the_image_of_the_caller_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = drawn(size=(2000, 1500))
    image.info["exif"] = exif.tobytes()
    before = image.tobytes()
    assert preparation.to_pixels(image).shape == (1024, 768, 3)
    assert (image.size, image.tobytes() == before) == ((2000, 1500), True)


def test_read_refuses_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ImageError, match="there is no image at"):
        preparation.read(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        preparation.read(tmp_path)


INTACT = [
    file_of(drawn(size=(40, 40)).convert(mode), kind)
    for mode, kind in (("RGB", "jpeg"), ("P", "gif"), ("RGBA", "png"), ("L", "tiff"), ("RGB", "webp"))
]


@given(st.sampled_from(INTACT), st.data())
@example(b"", None)
def test_prepare_file_handles_any_damaged_file(tmp_path_factory, content, data):
    damaged = bytearray(content)
    if data:
        for _ in range(data.draw(st.integers(1, 6))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    found = preparation.prepare_file(path)
    assert isinstance(found, ImageError) or found.shape == (28, 28)


def test_find_images_skips_other_and_hidden_files(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", ".thumbs/c.png", "deep/er/d.gif", "e.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in preparation.find_images(tmp_path)]
    assert found == ["a.JPG", "b.png", "deep/er/d.gif", "e.heic"]


def test_prepare_file_returns_the_image_or_the_error(tmp_path):
    drawn().save(tmp_path / "seven.png")
    Image.new("L", (50, 50)).save(tmp_path / "blank.png")
    assert np.array_equal(preparation.prepare_file(tmp_path / "seven.png"), prepared(drawn()))
    assert isinstance(preparation.prepare_file(tmp_path / "blank.png"), NoDigitError)
