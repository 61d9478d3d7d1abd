"""Draw the pictures in docs/ that are out of date.

    python scripts/document_pictures.py                  draw all pictures whose sources have changed
    python scripts/document_pictures.py frontier.png     draw the named pictures

Each picture stores a hash of its sources (code without comments and docstrings, templates, data and settings), and
`tests/test_document_pictures.py` compares the hash with that of the current sources. Screenshots of pages need a
browser and two models, which this program trains on MNIST in a few seconds.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import inspect
import io
import tempfile
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
import headless
import paper
import seeds
import strokes
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mnist import datasets, files, gate, recipes, report, runs
from mnist.datasets import Dataset
from mnist.deploy import page
from mnist.report import figures
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

SOURCES_KEY = "Sources"  # name of the PNG text field that stores the hash
COLORS = 128  # number of colors in a screenshot
RECIPE = "standard"


@dataclass(frozen=True)
class Picture:
    """A picture in docs/."""

    sources: tuple[str | Callable[..., Any], ...]  # patterns of files in the repository, and functions
    draw: Callable[[Path], None]
    values: tuple[object, ...] = ()  # settings that the picture depends on

    def fingerprint(self) -> str:
        """Return the SHA-256 of the picture's sources and values as a hexadecimal string."""
        digest = hashlib.sha256(repr(self.values).encode())
        for source in self.sources:
            for text in _texts(source):
                digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()


def _texts(source: str | Callable[..., Any]) -> list[str]:
    """Return the contents of the files that match a pattern, or the code of a function.

    Raises:
        ValueError: if no file matches.
    """
    if not isinstance(source, str):
        return [statements(inspect.getsource(source))]
    paths = sorted(documents.ROOT.glob(source))
    if not paths:
        raise ValueError(f"no file matches {source}")
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [statements(text) if path.suffix == ".py" else text for path, text in zip(paths, texts, strict=True)]


def statements(code: str) -> str:
    """Return Python code without comments, docstrings, blank lines and trailing spaces.

    A docstring that is the only statement of a body becomes an ellipsis. The result is the same in every Python
    version, unlike `ast.dump` and the tokens of an f-string.
    """
    lines = code.split("\n")  # like `tokenize`; `splitlines` would also split at form feeds
    for (first, start), (last, end), replacement in sorted([*_comments(code), *_docstrings(code)], reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + replacement + lines[last - 1][end:]] + [""] * (
            last - first
        )
    return "\n".join(line.rstrip() for line in lines if line.strip())


Position = tuple[int, int]  # line (counted from 1) and column (counted from 0)
Replacement = tuple[Position, Position, str]  # start, end and new text


def _comments(code: str) -> list[Replacement]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [(token.start, token.end, "") for token in tokens if token.type == tokenize.COMMENT]


def _docstrings(code: str) -> list[Replacement]:
    lines = code.split("\n")

    def position(line: int, offset: int) -> Position:
        return line, len(lines[line - 1].encode()[:offset].decode())  # `ast` counts columns in bytes

    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str()), lineno=first, end_lineno=last) as docstring, *others]:
                    start, end = position(first, docstring.col_offset), position(last, docstring.end_col_offset or 0)
                    found.append((start, end, "" if others else "..."))
    return found


# ---- Models ----------------------------------------------------------------------------------------------------------


@functools.cache
def mnist() -> Dataset:
    """Return MNIST."""
    return datasets.load_mnist(Path("data"))


