"""Draw the pictures in examples/pictures/, or compare a model's results for them with the expected ones.

    python scripts/example_pictures.py                           draw all pictures, and write expected.json
    python scripts/example_pictures.py --model models/....pth    exit with code 1 if a result is wrong

The digits consist of the strokes in scripts/strokes.py. They are not MNIST images, and no model was trained or chosen
on them. A result is wrong if the predicted digit is not the digit in the picture, or if the picture is refused or
accepted unexpectedly. For a picture that must not be refused, "not sure" is never wrong, because this result depends on
the last bits of the weights, which differ between machines. For the letter, every result is accepted, because models
that were trained only on digits recognize a digit in some letters.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import documents
import numpy as np
import strokes
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist import files
from mnist.deploy import inference
from mnist.deploy.inference import Prediction
from mnist.errors import MnistError
from mnist.preparation import ImageError

FOLDER = documents.ROOT / "examples" / "pictures"
JPEG_QUALITY = 80

Colors = NDArray[np.float64]  # [height, width, 3], in [0, 1]
Gray = NDArray[np.float64]  # [height, width], in [0, 1]


@dataclass(frozen=True)
class Picture:
    """An example picture, and the expected result of `mnist predict`."""

    file: str
    shows: str
    digit: str | None  # None if the picture does not show exactly one digit
    reason: str | None  # value of `preparation.Reason` that says why no digit is found; None if a digit is found
    standard: str | None  # result of recipe `standard`, seed 0, trained on MNIST; None if not sure or refused
    draw: Callable[[], Image.Image]

    def is_wrong(self, prediction: Prediction) -> bool:
        """Return True if the predicted digit is wrong, or if the picture is refused or accepted unexpectedly."""
        reason = prediction.reason.value if prediction.problem and prediction.reason else None
        return reason != self.reason or (None not in (self.digit, prediction.label) and prediction.label != self.digit)


# ---- Paper, ink and light --------------------------------------------------------------------------------------------


def _color(*values: int) -> Colors:
    """Return a color, [3], given three values from 0 to 255."""
    return np.array(values) / 255


def _page(size: tuple[int, int], color: Colors) -> Colors:
    return np.full((size[1], size[0], 3), color)


def _ink(
    page: Colors, lines: list[strokes.Stroke], thickness: float, color: Colors, opacity: float | Gray = 1
) -> Colors:
    """Return the page with lines that a pen has drawn."""
    size = page.shape[1], page.shape[0]
    coverage = strokes.draw(size, lines, thickness) * opacity
    return page + coverage[..., None] * (color - page)


def _grain(shape: tuple[int, ...], sigma: float, seed: int) -> Gray:
    """Return smooth noise, [height, width], with a standard deviation of about 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape[:2]), sigma)
    return noise / noise.std()


def _photo(page: Colors, light: float | Gray, seed: int) -> Image.Image:
    """Return a photo of a page in this light: slightly out of focus, with camera noise."""
    lit = ndimage.gaussian_filter(page * np.broadcast_to(light, page.shape[:2])[..., None], (0.8, 0.8, 0))
    return _image(lit + 0.012 * _grain(page.shape, 0.6, seed)[..., None])


def _image(page: Colors) -> Image.Image:
    return Image.fromarray((255 * page.clip(0, 1)).round().astype(np.uint8))


