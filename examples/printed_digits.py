"""Fine-tune a model of handwritten digits on printed digits, as an example of training on your own images.

    make train                                     if there is no model yet
    .venv/bin/python examples/printed_digits.py    options are passed to `mnist train`

The program draws digits in the fonts of matplotlib, and writes each into a file in data/printed. The fonts in
train/0 ... train/9 differ from those in test/0 ... test/9. It measures the newest model that passed the gate,
fine-tunes this model with `mnist train --init`, and measures the new model.
"""

import random
import subprocess
import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

import mnist
from mnist import datasets
from mnist.gate import performance
from mnist.storage import artifacts

FOLDER = Path("data/printed")
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAIN_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif-Bold", "cmr10",
               "cmb10", "cmtt10", "STIXGeneral", "STIXGeneralBolIta")  # fmt: skip
TEST_FONTS = ("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "DejaVuSans-Oblique", "cmss10",
              "STIXGeneralItalic", "STIXGeneralBol")  # fmt: skip
IMAGES_PER_FONT = 18  # of each digit


def main() -> None:
    """Draw the digits, fine-tune the newest model that passed the gate, and print its accuracy before and after."""
    rng = random.Random(0)  # draw the same images every time
    for part, fonts in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
        for digit in range(10):
            folder = FOLDER / part / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for font in fonts:
                for number in range(IMAGES_PER_FONT):
                    draw(digit, font, rng).save(folder / f"{font}_{number}.png")
    printed = datasets.load_folder(FOLDER)
    before = mnist.load()
    options = ["--init", str(before.path), "--dataset", str(FOLDER), *sys.argv[1:]]
    finished = subprocess.run([sys.executable, "-m", "mnist", "train", *options], check=False)
    if finished.returncode not in (0, 1):  # with 1 the gate blocks the model, but the model is saved
        sys.exit(finished.returncode)
    after = mnist.load(artifacts.newest(Path("models")))  # also if the gate blocks it
    for moment, model in (("before", before), ("after", after)):
        print(f"{moment}: {performance.evaluate(model.model, printed.test).accuracy:.1%} of {printed.test.description}")


def draw(digit: int, font: str, rng: random.Random) -> Image.Image:
    """Draw a printed digit, 64 x 64 pixels, in a random color, size and rotation."""
    background = (rng.randint(200, 255),) * 3
    foreground = tuple(rng.randint(0, 110) for _ in range(3))
    image = Image.new("RGB", (64, 64), background)
    sized_font = ImageFont.truetype(str(FONTS / f"{font}.ttf"), rng.randint(34, 50))
    ImageDraw.Draw(image).text((32, 32), str(digit), foreground, sized_font, anchor="mm")
    return image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=background)


if __name__ == "__main__":
    main()