@functools.cache
def trained(seed: int) -> Artifact:
    """Train a model of ``RECIPE`` on MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        settings = runs.Settings(
            recipe=RECIPE,
            overrides={"seed": seed},
            dataset="mnist",
            device="cpu",
            models_dir=Path(folder, "models"),
            checkpoints_dir=Path(folder, "checkpoints"),
        )
        result = runs.train(settings)
        assert result is not None
        artifact = artifacts.load(result.path)
    return dataclasses.replace(artifact, path=Path("models") / artifact.path.name)


# ---- Pictures --------------------------------------------------------------------------------------------------------


def draw_augmentation(path: Path) -> None:
    """Draw augmented training images."""
    figures.draw_augmented_samples(mnist().train, recipes.get(RECIPE), columns=10, draws=4, path=path)


def draw_demo(path: Path) -> None:
    """Draw a digit on the drawing page."""
    with tempfile.TemporaryDirectory() as folder, headless.launched() as browser:
        html = Path(folder, "page.html")
        html.write_text(page.render(trained(0)), encoding="utf-8")
        tab = browser.new_page(viewport={"width": 1120, "height": 640})
        tab.goto(html.as_uri())
        box = tab.locator("#sheet").bounding_box()
        assert box is not None
        for stroke in strokes.THREE:
            for number, (x, y) in enumerate(stroke):
                tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                if number == 0:
                    tab.mouse.down()
            tab.mouse.up()
        tab.locator("#details", has_text="sure").wait_for()
        _save_screenshot(tab.screenshot(), path)


def draw_report(path: Path) -> None:
    """Take a screenshot of the top of a report, with another model as the baseline."""
    policy = gate.load_policy()
    evaluation = gate.evaluate(trained(0), mnist(), policy, trained(1))
    content = report.build(evaluation, mnist().test)
    with tempfile.TemporaryDirectory() as folder, headless.launched() as browser:
        html = Path(folder, "report.html")
        html.write_text(report.html(content, mnist().test, evaluation.measurement), encoding="utf-8")
        tab = browser.new_page(viewport={"width": 1180, "height": 800})
        tab.goto(html.as_uri())
        _save_screenshot(tab.screenshot(), path)


def draw_paper(path: Path) -> None:
    """Draw photos of paper, with the prepared images."""
    paper.draw_examples(mnist().test.images[:, 0].numpy(), path)


def _save_screenshot(content: bytes, path: Path) -> None:
    """Write a screenshot with few colors, to keep the file small."""
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(COLORS).save(path, optimize=True)


PAGE = ("mnist/templates/palette.css", "mnist/templates/base.css")
PICTURES = {
    "augmentation_samples.png": Picture(
        ("mnist/transforms.py", "mnist/randomization.py", figures.draw_augmented_samples, figures.draw_augmentation),
        draw_augmentation,
        (recipes.get(RECIPE),),
    ),
    "demo.png": Picture(
        (*PAGE, "mnist/templates/demo.*", "mnist/templates/*.js", "mnist/deploy/page.py", draw_demo),
        draw_demo,
        (strokes.THREE,),
    ),
    "frontier.png": Picture(
        ("docs/seeds.jsonl", figures.draw_frontier, figures.pareto_frontier, seeds.draw),
        seeds.draw,
        (seeds.PUBLISHED,),
    ),
    "paper.png": Picture(("scripts/paper.py", "mnist/preparation/*.py"), draw_paper),
    "report.png": Picture(
        (
            *PAGE,
            "mnist/templates/report.css",
            "mnist/templates/report.html.jinja",
            *(f"mnist/report/{name}.py" for name in ("card_values", "charts", "content", "rendering", "risk_coverage")),
            *(f"mnist/gate/{name}.py" for name in ("criteria", "ranking", "regressions", "verdicts")),
            "mnist/gate/gate.toml",
            draw_report,
        ),
        draw_report,
    ),
}


def main() -> None:
    """Draw the named pictures, or those that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PICTURES)}")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"there is no picture {unknown[0]} (there are: {', '.join(PICTURES)})")
    for name in names or out_of_date():
        path = documents.DOCS / name
        PICTURES[name].draw(path)
        sign(path, PICTURES[name].fingerprint())
        print(f"drawn: {path}")


def out_of_date() -> list[str]:
    """Return the names of the pictures that are missing, or whose sources have changed since they were drawn."""
    return [name for name, each in PICTURES.items() if signature(documents.DOCS / name) != each.fingerprint()]


def signature(path: Path) -> str | None:
    """Return the hash that a picture stores, or None if it stores none or the file is missing."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get(SOURCES_KEY)


def sign(path: Path, fingerprint: str) -> None:
    """Store a hash in a picture. Its pixels and its other text fields stay the same."""
    with Image.open(path) as image:
        fields = PngInfo()
        for key, value in {**image.text, SOURCES_KEY: fingerprint}.items():
            fields.add_text(key, value)
        buffer = io.BytesIO()
        image.save(buffer, "png", pnginfo=fields, optimize=True)
    files.write_atomically(path, buffer.getvalue())


if __name__ == "__main__":
    main()
