"""Draw pages that show a digit with clutter: frames, lines, dots, plots, shadows, unusual pens, or other digits.

``scripts/pictures.py --generated`` measures models on these pages, and tests use a few of the pages.
"""

from collections.abc import Callable

import numpy as np
import paper
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Coverage = NDArray[np.float32]  # ink coverage of each pixel, [H, W], in [0, 1]
Draw = Callable[[NDArray[np.uint8], np.random.Generator], Image.Image]

SIDES = (120, 400)  # range of a page's side, in pixels
DIGIT_SIDES = (0.3, 0.6)  # range of the digit's longer side, as a fraction of the page's side
SUPERSAMPLING = 3  # lines are drawn at this scale and then reduced, for anti-aliased edges


def page(kind: str, digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a page of one of the ``KINDS`` with a digit, uint8 [28, 28]; return a greyscale image, or RGBA."""
    return KINDS[kind](digit, rng)


# ---- A digit on a page -----------------------------------------------------------------------------------------------


class _Sheet:
    """A page with a digit, to which lines can be added."""

    def __init__(self, digit: NDArray[np.uint8], rng: np.random.Generator, sides: tuple[float, float] = DIGIT_SIDES):
        self.rng = rng
        self.side = int(rng.integers(*SIDES))
        self.scale = self.side * rng.uniform(*sides)  # longer side of the digit
        shape = _stroke(digit, int(self.scale), rng)
        self.height, self.width = shape.shape
        margin = int(0.15 * self.side)
        self.top, self.left = (
            int(rng.integers(margin, max(margin + 1, self.side - margin - length))) for length in shape.shape
        )
        self.ink = np.zeros((self.side, self.side), dtype=np.float32)
        self.paste(shape, self.top, self.left)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The left, top, right and bottom edge of the digit."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def paste(self, shape: Coverage, top: int, left: int) -> None:
        """Add ink whose top left corner is at this position, clipped to the page."""
        clipped = shape[max(0, -top) : self.side - top, max(0, -left) : self.side - left]
        row, column = max(0, top), max(0, left)
        part = self.ink[row : row + clipped.shape[0], column : column + clipped.shape[1]]
        np.maximum(part, clipped, out=part)

    def draw(self, draw: Callable[[ImageDraw.ImageDraw, float], object], grey: float | None = None) -> None:
        """Add a drawing.

        Args:
            draw: a function that draws in white; it takes a canvas and the scale of the canvas.
            grey: strength of the ink, in [0, 1]; by default a random value from 0.5 to 1.
        """
        size = SUPERSAMPLING * self.side
        canvas = Image.new("L", (size, size), 0)
        draw(ImageDraw.Draw(canvas), SUPERSAMPLING)
        strength = self.rng.uniform(0.5, 1) if grey is None else grey
        added = np.asarray(canvas.resize((self.side, self.side), Image.Resampling.BOX), dtype=np.float32) / 255
        self.ink = np.maximum(self.ink, strength * added)

    def pen(self) -> float:
        """Return a random line thickness, in pixels, up to about a third of a typical stroke width."""
        return float(self.rng.uniform(1, max(1.5, 0.04 * self.scale)))

    def line(self, points: list[tuple[float, float]], thickness: float | None = None) -> None:
        width = self.pen() if thickness is None else thickness
        self.draw(
            lambda pen, k: pen.line([(k * x, k * y) for x, y in points], fill=255, width=max(1, round(k * width)))
        )

    def image(self) -> Image.Image:
        return _paint(self.ink, self.rng)


def _stroke(digit: NDArray[np.uint8], side: int, rng: np.random.Generator, width: float | None = None) -> Coverage:
    """Return the cropped ink of a digit, scaled to a longer side of ``side`` pixels."""
    stroke = paper.enlarge(digit, width or rng.uniform(0.5, 1.2))
    rows, columns = np.flatnonzero(stroke.max(1) > 0.2), np.flatnonzero(stroke.max(0) > 0.2)
    cropped = stroke[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side / max(cropped.shape)
    size = [max(1, round(scale * length)) for length in cropped.shape[::-1]]
    return np.asarray(Image.fromarray(cropped).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)


def _paint(ink: Coverage, rng: np.random.Generator, light: Coverage | None = None) -> Image.Image:
    """Return the page as a greyscale image: dark on light or light on dark, clean or with some blur and noise."""
    background, pen = rng.uniform(0.75, 1), rng.uniform(0, 0.3)
    if light is None and rng.random() < 0.2:
        background, pen = pen, background
    grey = background + (pen - background) * ink
    if light is not None:
        grey = grey * light
    if rng.random() < 0.5:
        grey = ndimage.gaussian_filter(grey, rng.uniform(0.3, 0.8)) + rng.normal(0, rng.uniform(0, 0.02), grey.shape)
    return Image.fromarray((255 * grey.clip(0, 1)).astype(np.uint8))


# ---- Frames ----------------------------------------------------------------------------------------------------------


def _frame(sheet: _Sheet) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom edge of a rectangle around the digit, within the page."""
    left, top, right, bottom = sheet.box
    gaps = sheet.rng.uniform(0.08, 0.5, 4) * sheet.scale + 3
    limit = sheet.side - 4
    return max(3, left - gaps[0]), max(3, top - gaps[1]), min(limit, right + gaps[2]), min(limit, bottom + gaps[3])


def _box(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng)
    left, top, right, bottom = _frame(sheet)
    sheet.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    return sheet.image()


def _circle(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng, (0.25, 0.45))
    left, top, right, bottom = sheet.box
    x, y, width = (left + right) / 2, (top + bottom) / 2, sheet.pen()
    radius = np.hypot(right - left, bottom - top) / 2 * rng.uniform(1.1, 1.6) + 3
    radius = min(radius, *(sheet.side - 3 - value for value in (x, y)), x - 3, y - 3)
    radius = max(radius, np.hypot(right - left, bottom - top) / 2 + 3)
    corners = (x - radius, y - radius, x + radius, y + radius)
    sheet.draw(
        lambda pen, k: pen.ellipse([k * value for value in corners], outline=255, width=max(1, round(k * width)))
    )
    return sheet.image()


def _axes(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw the axes or the frame of a plot, with ticks and with tick labels outside."""
    sheet = _Sheet(digit, rng, (0.25, 0.5))
    left, top, right, bottom = _frame(sheet)
    left, bottom = max(left, 0.1 * sheet.side), min(bottom, 0.9 * sheet.side)
    corners = [(left, top), (left, bottom), (right, bottom)]
    sheet.line(corners if rng.random() < 0.5 else [*corners, (right, top), (left, top)])
    font = ImageFont.load_default(max(6, 0.04 * sheet.side) * SUPERSAMPLING)
    for number, share in enumerate(np.linspace(0.1, 0.9, int(rng.integers(3, 7)))):
        x, y, tick = left + share * (right - left), bottom - share * (bottom - top), 0.015 * sheet.side + 1
        sheet.line([(x, bottom), (x, bottom + tick)], 1)
        sheet.line([(left, y), (left - tick, y)], 1)
        for at, anchor in (((x, bottom + tick + 2), "mt"), ((left - tick - 2, y), "rm")):
            sheet.draw(
                lambda pen, k, at=at, anchor=anchor, text=str(number): pen.text(
                    (k * at[0], k * at[1]), text, fill=255, font=font, anchor=anchor
                )
            )
    return sheet.image()


def _panel(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a light digit on a dark rectangle, on a light page."""
    sheet = _Sheet(digit, rng, (0.25, 0.45))
    left, top, right, bottom = (round(value) for value in _frame(sheet))
    panel = np.zeros_like(sheet.ink)
    panel[top:bottom, left:right] = 1
    sheet.ink = np.maximum(panel - sheet.ink, 0)
    return sheet.image()


# ---- Lines and dots --------------------------------------------------------------------------------------------------


def _underline(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng)
    left, _, right, bottom = sheet.box
    y = bottom + rng.uniform(0.04, 0.25) * sheet.scale + 2
    before, after = rng.uniform(0, 0.6, 2) * sheet.scale
    sheet.line([(left - before, y), (right + after, y + rng.uniform(-0.02, 0.02) * sheet.scale)])
    return sheet.image()


def _writing_line(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a line across the page; the digit stands on the line, or the line crosses its lower part."""
    sheet = _Sheet(digit, rng)
    y = sheet.box[3] + rng.uniform(-0.15, 0.15) * sheet.scale
    sheet.line([(0, y), (sheet.side, y + rng.uniform(-0.01, 0.01) * sheet.side)])
    return sheet.image()


def _ruled(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng)
    step = rng.uniform(0.5, 1.3) * sheet.scale
    width, slope = rng.uniform(1, max(1.2, 0.02 * sheet.scale)), rng.uniform(-0.01, 0.01)
    for y in np.arange(rng.uniform(0, step), sheet.side, step):
        sheet.line([(0, y), (sheet.side, y + slope * sheet.side)], width)
    return sheet.image()


def _squared(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng)
    step, width = rng.uniform(0.2, 0.6) * sheet.scale, rng.uniform(1, max(1.2, 0.02 * sheet.scale))
    for at in np.arange(rng.uniform(0, step), sheet.side, step):
        sheet.line([(0, at), (sheet.side, at)], width)
        sheet.line([(at, 0), (at, sheet.side)], width)
    return sheet.image()


def _line_through(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a straight line, in any direction, through the digit and beyond it on both sides."""
    sheet = _Sheet(digit, rng)
    left, top, right, bottom = sheet.box
    x, y = left + rng.uniform(0.3, 0.7) * (right - left), top + rng.uniform(0.3, 0.7) * (bottom - top)
    angle, length = rng.uniform(0, np.pi), rng.uniform(0.8, 1.5) * sheet.scale
    across, down = length * np.cos(angle), length * np.sin(angle)
    sheet.line([(x - across, y - down), (x + across, y + down)])
    return sheet.image()


def _margin_line(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    sheet = _Sheet(digit, rng)
    x = sheet.box[0] - rng.uniform(0.1, 0.4) * sheet.scale
    sheet.line([(x, 0), (x + rng.uniform(-0.02, 0.02) * sheet.side, sheet.side)])
    return sheet.image()


def _dots(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw one to three dots or punch holes at some distance from the digit."""
    sheet = _Sheet(digit, rng)
    left, top, right, bottom = sheet.box
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(0.03, 0.22) * sheet.scale + 1
        for _ in range(100):
            x, y = rng.uniform(radius, sheet.side - radius, 2)
            gap = np.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom)) - radius
            if gap > 0.2 * sheet.scale:
                corners = (x - radius, y - radius, x + radius, y + radius)
                sheet.draw(lambda pen, k, corners=corners: pen.ellipse([k * value for value in corners], fill=255))
                break
    return sheet.image()


# ---- Pens, light and edges -------------------------------------------------------------------------------------------


def _thin_pen(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw the digit with a pen of one pixel, on a page of 40 to 120 pixels."""
    side = int(rng.integers(40, 121))
    scale = int(side * rng.uniform(0.5, 0.9))
    stroke = _stroke(digit, scale, rng, width=10 / scale)
    ink = np.zeros((side, side), dtype=np.uint8)
    top, left = ((side - length) // 2 for length in stroke.shape)
    ink[top : top + stroke.shape[0], left : left + stroke.shape[1]] = stroke > 0.4
    return Image.fromarray(255 - 255 * ink)


def _translucent(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw the digit with translucent ink on a transparent background."""
    sheet = _Sheet(digit, rng)
    image = Image.new("RGBA", (sheet.side, sheet.side), (*rng.integers(0, 256, 3).tolist(), 0))
    opacity = rng.uniform(0.1, 1)
    image.putalpha(Image.fromarray((255 * opacity * sheet.ink).astype(np.uint8)))
    return image


def _at_the_edge(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a digit that touches one or two edges of the page."""
    sheet = _Sheet(digit, rng, (0.4, 0.7))
    edges = [0, sheet.side - sheet.height], [0, sheet.side - sheet.width]
    touched = int(rng.integers(1, 4))  # 1: vertically, 2: horizontally, 3: both
    shape = sheet.ink[sheet.top : sheet.top + sheet.height, sheet.left : sheet.left + sheet.width]
    sheet.ink = np.zeros_like(sheet.ink)
    sheet.paste(
        shape,
        int(rng.choice(edges[0])) if touched & 1 else sheet.top,
        int(rng.choice(edges[1])) if touched & 2 else sheet.left,
    )
    return sheet.image()


def _shadow(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a page with a shadow edge across it."""
    sheet = _Sheet(digit, rng)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: sheet.side, : sheet.side] / sheet.side - 0.5
    distance = x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.3, 0.3)
    softness = rng.uniform(0.005, 0.1)
    light = 1 - rng.uniform(0.15, 0.5) / (1 + np.exp(-(distance / softness).clip(-50, 50)))
    return _paint(sheet.ink, rng, light)


# ---- Other digits ----------------------------------------------------------------------------------------------------


def _two(digit: NDArray[np.uint8], rng: np.random.Generator, gaps: tuple[float, float]) -> Image.Image:
    """Draw the digit twice, side by side. ``gaps`` is the range of the gap, as a fraction of the digit's side."""
    sheet = _Sheet(digit, rng, (0.25, 0.35))
    gap = rng.uniform(*gaps) * sheet.scale
    columns = np.flatnonzero(sheet.ink.any(0))
    shape = sheet.ink[sheet.top : sheet.top + sheet.height, sheet.left : sheet.left + sheet.width]
    sheet.ink = np.zeros_like(sheet.ink)
    left = int(0.05 * sheet.side)
    sheet.paste(shape, sheet.top, left)
    sheet.paste(shape, sheet.top + int(rng.uniform(-0.1, 0.1) * sheet.scale), int(left + len(columns) + gap))
    return sheet.image()


def _two_digits(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    return _two(digit, rng, (0.1, 0.8))


def _touching_digits(digit: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    return _two(digit, rng, (-0.1, 0))


KINDS: dict[str, Draw] = {
    "box": _box,
    "circle": _circle,
    "axes": _axes,
    "panel": _panel,
    "underline": _underline,
    "writing line": _writing_line,
    "ruled paper": _ruled,
    "squared paper": _squared,
    "line through": _line_through,
    "margin line": _margin_line,
    "dots": _dots,
    "thin pen": _thin_pen,
    "translucent": _translucent,
    "at the edge": _at_the_edge,
    "shadow": _shadow,
    "two digits": _two_digits,
    "touching digits": _touching_digits,
}
SEVERAL_DIGITS = ("two digits", "touching digits")  # kinds of pages with two digits, on which any prediction is wrong
