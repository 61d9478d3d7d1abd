"""Read images: files, bytes, Pillow images, arrays and tensors."""

import contextlib
import dataclasses
import functools
import importlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mnist import files
from mnist.errors import first_line
from mnist.preparation import arrays
from mnist.preparation.picture import MAX_READ_SIDE, Picture, convert
from mnist.preparation.problems import ImageError

MAX_IMAGE_FILE_BYTES = 200_000_000
MAX_READ_BYTES = 400_000_000  # memory limit for a file, its decoded pixels and their copies
COMMON_FORMATS = ("JPEG", "PNG")  # tried first, because Pillow takes 0.05 s to import all formats
HEIF_EXTENSIONS = (".heic", ".heif")  # Pillow reads these files only with pillow-heif; they are never skipped
ICONS = (b"\0\0\1\0", b"icns")  # start of ICO and ICNS files, whose images can be larger than their headers state
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 11 of a file

# Memory that a decoder needs in addition to the decoded image, keyed by Pillow's format name.
_DECODER_BYTES_PER_PIXEL = {"PNG": 0, "JPEG": 6, "MPO": 6, "AVIF": 8, "WEBP": 12, "JPEG2000": 16}
_OTHER_DECODER_BYTES_PER_PIXEL = 4

_warnings = threading.Lock()


class _Memory:
    """A memory budget that threads share, in bytes."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Reserve ``amount`` bytes, or at most the whole budget, for a ``with`` block; wait until they are free."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


# These limits hold for the files and the decoded images of all threads together. Every thread reserves memory in this
# order, to prevent deadlocks.
_content_memory = _Memory(MAX_IMAGE_FILE_BYTES)
_decoding_memory = _Memory(MAX_READ_BYTES)


def read(path: Path) -> Picture:
    """Read an image file of any format that Pillow supports.

    The EXIF orientation is applied. Only the first frame of an animation, or the first page of a document, is read.

    Raises:
        ImageError: if the file is missing or not an image, or the image is damaged or too large.
        OSError: if the file cannot be read.
    """
    try:
        with _content_memory.reserve(path.stat().st_size):
            return _decode(files.read(path, MAX_IMAGE_FILE_BYTES), str(path))
    except FileNotFoundError:
        raise ImageError(f"there is no image at {path}") from None
    except files.UnreadableError as error:
        raise ImageError(str(error)) from error


def to_picture(source: Any) -> Picture:
    """Read a path, a file object, bytes, a Pillow image, or an array or tensor (see :func:`arrays.to_image`).

    The source is not changed. If a Pillow image has several frames, the current one is read.

    Raises:
        ImageError: if the source is none of these, or not an image, or the image is damaged or too large.
        OSError: if the file cannot be read.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | os.PathLike):
        return read(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), "the image")
    if hasattr(source, "read"):
        try:
            content = source.read(MAX_IMAGE_FILE_BYTES + 1)
        except ValueError as error:  # the file is closed, or opened in text mode
            raise ImageError(f"the file cannot be read in binary mode: {first_line(error)}") from error
        if not isinstance(content, bytes) or len(content) > MAX_IMAGE_FILE_BYTES:
            raise ImageError(f"the file is not open in binary mode, or has more than {MAX_IMAGE_FILE_BYTES:,} bytes")
        return _decode(content, "the image")
    if not isinstance(source, Image.Image):
        return convert(arrays.to_image(source))
    try:
        image = source.copy()
        note = _describe_frames(source)
        ImageOps.exif_transpose(image, in_place=True)
        return convert(image, note)
    except ImageError:
        raise
    except Exception as error:  # the pixels (if Pillow has not decoded them yet) or the EXIF data can be damaged
        raise ImageError(f"the image is damaged: {first_line(error)}") from error


