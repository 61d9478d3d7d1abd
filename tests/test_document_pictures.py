"""Test that the pictures in docs/ are up to date."""

import ast
import contextlib
import dataclasses
import re
import types

import document_pictures
import documents
import headless
import pytest
from PIL import Image

from mnist import drawings
from mnist.report import figures


def test_pictures_are_up_to_date():
    """If this fails, run `make pictures`, and look at the new pictures."""
    assert document_pictures.out_of_date() == []


def test_every_picture_in_the_documents_is_known():
    shown = set()
    for path in [documents.ROOT / "README.md", *documents.DOCS.glob("*.md")]:
        shown |= set(re.findall(r"!\[[^\]]*\]\((?:docs/)?([^)]+)\)", path.read_text(encoding="utf-8")))
    files = {path.name for path in documents.DOCS.glob("*.png")}
    assert {name for name in shown if name.endswith(".png")} == files == set(document_pictures.PICTURES)


def test_changed_source_makes_a_picture_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    source = tmp_path / "source.txt"
    source.write_text("one", encoding="utf-8")
    picture = document_pictures.Picture(("*.txt",), draw=lambda path: None, values=(1,))
    before = picture.fingerprint()
    assert dataclasses.replace(picture, values=(2,)).fingerprint() != before
    assert dataclasses.replace(picture, sources=("*.txt", drawings.save_figure)).fingerprint() != before
    source.write_text("two", encoding="utf-8")
    assert picture.fingerprint() != before
    source.write_text("one", encoding="utf-8")
    assert picture.fingerprint() == before


CODE = '''"""Module."""

import os  # for names


class ShapeError(ValueError):
    """No shape."""


class Shape(
    # with
    object,
):
    """A shape — in two
    lines."""

    sides = 4  # of a square

    def text(self, width: int = 2) -> str:
        "No " "docstring in one piece."
        # about the next line
        return f"# {self.sides!r:>{width}} {{x}}" + """no docstring # no comment
"""
'''
# The same for every version of Python, operating system and library.
CODE_HASH = "8b92c4ac81ef347eca13c34f0c903f66e49abb0bfa6e22662fb1f92254f673b3"


def test_statements_are_the_code_without_words():
    assert document_pictures.statements(CODE).splitlines() == [
        "import os",
        "class ShapeError(ValueError):",
        "    ...",
        "class Shape(",
        "    object,",
        "):",
        "    sides = 4",
        "    def text(self, width: int = 2) -> str:",
        '        return f"# {self.sides!r:>{width}} {{x}}" + """no docstring # no comment',
        '"""',
    ]


@pytest.mark.slow
def test_statements_of_our_modules_are_the_same_code():
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in documents.ROOT.glob("mnist/**/*.py"):
        code = path.read_text(encoding="utf-8")
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
        assert ast.dump(ast.parse(document_pictures.statements(code))) == ast.dump(tree), path


def test_wording_and_line_ends_do_not_make_a_picture_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    source = tmp_path / "source.py"
    picture = document_pictures.Picture(("*.py",), draw=lambda path: None)

    def fingerprint(code: str) -> str:
        source.write_bytes(code.encode())
        return picture.fingerprint()

    before = fingerprint(CODE)
    assert before == CODE_HASH
    reworded = CODE.replace("Module.", "A module.").replace("# for names", "# names\n").replace("A shape", "One shape")
    assert fingerprint(reworded) == before
    assert fingerprint(CODE.replace("\n", "\r\n")) == before
    assert fingerprint(CODE.replace("sides = 4", "sides = 5")) != before
    assert fingerprint(CODE.replace("no comment", "a comment")) != before


def test_report_depends_on_every_module_that_writes_it():
    """The modules of mnist/report that content.py and rendering.py import, directly or not."""
    package = documents.ROOT / "mnist" / "report"
    needed, new = set(), {"content", "rendering"}
    while new:
        needed |= new
        imports = "\n".join((package / f"{name}.py").read_text(encoding="utf-8") for name in new)
        names = re.findall(r"^from mnist\.report import (.+)$", imports, re.MULTILINE)
        new = {name.strip() for line in names for name in line.split(",")} - needed
    sources = document_pictures.PICTURES["report.png"].sources
    assert {f"mnist/report/{name}.py" for name in needed} <= set(sources)
    gate = ("verdicts.py", "criteria.py", "regressions.py", "gate.toml")
    assert {f"mnist/gate/{name}" for name in gate} <= set(sources)


def test_pattern_without_a_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"no file matches missing\.txt"):
        document_pictures.Picture(("missing.txt",), draw=lambda path: None).fingerprint()


def test_sign_keeps_pixels_and_other_text_fields(tmp_path):
    path = tmp_path / "picture.png"
    figures.draw_frontier({"a": (1_000, [0.98])}, {"b": (2_000, 0.99)}, path)
    with Image.open(path) as image:
        before = image.tobytes()
    document_pictures.sign(path, "hash")
    with Image.open(path) as image:
        assert image.tobytes() == before
    assert document_pictures.signature(path) == "hash"
    drawings.check_replaceable(path)
    assert document_pictures.signature(tmp_path / "missing.png") is None


def test_headless_browser_is_closed_after_an_error(monkeypatch):
    closed = []
    browser = types.SimpleNamespace(close=lambda: closed.append(True))
    chromium = types.SimpleNamespace(launch=lambda **options: browser)
    playwright = contextlib.nullcontext(types.SimpleNamespace(chromium=chromium))
    monkeypatch.setattr(headless, "sync_playwright", lambda: playwright)
    monkeypatch.setattr(headless.shutil, "which", lambda name: name)
    with pytest.raises(ZeroDivisionError), headless.launched():
        raise ZeroDivisionError
    assert closed == [True]
