"""Test the reading of files, Pillow images, arrays and tensors."""

import io
import struct
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin
from strategies import SEVEN, distance, drawn

from mnist import preparation
from mnist.preparation import ImageError, NoDigitError, reading


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def converted(mode: str) -> Image.Image:
    """Return the drawing in another Pillow mode."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(drawn()).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(drawn()).astype(np.int32) * 5 - 100)
    if mode == "F":
        return Image.fromarray(np.asarray(drawn()).astype(np.float32) / 255)
    if mode in ("LAB", "HSV"):
        image = drawn((0, 0, 0), (255, 255, 255), "RGB")
        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        return image.convert(mode) if mode == "HSV" else ImageCms.profileToProfile(image, *profiles, outputMode=mode)
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
    assert distance(preparation.prepare(path), preparation.prepare(drawn())) < 0.05


@pytest.mark.parametrize(
    ("ink", "hidden"), [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (255, 255, 255)), ((9, 9, 9), (255, 0, 0))]
)
def test_digit_defined_by_transparency_is_found(ink, hidden):
    image = Image.new("RGBA", (200, 200), (*hidden, 0))
    ImageDraw.Draw(image).line(SEVEN, fill=(*ink, 255), width=16, joint="curve")
    assert distance(preparation.prepare(image), preparation.prepare(drawn())) < 0.05


def test_transparent_corners_are_not_ink():
    image = drawn(mode="RGBA", ink=(0, 0, 0, 255), paper=(250, 250, 240, 255))
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 199, 199), 40, fill=255)
    image.putalpha(mask)
    assert distance(preparation.prepare(image), preparation.prepare(drawn())) < 0.05


@pytest.mark.parametrize("margin", [0, 30])
@pytest.mark.parametrize("width", [6, 14])
def test_digit_in_a_window_with_transparent_corners_is_found(width, margin):
    """The digit may cover less than one percent of the window, whose shape is no digit."""
    image = Image.new("L", (400, 300), 250)
    image.paste(drawn(width=width, paper=250).resize((100, 100)), (150, 100))
    assert np.mean(np.asarray(image) < 250) < 0.01
    expected = preparation.prepare(image)
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((margin, margin, 399 - margin, 299 - margin), 20, fill=255)
    image.putalpha(mask)
    assert preparation.to_picture(image).is_ink, "the opaque pixels have about the same grey level"
    assert distance(preparation.prepare(image), expected) < 0.05
    (digit,) = preparation.find(image, split=True).digits
    assert distance(digit.prepared, expected) < 0.05


@pytest.mark.parametrize("ink", [(180, 180, 180), (255, 60, 60)], ids=["pencil", "red on green"])
def test_digit_of_low_grey_contrast_is_found_beside_a_transparent_pixel(ink):
    image = drawn(mode="RGBA", ink=(*ink, 255), paper=(60, 160, 60, 255) if ink[0] == 255 else (235, 235, 235, 255))
    expected = preparation.prepare(image.convert("RGB"))
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert distance(preparation.prepare(image), expected) < 0.05


def test_fully_transparent_image_has_no_digit():
    with pytest.raises(NoDigitError):
        preparation.prepare(Image.new("RGBA", (100, 100), (0, 0, 0, 0)))


def test_read_applies_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers must rotate the image by 90 degrees clockwise
    path = tmp_path / "photo.jpg"
    drawn().rotate(90).save(path, exif=exif, quality=95)
    assert distance(preparation.prepare(path), preparation.prepare(drawn())) < 0.05


def png_of(width: int, height: int, depth: int = 1, colour: int = 0) -> bytes:
    """Return a PNG whose header declares this size, bit depth and colour type, but which has almost no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


BAD = {
    "text.png": (b"this is a text", "is not an image that can be read"),
    "empty.png": (b"", "is not an image that can be read"),
    "truncated.jpg": (file_of(drawn(), "jpeg")[:-900], "is damaged: image file is truncated"),
    "truncated.png": (file_of(drawn(), "png")[:-200], "is damaged"),
    "huge.png": (png_of(50_000, 40_000), "has more than 89,478,485 pixels"),
    "large.png": (png_of(12_000, 10_000), "has more than 89,478,485 pixels"),
    "rgba.png": (png_of(8_000, 8_000, 8, 6), "pixels of this kind take up to 512 MB, over the limit of 400"),
    "nan.tiff": (
        file_of(Image.fromarray(np.full((50, 50), np.nan, np.float32)), "tiff"),
        "some pixels are NaN or infinite",
    ),
    "program.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "is not an image that can be read",
    ),
    "photo.heic": (b"\0\0\0\x18ftypheic", "is a HEIC image (pip install pillow-heif"),
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
    """The limit counts the file's bytes and at least the decoded pixels, at full size."""
    path = tmp_path / f"large.{kind}"
    path.write_bytes(file_of(converted(mode).resize((2000, 1500)), kind))
    decoded = {"1": 1, "L": 1, "P": 1, "I;16": 2}.get(mode, 4) * (2000 * 1500)
    monkeypatch.setattr(reading, "MAX_READ_BYTES", path.stat().st_size + decoded - 1)
    with pytest.raises(ImageError, match=r"too much memory: 2,000 x 1,500 pixels of this kind .*\(reduce it"):
        preparation.read(path)
    monkeypatch.setattr(reading, "MAX_READ_BYTES", path.stat().st_size + 24 * 2000 * 1500)
    assert preparation.read(path).pixels.shape[:2] == (750, 1000)


