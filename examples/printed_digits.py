"""Teach a model that knows handwriting to read print: fine-tuning on images of one's own.

    make train                                    a model to start from, unless there is one
    .venv/bin/python examples/printed_digits.py

Draws digits in the fonts that come with matplotlib, a file each, into data/printed: train/0 ... train/9 in some fonts,
test/0 ... test/9 in others. Asks the newest model, fine-tunes it (`mnist train --init`), and asks the new one.
"""

import random
import subprocess
import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

import mnist
from mnist import datasets
from mnist.gate import measurement

FOLDER = Path("data/printed")
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAIN_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif-Bold", "cmr10",
               "cmb10", "cmtt10", "STIXGeneral", "STIXGeneralBolIta")  # fmt: skip
TEST_FONTS = ("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "DejaVuSans-Oblique", "cmss10",
              "STIXGeneralItalic", "STIXGeneralBol")  # fmt: skip
DRAWS = 18  # of each digit in each font


def main() -> None:
    """Draw, ask, fine-tune, and ask again."""
    chance = random.Random(0)  # the same pictures every time
    for part, fonts in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
        for digit in range(10):
            folder = FOLDER / part / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for font in fonts:
                for number in range(DRAWS):
                    draw(digit, font, chance).save(folder / f"{font}_{number}.png")
    printed = datasets.load_folder(FOLDER)
    before = mnist.load()
    tuned = ["--init", str(before.path), "--dataset", str(FOLDER), *sys.argv[1:]]
    trained = subprocess.run([sys.executable, "-m", "mnist", "train", *tuned], check=False)
    if trained.returncode not in (0, 1):  # 1: the gate blocks it, and it is there all the same
        sys.exit(trained.returncode)
    for what, model in (("before", before), ("after", mnist.load())):
        print(f"{what}: {measurement.evaluate(model.model, printed.test).accuracy:.1%} of {printed.test.description}")


def draw(digit: int, font: str, chance: random.Random) -> Image.Image:
    """A printed digit in a colour, size and slant of its own, 64 x 64 pixels."""
    paper, ink = chance.randint(200, 255), tuple(chance.randint(0, 110) for _ in range(3))
    image = Image.new("RGB", (64, 64), (paper, paper, paper))
    type_ = ImageFont.truetype(str(FONTS / f"{font}.ttf"), chance.randint(34, 50))
    ImageDraw.Draw(image).text((32, 32), str(digit), ink, type_, anchor="mm")
    return image.rotate(chance.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=(paper, paper, paper))


if __name__ == "__main__":
    main()
