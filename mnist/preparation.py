"""Convert a user's image to the format of MNIST: white on black, fitted into 20 x 20 pixels, centred in 28 x 28.

An image goes through three steps: read the file, find the ink of the digit, and fit the ink into 28 x 28 pixels.
"""

import functools
import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist import files
from mnist.errors import MnistError, first_line
from mnist.shapes import IMAGE_SIDE

BOX_SIDE = 20  # pixels: longer side of the digit in a prepared image
CENTRE = 14  # row and column of the pixel with the digit's centre of mass in a prepared image

MAX_IMAGE_FILE_BYTES = 200_000_000
MAX_READ_BYTES = 400_000_000  # of memory for a file, its decoded pixels and their copies
UNSUPPORTED_EXTENSIONS = (".heic", ".heif")  # photos that Pillow cannot read; they are errors, not skipped
MAX_READ_SIDE = 1024  # pixels: an image whose longer side is larger is downscaled to it when it is read
MAX_SEARCH_SIDE = 256  # pixels: the digit is located in a copy whose longer side is at most this
MIN_DIGIT_SIDE = 8  # pixels: minimum of the longer side of a digit, and of the shorter side of an image
MAX_ASPECT_RATIO = 64  # longer side of an image divided by its shorter side
MIN_CONTRAST = 0.08  # distance between the colours of ink and background; black and white are sqrt(channels) apart
MIN_SIGNAL_TO_NOISE = 6  # contrast of the ink, in standard deviations of the noise
MIN_COMPONENT_AREA = 0.05  # of a connected component, as a fraction of the largest one; smaller ones are dirt
MAX_COMPONENTS = 6  # connected components of a digit, and holes in it; 5,000 digits of MNIST have at most 5 of each
MAX_BORDER_FRACTION = 0.1  # of the image's border; a component that covers more is the edge of the paper
MAX_BORDER_FRACTION_OF_CROP = 0.5  # the same for an image that is cropped to the digit
MIN_CLASS_SEPARATION = 0.8  # share of the variance of the pixels that two classes, ink and background, explain
MIN_HOLE_AREA = 0.01  # of a hole in the digit, as a fraction of the ink; smaller ones are noise
WEAK_INK, STRONG_INK = 0.3, 0.5  # hysteresis: minimum strength of a component's pixels, and of its strongest one
MIN_STROKE_HALF_WIDTH = 1.1  # pixels of a prepared image; 9 out of 10 digits of MNIST have wider strokes

ROWS_PER_STRIP = 64  # of an image of more than 8 bits, which is converted in strips to save memory
# Memory that a decoder takes beside the decoded image, by Pillow's name of the format.
_DECODER_BYTES_PER_PIXEL = {"PNG": 0, "JPEG": 6, "MPO": 6, "AVIF": 8, "WEBP": 12, "JPEG2000": 16}
_OTHER_DECODER_BYTES_PER_PIXEL = 4

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


class ImageError(MnistError):
    """A file that is not an image, or an image that cannot be searched for a digit."""


class NoDigitError(ImageError):
    """An image that does not show exactly one digit."""


class NothingFoundError(NoDigitError):
    """An image in which nothing stands out from the background."""


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Pixels:
    """Read an image file of any format that Pillow supports; return float32 [H, W, 3] in [0, 1], H and W at most 1024.

    The image is rotated according to its EXIF data. Transparent pixels get a contrasting grey level.

    Raises:
        ImageError: if the file is missing or not an image, or the image is damaged, animated or too large.
        OSError: if the file cannot be read.
    """
    try:
        content = io.BytesIO(files.read(path, MAX_IMAGE_FILE_BYTES))
    except FileNotFoundError:
        raise ImageError(f"there is no image at {path}") from None
    except files.UnreadableError as error:
        raise ImageError(str(error)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=_formats()) as image:
                _check_frames(image)
                size, file_bytes = image.size, content.getbuffer().nbytes
                image.draft("RGB", (MAX_READ_SIDE, MAX_READ_SIDE))  # decodes a JPEG no larger than needed
                _check_memory(image, size, file_bytes)
                image.load()
                _check_memory(image, size, file_bytes)  # the image in an ICO file may be larger than the header says
                ImageOps.exif_transpose(image, in_place=True)
                return _convert(image)
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read (save it as PNG or JPEG)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path} has over {Image.MAX_IMAGE_PIXELS:,} pixels (reduce it to 1,000 x 1,000)") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except Exception as error:  # Pillow documents few errors, and raises many types for a damaged file
        raise ImageError(f"{path} is damaged: {first_line(error)}") from error