def icon_of(kind: str, side: int) -> bytes:
    """Return an ICO or ICNS file with a square image; its header states 16 x 16 pixels."""
    content = file_of(drawn().resize((side, side)), "png")
    if kind == "ico":
        return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content
    return struct.pack(">4sI4sI", b"icns", len(content) + 16, b"icp4", len(content) + 8) + content


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
@pytest.mark.parametrize("kind", ["ico", "icns"])
def test_read_reserves_all_memory_for_an_icon(tmp_path, monkeypatch, kind):
    """The size in the header is not that of the image, so the memory that decoding takes is unknown."""
    path = tmp_path / f"icon.{kind}"
    path.write_bytes(icon_of(kind, side=600))
    free = []
    load = PngImagePlugin.PngImageFile.load

    def record(image):
        free.append(reading._decoding_memory._free)
        return load(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", record)
    preparation.prepare_file(path)
    assert set(free) == {0}
    assert reading._decoding_memory._free == reading.MAX_READ_BYTES


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_read_refuses_an_icon_that_is_larger_than_it_states(tmp_path, monkeypatch):
    (tmp_path / "icon.ico").write_bytes(icon_of("ico", side=600))
    assert preparation.read(tmp_path / "icon.ico").pixels.shape[:2] == (600, 600)
    monkeypatch.setattr(reading, "MAX_READ_BYTES", 600 * 600)
    with pytest.raises(ImageError, match="too much memory: 600 x 600 pixels"):
        preparation.read(tmp_path / "icon.ico")


MEASURE = """
import os, sys
from pathlib import Path
from mnist import preparation
from mnist.preparation import reading

def peak():
    # getrusage would count the memory of the parent process, too
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

small, large, pixels = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
preparation.read(small)
before = peak()
for bytes_per_pixel in range(1, 30):  # find the lowest limit at which the file is read
    reading.MAX_READ_BYTES = os.path.getsize(large) + bytes_per_pixel * pixels
    try:
        preparation.read(large)
    except preparation.ImageError as error:
        assert "takes too much memory" in str(error), error
    else:
        break
print(peak() - before - reading.MAX_READ_BYTES)
"""


@pytest.mark.slow
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
    assert np.abs(preparation.read(tmp_path / "deep.tiff").pixels[..., 0].astype(int) - expected).max() <= 1


def test_to_picture_does_not_modify_its_argument():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = drawn(size=(2000, 1500))
    image.info["exif"] = exif.tobytes()
    before = image.tobytes()
    assert preparation.to_picture(image).pixels.shape == (1000, 750, 3)
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
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        "written-only.pdf",
        "vector.eps",
        ".hidden.png",
        ".thumbs/c.png",
        "deep/er/d.gif",
        "e.heic",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in preparation.find_images(tmp_path)]
    assert found == ["a.JPG", "b.png", "deep/er/d.gif", "e.heic"]


def test_prepare_file_returns_the_image_or_the_error(tmp_path):
    drawn().save(tmp_path / "seven.png")
    Image.new("L", (50, 50)).save(tmp_path / "blank.png")
    assert np.array_equal(preparation.prepare_file(tmp_path / "seven.png"), preparation.prepare(drawn()))
    assert isinstance(preparation.prepare_file(tmp_path / "blank.png"), NoDigitError)


# ---- Arrays, tensors and other sources -------------------------------------------------------------------------------