def find_images(folder: Path) -> list[Path]:
    """Return the files with an image extension in a folder and its subfolders, sorted, without hidden files."""
    formats = _formats()  # registers the extensions, some of which belong to formats that Pillow can only write
    extensions = {each for each, name in Image.registered_extensions().items() if name in formats} | {*HEIF_EXTENSIONS}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in extensions
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@functools.cache
def _formats() -> list[str]:
    """Return the formats that Pillow can read, except EPS, for which it would run Ghostscript."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return sorted({*Image.OPEN} - {"EPS"})


def _decode(content: bytes | bytearray, name: str) -> Picture:
    # Pillow decodes an ICO file when it opens it, so the memory for icons is reserved before.
    is_icon = content[:4] in ICONS
    try:
        with _decoding_memory.reserve(MAX_READ_BYTES if is_icon else 0), _open(content) as image:
            note = _describe_frames(image)
            size = image.size
            drafted = image.draft("RGB", (MAX_READ_SIDE, MAX_READ_SIDE))  # decode a JPEG no larger than needed
            required = _check_memory(image, size, len(content))
            with _decoding_memory.reserve(0 if is_icon else required):
                image.load()
                _check_memory(image, size, len(content))
                portrait = image.height > image.width
                ImageOps.exif_transpose(image, in_place=True)
                picture = convert(image, note)
            if drafted:
                width, height = size if (image.height > image.width) == portrait else size[::-1]
                picture = dataclasses.replace(picture, width=width, height=height)
            return picture
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
            raise ImageError(f"{name} is a HEIC image (pip install pillow-heif, or save it as JPEG)") from None
        raise ImageError(f"{name} is not an image that can be read (save it as PNG or JPEG)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels (reduce it to 1,000 x 1,000)"
        ) from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # Pillow raises many types of errors for damaged files, most of them undocumented
        raise ImageError(f"{name} is damaged: {first_line(error)}") from error


def _open(content: bytes | bytearray) -> Image.Image:
    # The lock is needed because warning filters are global to the process.
    with _warnings, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(content), formats=COMMON_FORMATS)
        except UnidentifiedImageError:
            return Image.open(io.BytesIO(content), formats=_formats())


def _describe_frames(image: Image.Image) -> str:
    """Return a note if only one of several frames is read."""
    # The second frame of an MPO file, which some cameras write, is a preview of the photo. The frames are not counted,
    # because this takes minutes for a TIFF file of many thousand pages.
    several = image.format != "MPO" and getattr(image, "is_animated", False)
    return f"only frame {image.tell() + 1} was read" if several else ""


def _check_memory(image: Image.Image, size: tuple[int, int], file_bytes: int) -> int:
    """Return the memory in bytes that decoding and converting an opened image takes.

    Args:
        image: the opened image, with the size at which it is decoded.
        size: width and height in the file; ``image`` is smaller if the decoder reduces it.
        file_bytes: size of the file.

    Raises:
        ImageError: if more memory than ``MAX_READ_BYTES`` would be needed.
    """
    decoder = _DECODER_BYTES_PER_PIXEL.get(image.format or "", _OTHER_DECODER_BYTES_PER_PIXEL)
    required = file_bytes + decoder * size[0] * size[1] + _bytes_per_pixel(image) * image.width * image.height
    if required > MAX_READ_BYTES:
        raise ImageError(
            f"reading takes too much memory: {size[0]:,} x {size[1]:,} pixels of this kind take up to "
            f"{required / 1e6:,.0f} MB, over the limit of {MAX_READ_BYTES / 1e6:,.0f} MB (reduce it to 1,000 x 1,000)"
        )
    return required


def _bytes_per_pixel(image: Image.Image) -> int:
    """Return the memory of a decoded image and its largest copy, in bytes per pixel."""
    decoded = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    # If a PNG file has no EXIF data before its pixels, getexif would decode the whole image.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    rotated = decoded if exif.get(ExifTags.Base.Orientation, 1) != 1 else 0
    if image.has_transparency_data:
        converted = 4 if image.mode == "RGBA" else 8  # RGBa, for reducing; other modes need RGBA first
    else:
        converted = 0 if image.mode in ("L", "RGB") else 4
    return decoded + max(converted, rotated)