def _across(size: tuple[int, int], x: float, y: float) -> Gray:
    """Return the position of each pixel along the direction (x, y); positions are about 0 at the picture's centre."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    return x * (columns / size[0] - 0.5) + y * (rows / size[1] - 0.5)


def _rectangle(left: float, top: float, right: float, bottom: float) -> strokes.Stroke:
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


WHITE = _color(255, 255, 255)
BLACK = _color(25, 25, 30)
BLUE = _color(30, 50, 140)


# ---- Pictures --------------------------------------------------------------------------------------------------------


def _scan() -> Image.Image:
    page = _ink(_page((240, 320), WHITE), strokes.place("7", 62, 84, 130, -4), 5, BLUE)
    return _image(page).convert("L")


def _shadow() -> Image.Image:
    size = (400, 300)
    page = _ink(_page(size, _color(240, 232, 212)), strokes.place("5", 120, 60, 165, 5), 7, BLACK)
    shadow = 1 / (1 + np.exp(-_across(size, 1, 0.5) / 0.03))
    return _photo(page, 0.95 - 0.35 * shadow, seed=1)


def _whiteboard() -> Image.Image:
    size = (400, 300)
    page = _page(size, _color(226, 232, 236)) - 0.012 * _grain((300, 400), 25, 2)[..., None].clip(0)
    page = _ink(page, strokes.place("2", 105, 45, 200, -3), 14, _color(20, 110, 60))
    glare = np.exp(-((_across(size, 1, 0) - 0.3) ** 2 + (_across(size, 0, 1) + 0.3) ** 2) / 0.02)
    return _photo(page, 0.86 + 0.14 * glare - 0.1 * _across(size, 0.5, 1), seed=3)


def _screenshot() -> Image.Image:
    """Draw the window of a paint program: a title bar with three buttons, tools on the left, a canvas with a digit."""
    page = _page((380, 280), _color(236, 236, 240))
    page[:30] = _color(60, 64, 72)
    for x, color in ((20, (230, 90, 80)), (44, (235, 190, 70)), (68, (100, 190, 90))):
        page = _ink(page, [[(x, 15), (x, 15.1)]], 12, _color(*color))
    for number in range(5):
        page = _ink(page, [_rectangle(10, 44 + 44 * number, 42, 76 + 44 * number)], 2, _color(150, 150, 160))
    page[36:274, 54:374] = WHITE
    return _image(_ink(page, strokes.place("4", 130, 70, 165), 10, _color(200, 30, 40)))


def _form() -> Image.Image:
    """Draw a box for one digit, as on a printed form."""
    page = _ink(_page((200, 200), WHITE), [_rectangle(40, 34, 160, 168)], 2, _color(90, 90, 90))
    return _image(_ink(page, strokes.place("8", 52, 52, 98, 3), 5, BLUE))


def _tight_crop() -> Image.Image:
    return _image(_ink(_page((56, 96), _color(250, 250, 246)), strokes.place("6", -14, 3, 90), 7, BLACK))


def _two_digits() -> Image.Image:
    digits = strokes.place("4", 40, 60, 120) + strokes.place("2", 155, 62, 116)
    return _image(_ink(_page((320, 240), WHITE), digits, 6, BLACK)).convert("L")


def _letter() -> Image.Image:
    return _image(_ink(_page((220, 240), WHITE), strokes.place("K", 45, 55, 130), 7, BLACK)).convert("L")


def _blank() -> Image.Image:
    size = (400, 300)
    return _photo(_page(size, _color(244, 240, 230)), 0.92 - 0.15 * _across(size, 1, 1), seed=4)


def _ruled() -> Image.Image:
    page = _page((280, 320), WHITE)
    lines = [[(0.0, float(y)), (280.0, float(y))] for y in range(40, 320, 56)]
    page = _ink(page, lines, 1.5, _color(150, 185, 225))
    return _image(_ink(page, strokes.place("3", 60, 100, 150), 6, BLACK))


def _squared() -> Image.Image:
    page = _page((260, 260), WHITE)
    ends = [float(at) for at in range(14, 260, 29)]
    squares = [[(0.0, at), (260.0, at)] for at in ends] + [[(at, 0.0), (at, 260.0)] for at in ends]
    page = _ink(page, squares, 1.2, _color(165, 190, 215))
    return _image(_ink(page, strokes.place("5", 72, 70, 118, -3), 6, BLUE))


def _chalk() -> Image.Image:
    size = (360, 300)
    board = _page(size, _color(38, 52, 46)) + 0.02 * _grain((300, 360), 12, 5)[..., None]
    chalk = (0.85 + 0.2 * _grain((300, 360), 0.8, 6)).clip(0.2, 1)
    return _photo(_ink(board, strokes.place("0", 90, 55, 190, 4), 13, _color(238, 238, 228), chalk), 1.0, seed=7)


def _pencil() -> Image.Image:
    size = (360, 300)
    pencil = (0.75 + 0.15 * _grain((300, 360), 0.8, 8)).clip(0.3, 1)
    page = _ink(
        _page(size, _color(235, 235, 232)), strokes.place("9", 105, 75, 140, -6), 3, _color(95, 95, 100), pencil
    )
    return _photo(page, 0.9 - 0.2 * _across(size, -1, 0.4), seed=9)


def _sticky_note() -> Image.Image:
    """Draw a yellow note on a dark desk."""
    size = (360, 320)
    desk = (
        _page(size, _color(88, 62, 44))
        + 0.02 * ndimage.gaussian_filter1d(_grain((320, 360), 1, 10), 20, axis=1)[..., None]
    )
    desk[48:272, 66:290] = _color(246, 226, 110)
    return _photo(_ink(desk, strokes.place("1", 105, 90, 140, -5), 9, BLACK), 0.95 - 0.1 * _across(size, 0, 1), seed=11)


PICTURES = (
    Picture("blank_page.jpg", "a photo of a blank page", None, "nothing-found", None, _blank),
    Picture("chalk.jpg", "a 0 in chalk on a blackboard", "0", None, "0", _chalk),
    Picture("form.png", "an 8 in the box of a form", "8", None, "8", _form),
    Picture("letter.png", "a letter K", None, None, None, _letter),
    Picture(
        "paint_window.png",
        "a screenshot of the complete window of a paint program with a 4",
        "4",
        None,
        "4",
        _screenshot,
    ),
    Picture("pencil.jpg", "a photo of a 9 in thin pencil", "9", None, "9", _pencil),
    Picture("ruled.png", "a 3 on ruled paper", "3", None, "3", _ruled),
    Picture("scan.png", "a scan of a 7 in ballpoint", "7", None, "7", _scan),
    Picture("shadow.jpg", "a photo of a 5 with a shadow across it", "5", None, "5", _shadow),
    Picture("squared.png", "a 5 on squared paper", "5", None, "5", _squared),
    Picture("sticky_note.jpg", "a photo of a 1 on a note on a desk", "1", None, None, _sticky_note),
    Picture("tight_crop.png", "a 6, cropped to its edges", "6", None, "6", _tight_crop),
    Picture("two_digits.png", "a 4 and a 2", None, "several-shapes", None, _two_digits),
    Picture("whiteboard.jpg", "a photo of a 2 on a whiteboard", "2", None, "2", _whiteboard),
)


def write() -> None:
    """Draw all pictures, and write ``expected.json``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        options = {"quality": JPEG_QUALITY} if picture.file.endswith(".jpg") else {"optimize": True}
        picture.draw().save(FOLDER / picture.file, **options)
    files.write_atomically(FOLDER / "expected.json", expected())


def expected() -> bytes:
    """Return the content of ``expected.json``."""
    names = ("file", "shows", "digit", "reason", "standard")
    return files.to_json([{name: getattr(picture, name) for name in names} for picture in PICTURES])


def check(model: Path) -> bool:
    """Print a model's results for all pictures; return True if no result is wrong."""
    answers = inference.predict_files(inference.load(model), [FOLDER / picture.file for picture in PICTURES])
    n_wrong = 0
    for picture, answer in zip(PICTURES, answers, strict=True):
        if isinstance(answer, ImageError):
            raise answer
        note = ""
        if picture.is_wrong(answer):
            note = " WRONG"
            n_wrong += 1
        elif answer.label != picture.standard:
            note = f" (expected: {picture.standard or 'no answer'})"
        print(f"{picture.file}: {answer}{note}")
    return n_wrong == 0


def main() -> None:
    """Draw the pictures, or compare a model's results with the expected ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a weights file")
    model = parser.parse_args().model
    if model:
        try:
            sys.exit(0 if check(model) else 1)
        except MnistError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    write()


if __name__ == "__main__":
    main()
