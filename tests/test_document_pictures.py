"""Test that the pictures in docs/ are up to date."""

import dataclasses
import re

import document_pictures
import documents
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


def test_pattern_without_a_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    with pytest.raises(TypeError):
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
