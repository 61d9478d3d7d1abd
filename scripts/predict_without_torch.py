"""Check that an exported model gives the same predictions in a new environment without PyTorch.

    make export
    python scripts/predict_without_torch.py [models/MODEL.onnx]

The program downloads and installs `requirements-predict.txt` and this package into a temporary environment, as
docs/using.md describes. Then it runs `mnist predict` with the ONNX file in that environment, and with the weights file
next to the ONNX file in this environment. It compares the results on images of the offline subset and on images without
a digit.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import bootstrap
import numpy as np
from PIL import Image

from mnist import datasets
from mnist.storage import artifacts

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 200
MAX_DIFFERENCE = 1e-5  # allowed difference between probabilities
SOURCES = ("mnist", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")  # files and folders to build the package


def main() -> None:
    """Create the environment, and compare the predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="ONNX file; by default the newest one in models/")
    exported = (path.with_suffix(".onnx") for path in artifacts.newest_first(Path("models")))
    chosen = parser.parse_args().model or next(filter(Path.exists, exported), None)
    if chosen is None:
        sys.exit("error: there is no ONNX file in models (write one: make export)")
    model = chosen.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = create_environment(folder)
        pictures = draw_pictures(folder)
        light = predict([python, "-I", "-m", "mnist"], pictures, model)
        complete = predict([sys.executable, "-m", "mnist"], pictures, model.with_suffix(".pth"))
    problems = compare(light, complete)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(complete):,} predictions with and without PyTorch: {len(problems):,} differ")
    sys.exit(bool(problems or not complete))


def create_environment(folder: Path) -> Path:
    """Install the package without PyTorch, and return the path of the environment's Python."""
    environment, source = folder / "venv", folder / "source"
    python = environment / bootstrap.PYTHON_IN_VENV
    source.mkdir()
    for name in SOURCES:  # build from a copy, because the build writes into its source folder
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    requirements = ["--constraints", str(ROOT / "constraints.txt"), "-r", str(ROOT / "requirements-predict.txt")]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    subprocess.run([*install, *requirements], check=True)
    subprocess.run([*install, "--no-deps", str(source)], check=True)
    program = "import importlib.util as i; raise SystemExit(any(map(i.find_spec, ('torch', 'torchvision'))))"
    subprocess.run([python, "-I", "-c", program], check=True)
    return python


def draw_pictures(folder: Path) -> Path:
    """Write images of digits, an image of several digits, an empty image, and a file that is not an image."""
    pictures = folder / "pictures"
    pictures.mkdir()
    digits = 255 - datasets.load_subset().test.images[:IMAGES, 0].numpy()
    for number, digit in enumerate(digits):
        Image.fromarray(np.pad(digit, 8, constant_values=255)).resize((132, 132)).save(pictures / f"{number:03}.png")
    Image.fromarray(np.pad(np.hstack(list(digits[:5])), 8, constant_values=255)).save(pictures / "several.png")
    Image.new("L", (100, 100), 255).save(pictures / "empty.png")
    (pictures / "text.png").write_text("no image", encoding="utf-8")
    return pictures


def predict(mnist: Sequence[str | Path], pictures: Path, model: Path) -> list[dict[str, object]]:
    """Return the JSON objects that ``mnist predict`` prints, without and with ``--split``."""
    found = []
    for options in ([], ["--split"]):
        started = time.perf_counter()
        command = [*mnist, "predict", pictures, "--model", model, "--json", *options]
        finished = subprocess.run(command, capture_output=True, encoding="utf-8")
        if finished.returncode != 2:  # one of the files is not an image
            sys.exit(f"error: {' '.join(map(str, command))} exits with {finished.returncode}\n{finished.stderr}")
        print(f"{model.suffix} {' '.join(options)}: {time.perf_counter() - started:.2f} s")
        found += [json.loads(line) for line in finished.stdout.splitlines()]
    return found


def compare(light: list[dict], complete: list[dict]) -> list[str]:
    """Return the differences between two lists of predictions."""
    problems = [f"{len(light)} predictions without PyTorch, {len(complete)} with it"] * (len(light) != len(complete))
    for without, with_torch in zip(light, complete, strict=False):
        pairs = [(without.pop(key), with_torch.pop(key)) for key in ("confidence", "runner_up_confidence")]
        probabilities, expected = without.pop("probabilities"), with_torch.pop("probabilities")
        pairs += [(probabilities.get(name, math.nan), value) for name, value in expected.items()]
        if without != with_torch or not all(abs(one - other) <= MAX_DIFFERENCE for one, other in pairs):
            problems.append(f"{without} without PyTorch, {with_torch} with it")
    return problems


if __name__ == "__main__":
    main()