def find_images(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders that have an image's extension, sorted, except hidden ones."""
    _formats()  # registers the extensions
    extensions = {*Image.registered_extensions(), *UNSUPPORTED_EXTENSIONS}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in extensions
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@functools.cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads without another program. For EPS it runs Ghostscript on the file."""
    Image.init()
    return sorted({*Image.OPEN} - {"EPS"})


def prepare_file(path: Path) -> NDArray[np.uint8] | ImageError:
    """Read and prepare an image file; return uint8 [28, 28], or the error if that fails."""
    try:
        return prepare(read(path))
    except ImageError as error:
        return error
    except OSError as error:  # one unreadable file must not stop the processing of the others
        return ImageError(f"{path} cannot be read: {error.strerror or error}")


def to_pixels(image: Image.Image) -> Pixels:
    """Convert an image that Pillow has opened, of any mode, to what :func:`read` returns.

    Raises:
        ImageError: if it is an animation or has several pages.
    """
    _check_frames(image)
    image.draft("RGB", (MAX_READ_SIDE, MAX_READ_SIDE))
    return _convert(ImageOps.exif_transpose(image))  # a copy: the caller's image is not rotated


def _check_frames(image: Image.Image) -> None:
    # The second frame of an MPO file, which some cameras write, is a preview of the photo.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise ImageError(f"it has {getattr(image, 'n_frames', 1)} frames or pages (save one of them as an image)")


def _check_memory(image: Image.Image, size: tuple[int, int], file_bytes: int) -> None:
    """Check that an opened image can be decoded and converted within ``MAX_READ_BYTES``.

    Args:
        image: as it is decoded.
        size: width and height in the file; ``image`` is smaller if the decoder reduces it.
        file_bytes: size of the file.

    Raises:
        ImageError: if not.
    """
    decoder = _DECODER_BYTES_PER_PIXEL.get(image.format or "", _OTHER_DECODER_BYTES_PER_PIXEL)
    required = file_bytes + decoder * size[0] * size[1] + _bytes_per_pixel(image) * image.width * image.height
    if required > MAX_READ_BYTES:
        raise ImageError(
            f"it takes too much memory to read: {size[0]:,} x {size[1]:,} pixels of this kind take up to "
            f"{required / 1e6:,.0f} MB, over the limit of {MAX_READ_BYTES / 1e6:,.0f} MB (reduce it to 1,000 x 1,000)"
        )


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


def _convert(image: Image.Image) -> Pixels:
    """Convert a decoded image to what :func:`read` returns; the image itself may be changed."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    # Greyscale is reduced before it is converted to RGB, which takes four times the memory.
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    image.thumbnail((MAX_READ_SIDE, MAX_READ_SIDE), Image.Resampling.BILINEAR)
    if mode == "RGBA":
        image = _add_background(image)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a greyscale image of more than 8 bits. Its darkest value becomes 0 and its brightest 255."""
    strips = [(top, min(top + ROWS_PER_STRIP, image.height)) for top in range(0, image.height, ROWS_PER_STRIP)]

    def read_strip(top: int, bottom: int) -> Pixels:
        return np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.float32)

    extremes = np.array([[values.min(), values.max()] for values in itertools.starmap(read_strip, strips)])
    if not np.isfinite(extremes).all():
        raise ImageError("some pixels are NaN or infinite")
    low, high = extremes.min(), extremes.max()
    levels = np.empty((image.height, image.width), dtype=np.uint8)
    for top, bottom in strips:
        levels[top:bottom] = (read_strip(top, bottom) - low) * (255 / (high - low or 1))
    return Image.fromarray(levels)


def _add_background(image: Image.Image) -> Image.Image:
    """Composite an RGBA image onto a uniform grey background that contrasts with the digit.

    If the grey levels of the opaque pixels vary widely, they show both the digit and its paper, and the background
    becomes their median. Otherwise their outline is the digit, and it becomes white or black, whichever differs more.
    """
    alpha, greys = np.asarray(image.getchannel("A")), np.asarray(image.convert("L"))
    opaque = greys[alpha > 127]
    if not len(opaque):
        return Image.new("RGB", image.size)
    dark, light = np.percentile(opaque, [5, 95])
    median = np.median(opaque)
    background = int(median) if light - dark > 64 else 255 if median < 128 else 0
    return Image.alpha_composite(Image.new("RGBA", image.size, (background, background, background, 255)), image)


# ---- Preparation -----------------------------------------------------------------------------------------------------


def prepare(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert an image, float32 [H, W, channels] in [0, 1], to an image like MNIST's, uint8 [28, 28].

    The digit may be dark on light or light on dark, in any colours and under uneven light.

    Raises:
        NoDigitError: if the image does not show exactly one digit.
    """
    return fit(find_ink(pixels))


def find_ink(pixels: Pixels) -> Pixels:
    """Find the digit in an image, float32 [H, W, channels] in [0, 1]; return its ink, float32 [h, w] in [0, 1].

    The result is cropped to the digit. The background is the colour of most of the image and may change slowly across
    it. The ink is what differs from the background along the dominant direction of difference in colour space. Dirt and
    the edge of the paper are removed, and strokes thinner than MNIST's are widened.

    If this finds nothing, the image may be cropped to the digit, so that the background is not its main colour. The
    pixels are then divided into two classes by colour; the class of most border pixels is the background.

    Raises:
        NoDigitError: if the image does not show exactly one digit.
    """
    if min(pixels.shape[:2]) < max(MIN_DIGIT_SIDE, max(pixels.shape[:2]) // MAX_ASPECT_RATIO):
        raise NoDigitError(
            f"no digit found (an image of {pixels.shape[1]} x {pixels.shape[0]} pixels is too small or narrow)"
        )
    try:
        return _find_ink_on_page(pixels)
    except NothingFoundError:
        return _find_ink_in_crop(pixels)


def _find_ink_on_page(pixels: Pixels) -> Pixels:
    """Find a digit that is surrounded by background; see :func:`find_ink`."""
    if max(pixels.shape[:2]) > MAX_SEARCH_SIDE:
        # Locate the digit in a reduced version, and crop the image to it for the exact search below.
        reduced = _reduce(pixels)
        scale = max(pixels.shape[:2]) // max(reduced.shape[:2])
        box = _bounding_box(_digit_components(_ink_strength(reduced)))
        margin = scale * max(_sides(box)) // 2
        pixels = _reduce(pixels[_expand([edge * scale for edge in box], margin)])
    strength = _ink_strength(pixels)
    return _crop_ink(strength, _digit_components(strength))


def _find_ink_in_crop(pixels: Pixels) -> Pixels:
    """Find a digit that the image is cropped to; see :func:`find_ink`."""
    pixels = _reduce(pixels)
    strength = _two_class_strength(pixels)
    return _crop_ink(strength, _digit_components(strength, MAX_BORDER_FRACTION_OF_CROP))


def _two_class_strength(pixels: Pixels) -> Pixels:
    """Return how much each pixel resembles ink, float32 [H, W]: about 0 for background, 1 for ink.

    The two classes are those of Otsu's method along the principal axis of the colours.

    Raises:
        NothingFoundError: if the pixels do not form two classes, or these differ little.
    """
    colours = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    centred = colours - colours.mean(0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    values = (centred @ axis).reshape(pixels.shape[:2])
    ordered = np.sort(values.ravel())
    # Variance between the two classes, for each possible size of the lower class:
    counts = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)[:-1]
    between = sums**2 / counts + sums**2 / (ordered.size - counts)  # the sum of all values is 0
    split = int(between.argmax())
    if between[split] < MIN_CLASS_SEPARATION * float(ordered @ ordered):
        raise NothingFoundError("no digit found")
    threshold = (ordered[split] + ordered[split + 1]) / 2
    low, high = float(ordered[: split + 1].mean()), float(ordered[split + 1 :].mean())
    edge = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    background, ink = (low, high) if (edge <= threshold).mean() >= 0.5 else (high, low)
    if high - low < MIN_CONTRAST:
        raise NothingFoundError("no digit found")
    strength: Pixels = ((values - background) / (ink - background)).astype(np.float32)
    return strength


def _crop_ink(strength: Pixels, components: Mask) -> Pixels:
    """Return the ink of the components, float32 [h, w] in [0, 1], cropped to them."""
    box = _bounding_box(components)
    side = max(_sides(box))
    if side < MIN_DIGIT_SIDE:
        raise NothingFoundError("no digit found")
    crop = _expand(box, margin=side // BOX_SIDE + 2)
    strength, components = strength[crop], components[crop]
    ink: Pixels
    if side <= 2 * BOX_SIDE:  # keep the grey levels: they describe the shape of a small digit
        ink = np.where(ndimage.binary_dilation(components), strength.clip(0, 1), 0)
    else:
        ink = np.where(ndimage.binary_dilation(components, iterations=2), (2 * strength - 0.5).clip(0, 1), 0)
        ink = np.maximum(ink, _widen(components, side))
    return ink


def _reduce(pixels: Pixels) -> Pixels:
    """Reduce an image by an integer factor, so that its longer side is at most ``MAX_SEARCH_SIDE``."""
    factor = -(-max(pixels.shape[:2]) // MAX_SEARCH_SIDE)
    divisible = pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]
    parts = [divisible[row::factor, column::factor] for row in range(factor) for column in range(factor)]
    block_means: Pixels = np.mean(parts, axis=0)
    return block_means


def _ink_strength(pixels: Pixels) -> Pixels:
    """Return how much each pixel differs from the background, float32 [H, W]: about 0 for background, 1 for ink.

    Raises:
        NoDigitError: if nothing differs clearly from the background.
    """
    sigma = max(pixels.shape[:2]) / 320  # pixels: has hardly any effect on a small image
    difference = ndimage.gaussian_filter(pixels - _estimate_background(pixels), (sigma, sigma, 0))
    distance = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    # The threshold is half the largest distance, not counting a few outliers: 0.1 % of the pixels and 4 more.
    rank = distance.size - 1 - distance.size // 1000 - 4
    threshold = np.partition(distance.ravel(), rank)[rank] / 2
    direction = difference[distance > threshold]
    # Sum only the differences in the direction of the majority, without those in the opposite direction.
    direction = direction[direction @ direction.sum(0) > 0].sum(0)
    strength: Pixels = difference @ (direction / max(float(np.linalg.norm(direction)), 1e-9))
    ink = strength[strength > threshold]
    contrast = float(np.median(ink)) if len(ink) else 0.0
    # 1.4826 times the median absolute deviation estimates the standard deviation of a normal distribution.
    noise = 1.4826 * float(np.median(np.abs(strength[::2, ::2])))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL_TO_NOISE * noise):
        raise NothingFoundError("no digit found")
    return strength / np.float32(contrast)


def _estimate_background(pixels: Pixels) -> Pixels:
    """Estimate the image without its digit: in each channel a quadratic polynomial, fitted to most of the pixels."""
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // 48)
    rows, columns = ((np.arange(side, dtype=np.float32) - side / 2) / max(height, width) for side in (height, width))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    samples, values = (a[step // 2 :: step, step // 2 :: step].reshape(-1, a.shape[-1]) for a in (terms, pixels))
    residual = np.abs(values - np.median(values, axis=0)).max(1)
    # Fit a constant, then a linear and a quadratic polynomial. Each time, leave out pixels that are far from the last
    # fit: they are not background.
    for term_count in (1, 3, 3, 6, 6, 6):
        inliers = residual <= max(2.5 * float(np.median(residual)), 0.02)
        basis = samples[:, :term_count]
        normal_matrix = basis[inliers].T @ basis[inliers]
        coefficients = np.linalg.lstsq(normal_matrix, basis[inliers].T @ values[inliers], rcond=None)[0]
        residual = np.abs(values - basis @ coefficients).max(1)
    background: Pixels = (terms @ coefficients).astype(np.float32)
    return background


def _digit_components(strength: Pixels, max_border_fraction: float = MAX_BORDER_FRACTION) -> Mask:
    """Return the connected components of the ink that belong to the digit, bool [H, W].

    Args:
        strength: of the ink, float32 [H, W].
        max_border_fraction: of the image's border that a component may cover.

    Raises:
        NothingFoundError: if there is no such component.
        NoDigitError: if they do not form exactly one digit.
    """
    labels, count = ndimage.label(strength > WEAK_INK, np.ones((3, 3)))
    chosen = ndimage.maximum(strength, labels, np.arange(count + 1)) > STRONG_INK
    area = np.bincount(labels.ravel(), minlength=count + 1)
    border = np.ones_like(labels, dtype=bool)
    border[1:-1, 1:-1] = False
    chosen &= np.bincount(labels[border], minlength=count + 1) <= max_border_fraction * border.sum()
    chosen[0] = False  # label 0 is the background
    if not chosen.any():
        raise NothingFoundError("no digit found")
    chosen &= area >= MIN_COMPONENT_AREA * area[chosen].max()
    components: Mask = chosen[labels]
    hole_areas = np.bincount(ndimage.label(~components)[0].ravel())[1:]
    holes = int((hole_areas >= MIN_HOLE_AREA * components.sum()).sum()) - 1
    if chosen.sum() > MAX_COMPONENTS or holes > MAX_COMPONENTS:
        raise NoDigitError("no digit found (too many marks for one)")
    _refuse_several_digits(labels, chosen)
    return components


def _refuse_several_digits(labels: NDArray[np.int32], chosen: Mask) -> None:
    """Raise an error if tall components stand side by side: each of them is a digit."""
    objects = ndimage.find_objects(labels)
    boxes = [objects[label - 1] for label in np.flatnonzero(chosen)]
    max_height = max(rows.stop - rows.start for rows, _ in boxes)
    tall = sorted((columns.start, columns.stop) for rows, columns in boxes if rows.stop - rows.start > 0.6 * max_height)
    if any(start >= stop for (_, stop), (start, _) in itertools.pairwise(tall)):
        raise NoDigitError("more than one digit found (crop the image to one)")


def _bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the True values; bottom and right are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _sides(box: Sequence[int]) -> tuple[int, int]:
    top, bottom, left, right = box
    return bottom - top, right - left


def _expand(box: Sequence[int], margin: int) -> tuple[slice, slice]:
    """Return the slices of rows and columns in a box with a margin on each side."""
    top, bottom, left, right = box
    return slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)


def _widen(components: Mask, side: int) -> Pixels:
    """Widen strokes, bool [H, W], to MNIST's minimum width for a digit of that longer side; return float32 ink."""
    depth = ndimage.distance_transform_edt(components)
    half_width = 2 * float(depth[components].mean()) - 0.5  # the mean depth of a stroke is half of its maximum
    missing = max(0.0, MIN_STROKE_HALF_WIDTH * side / BOX_SIDE - half_width)
    # If nothing is missing, the result is 0.5 inside the strokes, where the caller's ink is at least 0.5 already.
    ink: Pixels = (missing + 0.5 - ndimage.distance_transform_edt(~components)).clip(0, 1).astype(np.float32)
    return ink


def fit(ink: Pixels) -> NDArray[np.uint8]:
    """Fit ink, float32 [H, W] in [0, 1], into an image like MNIST's, uint8 [28, 28].

    The ink is cropped, resized to a longer side of 20 pixels with its aspect ratio unchanged, and placed so that its
    centre of mass is at pixel (14, 14), to the nearest whole pixel (Y. LeCun, C. Cortes, C. Burges, "The MNIST
    database"). The resampling filter is a triangle with a half-width of one output pixel, Pillow's BILINEAR. The result
    is all zeros if there is no ink.
    """
    prepared = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    if not ink.any():
        return prepared
    top, bottom, left, right = _bounding_box(ink > 0)
    cropped = ink[top:bottom, left:right]
    scale = BOX_SIDE / max(cropped.shape)
    height, width = (max(1, int(side * scale + 0.5)) for side in cropped.shape)
    resized = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BILINEAR))
    top, left = _centred_start(resized.sum(1)), _centred_start(resized.sum(0))
    prepared[top : top + height, left : left + width] = np.clip(resized, 0, 1) * 255 + 0.5
    return prepared


def _centred_start(mass: Pixels) -> int:
    """Return the index of the first row (or column), given the mass of each, so that the centre of mass is centred."""
    centre = float(mass @ np.arange(len(mass))) / float(mass.sum())
    # The centre of a symmetric drawing often lies exactly between two pixels: 1e-4 decides how it is rounded there.
    return min(max(0, int(np.floor(CENTRE - centre + 0.5 + 1e-4))), IMAGE_SIDE - len(mass))
