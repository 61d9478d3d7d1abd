import os
import shutil

import pytest
import torch
from strategies import archives_of, tiny_mnist
from test_artifacts import save
from test_checkpoints import START

from mnist import architecture, datasets, files
from mnist.datasets import mnist as reader
from mnist.storage import checkpoints, integrity


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, a checkpoint and data, all intact, among other files."""
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(reader, "MNIST", archives)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in packed.items():
        (mirror / name).write_bytes(content)
    datasets.load_mnist(tmp_path / "all" / "data", mirror=str(mirror))
    save(tmp_path / "all" / "models")
    run = checkpoints.start(tmp_path / "all" / "checkpoints")
    run.write(1, START)
    run.close()
    (tmp_path / "all" / "notes.txt").touch()
    return tmp_path / "all"


def test_what_is_intact_is_found_intact(folder):
    findings = list(integrity.check(folder))
    assert [finding for finding in findings if finding.problem] == []
    assert sorted(finding.kind for finding in findings) == ["checkpoint", *["data"] * 8, "model"]


@pytest.mark.parametrize("name", ["*.pth", "*.ckpt", "*.gz", "*-ubyte", "*.json"])
def test_a_flipped_bit_is_found_in_every_kind_of_file(folder, name):
    path = next(folder.rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    problems = [finding.path.stem for finding in integrity.check(folder) if finding.problem]
    assert problems == [path.stem]


def test_what_a_killed_write_leaves_is_named_as_such(folder):
    (folder / "models" / f".mnist_model_20260101_000000.pth.0{files.PART_SUFFIX}").touch()
    (folder / "models" / "mnist_model_20260101_000000.json").touch()
    assert sorted(finding.kind for finding in integrity.check(folder) if finding.problem) == ["leftover", "model card"]


def test_a_model_without_a_card_cannot_be_told_to_be_intact(tmp_path):
    torch.save(architecture.build("cnn", torch.Generator()).state_dict(), tmp_path / "model.pth")
    (finding,) = integrity.check(tmp_path / "model.pth")
    assert "no card" in finding.problem


def test_what_is_of_no_known_kind_or_missing_is_refused_where_it_is_named(folder):
    for path, complaint in ((folder / "notes.txt", "neither a model"), (folder / "nothing", "there is no file")):
        with pytest.raises(integrity.UnknownFileError, match=complaint):
            list(integrity.check(path))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_to_folders_are_not_followed(folder):
    (folder / "models" / "around").symlink_to(folder)
    assert len(list(integrity.check(folder))) == 10


def test_verify_counts_and_names_what_is_damaged(mnist, folder, tmp_path):
    for name in ("models", "checkpoints", "data"):
        shutil.copytree(folder / name, tmp_path / name)
    finished = mnist("verify")
    assert finished.code == 0
    assert finished.out.splitlines()[-1] == "10 of 10 files are intact"
    path = next((tmp_path / "models").glob("*.pth"))
    path.write_bytes(path.read_bytes()[:-1])
    finished = mnist("verify", "models")
    assert finished.code == 1
    assert "NOT INTACT" in finished.out
    assert f"{path.relative_to(tmp_path)} is damaged: its SHA-256" in finished.out
    assert finished.out.splitlines()[-1] == "0 of 1 files are intact"
    assert mnist("verify", "nowhere").code == 2
