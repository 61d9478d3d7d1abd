import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from commands import assert_one_clear_line

from mnist.deploy import export as exporting
from mnist.deploy import onnx_check, page
from mnist.storage import artifacts


@pytest.fixture
def _timed_briefly(monkeypatch):
    monkeypatch.setattr(onnx_check, "TIMING_SECONDS", 0)
    monkeypatch.setattr(onnx_check, "TIMED_BATCH_SIZES", (1, 20))


@pytest.mark.usefixtures("_timed_briefly")
def test_export_writes_beside_the_model_once(mnist, model, tmp_path):
    finished = mnist("export")
    path = model.with_suffix(".onnx")
    assert finished.code == 0, finished
    assert finished.out.splitlines()[-1] == str(Path("models") / path.name)
    assert "predict the same digit for every image (offline subset, test split, 1,000 images)" in finished.out
    assert "images per batch" in finished.out
    assert path.read_bytes() == exporting.to_onnx(artifacts.load(model))
    before = path.stat()
    finished = mnist("export", model)
    assert (finished.code, finished.err) == (0, "an identical file already exists\n")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert mnist("export", "--output", "new/folder/digits.onnx").code == 0
    assert (tmp_path / "new" / "folder" / "digits.onnx").read_bytes() == path.read_bytes()
    assert {entry.suffix for entry in (tmp_path / "models").iterdir()} == {".digests", ".json", ".onnx", ".pth"}


@pytest.mark.usefixtures("_timed_briefly")
@pytest.mark.parametrize("content", [b"", b"somebody's", b"x" * 100_000])
def test_export_never_overwrites_another_file(mnist, model, content):
    path = model.with_suffix(".onnx")
    path.write_bytes(content)
    finished = mnist("export")
    assert_one_clear_line(finished, f"{path.name} already exists and is another file")
    assert path.read_bytes() == content


def test_export_discards_a_file_that_disagrees(mnist, model, tmp_path, monkeypatch):
    to_onnx = exporting.to_onnx

    def export_another_network(artifact):
        other = copy.deepcopy(artifact.model)
        other.fc2.bias.data += torch.linspace(0, 1, 10)
        return to_onnx(dataclasses.replace(artifact, model=other))

    monkeypatch.setattr(exporting, "to_onnx", export_another_network)
    assert_one_clear_line(mnist("export"), "the ONNX file must not be used")
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_export_names_missing_packages(mnist, model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert_one_clear_line(mnist("export"), "python -m pip install 'mnist[export]'")
    assert not list(tmp_path.rglob("*.onnx"))


def test_demo_writes_a_page_with_the_model(mnist, model, tmp_path):
    finished = mnist("demo")
    path = tmp_path / "site" / "index.html"
    assert (finished.code, finished.out) == (0, f"{Path('site/index.html')}\n")
    assert f"page with {Path('models') / model.name}, {path.stat().st_size / 1000:,.0f} kB" in finished.err
    assert path.read_text(encoding="utf-8") == page.render(artifacts.load(Path("models") / model.name))
    assert mnist("demo", model, "--output", "site/index.html").code == 0, "a page of its own it renews"


def test_demo_never_overwrites_another_page(mnist, model, tmp_path):
    for content in ("<!doctype html><title>mine</title>", ""):
        (tmp_path / "mine.html").write_text(content, encoding="utf-8")
        assert_one_clear_line(mnist("demo", "--output", "mine.html"), "mine.html exists")
        assert (tmp_path / "mine.html").read_text(encoding="utf-8") == content
