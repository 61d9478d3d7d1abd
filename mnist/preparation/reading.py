"""Read images: files, bytes, images of Pillow, arrays and tensors."""

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
MAX_READ_BYTES = 400_000_000  # of memory for a file, its decoded pixels and their copies
COMMON_FORMATS = ("JPEG", "PNG")  # tried first: Pillow takes a twentieth of a second to import all formats
HEIF_EXTENSIONS = (".heic", ".heif")  # Pillow reads them only with pillow-heif; they are never skipped
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # in the first 12 bytes

# Memory that a decoder takes beside the decoded image, by Pillow's name of the format.
_DECODER_BYTES_PER_PIXEL = {"PNG": 0, "JPEG": 6, "MPO": 6, "AVIF": 8, "WEBP": 12, "JPEG2000": 16}
_OTHER_DECODER_BYTES_PER_PIXEL = 4

_warnings = threading.Lock()


class _Memory:
    """Memory that threads share, in bytes."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Reserve an amount, or all memory if it is larger, for a ``with`` block; wait until enough is free."""
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


# However many threads read images, their files and the decoded images take no more memory than these limits. A thread
# reserves memory in this order, so that no two threads wait for each other.
_content_memory = _Memory(MAX_IMAGE_FILE_BYTES)
_decoding_memory = _Memory(MAX_READ_BYTES)


def read(path: Path) -> Picture:
    """Read an image file of any format that Pillow supports.

    The image is rotated according to its EXIF data. Only the first frame of an animation, or the first page, is read.

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
    """Read a path, a file object, bytes, an image of Pillow, or an array or tensor (see :func:`arrays.to_image`).

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
            raise ImageError(f"the file is not opened in binary mode, or has over {MAX_IMAGE_FILE_BYTES:,} bytes")
        return _decode(content, "the image")
    if not isinstance(source, Image.Image):
        return convert(arrays.to_image(source))
    try:
        image = source.copy()
        note = _describe_frames(source)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a file that Pillow has opened but not decoded yet can be damaged, or its EXIF data
        raise ImageError(f"the image is damaged: {first_line(error)}") from error
    return convert(image, note)


def find_images(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders that have an image's extension, sorted, except hidden ones."""
    _formats()  # registers the extensions
    extensions = {*Image.registered_extensions(), *HEIF_EXTENSIONS}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in extensions
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@functools.cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads by itself; for EPS, which is excluded, it would run Ghostscript."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return sorted({*Image.OPEN} - {"EPS"})


def _decode(content: bytes | bytearray, name: str) -> Picture:
    try:
        with _open(content) as image:
            note = _describe_frames(image)
            size = image.size
            drafted = image.draft("RGB", (MAX_READ_SIDE, MAX_READ_SIDE))  # decodes a JPEG no larger than needed
            required = _check_memory(image, size, len(content))
            # The image in an ICO file may be larger than the header says.
            with _decoding_memory.reserve(MAX_READ_BYTES if image.format == "ICO" else required):
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
        raise ImageError(f"{name} has over {Image.MAX_IMAGE_PIXELS:,} pixels (reduce it to 1,000 x 1,000)") from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # Pillow documents few errors, and raises many types for a damaged file
        raise ImageError(f"{name} is damaged: {first_line(error)}") from error


def _open(content: bytes | bytearray) -> Image.Image:
    # Warning filters are global to the process, hence the lock.
    with _warnings, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(content), formats=COMMON_FORMATS)
        except UnidentifiedImageError:
            return Image.open(io.BytesIO(content), formats=_formats())


def _describe_frames(image: Image.Image) -> str:
    """Return a note if only one of several frames is read."""
    # The second frame of an MPO file, which some cameras write, is a preview of the photo.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return f"only frame {image.tell() + 1} of {frames} was read" if frames > 1 else ""


def _check_memory(image: Image.Image, size: tuple[int, int], file_bytes: int) -> int:
    """Return the memory in bytes that it takes to decode and convert an opened image.

    Args:
        image: as it is decoded.
        size: width and height in the file; ``image`` is smaller if the decoder reduces it.
        file_bytes: size of the file.

    Raises:
        ImageError: if it is more than ``MAX_READ_BYTES``.
    """
    decoder = _DECODER_BYTES_PER_PIXEL.get(image.format or "", _OTHER_DECODER_BYTES_PER_PIXEL)
    required = file_bytes + decoder * size[0] * size[1] + _bytes_per_pixel(image) * image.width * image.height
    if required > MAX_READ_BYTES:
        raise ImageError(
            f"it takes too much memory to read: {size[0]:,} x {size[1]:,} pixels of this kind take up to "
            f"{required / 1e6:,.0f} MB, over the limit of {MAX_READ_BYTES / 1e6:,.0f} MB (reduce it to 1,000 x 1,000)"
        )
    return required


def _bytes_per_pixel(image: Image.Image) -> int:
    """Return how much memory a decoded image and its largest copy take, in bytes per pixel."""
    decoded = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    # For a PNG file without EXIF data at its start, getexif would decode the image.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    rotated = decoded if exif.get(ExifTags.Base.Orientation, 1) != 1 else 0
    if image.has_transparency_data:
        converted = 4 if image.mode == "RGBA" else 8  # to RGBA, and to RGBa before it is reduced
    else:
        converted = 0 if image.mode in ("L", "RGB") else 4
    return decoded + max(converted, rotated)
