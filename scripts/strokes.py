"""Digits and a letter as pen strokes, drawn in the way that people write them.

They were made for this project, so that example pictures and screenshots need no images from a data set.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]  # x to the right and y down, as fractions of the drawing area
Stroke = list[Point]  # points on the pen's path, close enough to be joined by straight lines

STEPS_PER_PIECE = 12  # number of line segments between two given points of a smooth curve


def smooth(*points: Point) -> Stroke:
    """Return a smooth curve through all points (a Catmull-Rom spline)."""
    ends = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, STEPS_PER_PIECE, endpoint=False)[:, None]
    curve: Stroke = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        piece = b + t * (c - a) / 2 + t**2 * (2 * a - 5 * b + 4 * c - d) / 2 + t**3 * (3 * b - a - 3 * c + d) / 2
        curve += [(float(x), float(y)) for x, y in piece]
    return [*curve, points[-1]]


def arc(x: float, y: float, width: float, height: float, first: int, last: int) -> Stroke:
    """Return points on an ellipse, clockwise, in steps of 1/4 radian from the top.

    The points are rounded, because the last bits of a sine depend on the system, but a hash of the points must not.
    """
    turns = [step / 4 for step in range(first, last + 1)]
    return [(round(x + width * math.sin(turn), 4), round(y - height * math.cos(turn), 4)) for turn in turns]


THREE: list[Stroke] = [arc(0.48, 0.32, 0.2, 0.15, -4, 11) + arc(0.47, 0.66, 0.2, 0.18, 0, 16)]

STROKES: dict[str, list[Stroke]] = {
    "0": [smooth((0.55, 0.03), (0.27, 0.14), (0.16, 0.48), (0.24, 0.85), (0.46, 0.98), (0.70, 0.84), (0.78, 0.48),
                 (0.70, 0.14), (0.52, 0.02), (0.40, 0.06))],
    "1": [smooth((0.33, 0.24), (0.45, 0.14), (0.55, 0.02)) + smooth((0.55, 0.02), (0.52, 0.50), (0.50, 0.99))],
    "2": [smooth((0.16, 0.25), (0.30, 0.06), (0.58, 0.03), (0.72, 0.24), (0.60, 0.52), (0.34, 0.78), (0.12, 0.96))
          + smooth((0.12, 0.96), (0.45, 0.93), (0.84, 0.96))],
    "3": THREE,
    "4": [smooth((0.42, 0.03), (0.28, 0.32), (0.12, 0.60)) + smooth((0.12, 0.60), (0.48, 0.59), (0.86, 0.56)),
          smooth((0.65, 0.30), (0.62, 0.64), (0.60, 0.99))],
    "5": [smooth((0.28, 0.06), (0.25, 0.24), (0.22, 0.44))
          + smooth((0.22, 0.44), (0.46, 0.37), (0.72, 0.50), (0.76, 0.74), (0.56, 0.95), (0.16, 0.90)),
          smooth((0.28, 0.06), (0.52, 0.05), (0.78, 0.02))],
    "6": [smooth((0.64, 0.02), (0.38, 0.22), (0.20, 0.58), (0.24, 0.88), (0.48, 0.98), (0.72, 0.85), (0.70, 0.62),
                 (0.48, 0.54), (0.24, 0.70))],
    "7": [smooth((0.14, 0.07), (0.46, 0.08), (0.82, 0.04)) + smooth((0.82, 0.04), (0.58, 0.46), (0.42, 0.99))],
    "8": [smooth((0.70, 0.13), (0.48, 0.02), (0.25, 0.18), (0.42, 0.42), (0.70, 0.66), (0.68, 0.90), (0.45, 0.99),
                 (0.22, 0.86), (0.30, 0.62), (0.58, 0.40), (0.73, 0.20), (0.62, 0.06))],
    "9": [smooth((0.72, 0.18), (0.50, 0.03), (0.25, 0.15), (0.24, 0.38), (0.46, 0.48), (0.68, 0.34), (0.74, 0.14))
          + smooth((0.74, 0.14), (0.70, 0.55), (0.58, 0.99))],
    "K": [smooth((0.20, 0.02), (0.22, 0.50), (0.20, 0.99)),
          smooth((0.76, 0.04), (0.50, 0.34), (0.23, 0.55)) + smooth((0.23, 0.55), (0.50, 0.74), (0.82, 0.99))],
}  # fmt: skip


def draw(size: tuple[int, int], lines: list[Stroke], thickness: float) -> NDArray[np.float64]:
    """Return the fraction of each pixel that a round pen covers, [height, width], in [0, 1].

    Args:
        size: width and height in pixels.
        lines: strokes, with points in pixels.
        thickness: diameter of the pen, in pixels.
    """
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    distance = np.full(x.shape, np.inf)
    for line in lines:
        for (x0, y0), (x1, y1) in itertools.pairwise(line):
            dx, dy = x1 - x0, y1 - y0
            along = ((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12)
            along = along.clip(0, 1)
            distance = np.minimum(distance, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
    return (thickness / 2 - distance + 0.5).clip(0, 1)


def place(symbol: str, left: float, top: float, height: float, degrees: float = 0) -> list[Stroke]:
    """Return a symbol's strokes in pixels, within a square with this corner and side, rotated counterclockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        [
            (
                left + height * (0.5 + cos * (x - 0.5) + sin * (y - 0.5)),
                top + height * (0.5 - sin * (x - 0.5) + cos * (y - 0.5)),
            )
            for x, y in stroke
        ]
        for stroke in STROKES[symbol]
    ]