@st.composite
def same_pictures(draw) -> tuple[np.ndarray, object]:
    """Draw a uint8 array [H, W] with a digit, and the same picture as another source."""
    dark, light = draw(st.sampled_from([(0, 255), (255, 0), (30, 200)]))
    grey = np.asarray(drawn(dark, light, size=(200, 180)))
    binary = (dark, light) != (30, 200)
    kinds = ["uint8", "uint16", "float16", "float32", "float64", "unit float32", "unit float64", *["bool"] * binary]
    kind = draw(st.sampled_from(kinds))
    if kind == "bool":
        array = grey > 127
    elif kind == "uint16":
        array = grey.astype(np.uint16) * 257
    elif kind.startswith("unit "):
        array = (grey / 255).astype(kind[5:])
    else:
        array = grey.astype(kind)
    layout = draw(st.sampled_from(["HW", "HW1", "1HW", "HW3", "HW4", "3HW"]))
    opaque = array.dtype.type(255 if kind.startswith("float") else np.iinfo(array.dtype).max if "int" in kind else 1)
    stacked = {
        "HW": array,
        "HW1": array[..., None],
        "1HW": array[None],
        "HW3": np.stack([array] * 3, -1),
        "HW4": np.stack([array] * 3 + [np.full_like(array, opaque)], -1),
        "3HW": np.stack([array] * 3),
    }[layout]
    tensor = draw(st.booleans()) and array.dtype != np.uint16
    return grey, torch.from_numpy(stacked.copy()) if tensor else stacked


@given(same_pictures())
def test_arrays_and_tensors_describe_the_same_picture(pictures):
    grey, other = pictures
    before = other.clone() if isinstance(other, torch.Tensor) else other.copy()
    assert np.array_equal(preparation.prepare(other), preparation.prepare(grey))
    assert (before == other).all(), "the caller's array is not changed"


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_are_read_and_not_changed(mode):
    image = converted(mode)
    before = image.tobytes()
    assert distance(preparation.prepare(image), preparation.prepare(drawn())) < 0.05
    assert image.tobytes() == before


def test_paths_bytes_and_file_objects_are_the_same(tmp_path):
    content = file_of(drawn(), "png")
    (tmp_path / "seven.png").write_bytes(content)
    expected = preparation.prepare(drawn())
    for source in (
        tmp_path / "seven.png",
        str(tmp_path / "seven.png"),
        content,
        bytearray(content),
        io.BytesIO(content),
    ):
        assert np.array_equal(preparation.prepare(source), expected)


def closed_file() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


def image_with_broken_exif() -> Image.Image:
    image = Image.new("L", (40, 40))
    image.info["exif"] = b"garbage"
    return image


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 40, 40)), r"an array of shape \[2, 40, 40\] is not an image"),
        (np.zeros(40), r"an array of shape \[40\] is not an image"),
        (np.zeros((40, 0)), r"an array of shape \[40, 0\] is not an image"),
        (np.zeros((40, 40), dtype=np.int64), "an array of int64 is not an image"),
        (np.full((40, 40), np.nan), "outside 0 to 255, or NaN"),
        (np.full((40, 40), -1.0), "outside 0 to 255, or NaN"),
        (np.full((40, 40), 256.0), "outside 0 to 255, or NaN"),
        (torch.zeros(3, 4, 40, 40), r"an array of shape \[3, 4, 40, 40\] is not an image"),
        (7, "an object of type int is not an image"),
        (None, "an object of type NoneType is not an image"),
        ("", "is a folder"),
        (b"text", "the image is not an image that can be read"),
        (io.StringIO("text"), "not open in binary mode"),
        (io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"), "cannot be read in binary mode: .*can't decode"),
        (closed_file(), "cannot be read in binary mode: .*closed file"),
        (Image.new("La", (60, 60)), "the image is damaged: conversion from La"),
        *[(Image.new(mode, (0, 5)), "the image has no pixels") for mode in ("RGBA", "L", "I", "F")],
        (image_with_broken_exif(), "the image is damaged"),
        ([[1, 2], [3]], "an object of type list is not an image"),
    ],
)
def test_other_sources_raise_one_clear_error(source, message):
    with pytest.raises(ImageError, match=message):
        preparation.prepare(source)


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "webp"])
def test_first_frame_is_read_with_a_note(tmp_path, kind):
    content = file_of(drawn(), kind, save_all=True, append_images=[drawn(width=30), drawn(width=50)])
    picture = preparation.to_picture(content)
    assert picture.note == "only frame 1 was read"
    assert distance(preparation.prepare(picture), preparation.prepare(drawn())) < 0.05
    assert preparation.to_picture(file_of(drawn(), kind)).note == ""


def test_heic_is_read_with_pillow_heif(monkeypatch):
    """A substitute for pillow-heif records that its reader is registered."""
    registered = []
    module = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    reading._formats.cache_clear()
    try:
        preparation.to_picture(file_of(drawn(), "gif"))
    finally:
        reading._formats.cache_clear()
    assert registered == [True]
