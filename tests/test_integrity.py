import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import assert_one_clear_line
from samples import save_model
from strategies import archives_of, generator, tiny_mnist
from test_artifacts import save
from test_checkpoints import START

from mnist import architecture, datasets, files
from mnist.cli import process
from mnist.datasets import mnist as reader
from mnist.storage import checkpoints, integrity


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a model, a checkpoint, data and another file, all intact."""
    archives, packed = archives_of(tiny_mnist())
    monkeypatch.setattr(reader, "MNIST", archives)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in packed.items():
        (mirror / name).write_bytes(content)
    datasets.load_mnist(tmp_path / "everything" / "data", mirror=str(mirror))
    save(tmp_path / "everything" / "models")
    run = checkpoints.start(tmp_path / "everything" / "checkpoints")
    run.write(1, START)
    run.close()
    (tmp_path / "everything" / "notes.txt").touch()
    return tmp_path / "everything"


def test_check_reports_no_problem_for_intact_files(folder):
    findings = list(integrity.check(folder))
    assert [finding for finding in findings if finding.problem] == []
    assert sorted(finding.kind for finding in findings) == ["checkpoint", *["data"] * 8, "model"]


@pytest.mark.parametrize("name", ["*.pth", "*.ckpt", "*.gz", "*-ubyte", "*.json"])
def test_check_detects_a_flipped_bit(folder, name):
    path = next(folder.rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    problems = [finding.path.stem for finding in integrity.check(folder) if finding.problem]
    assert problems == [path.stem]


def test_check_reports_the_leftovers_of_a_killed_write(folder):
    (folder / "models" / f".mnist_model_20260101_000000.pth.0{files.PART_SUFFIX}").touch()
    (folder / "models" / "mnist_model_20260101_000000.json").touch()
    checkpoint = next(folder.rglob("*.ckpt"))
    checkpoint.rename(f"{checkpoint}{checkpoints.DAMAGED_SUFFIX}")
    kinds = sorted(finding.kind for finding in integrity.check(folder) if finding.problem)
    assert kinds == ["leftover", "leftover", "model card"]


def test_check_reports_a_model_without_a_card(tmp_path):
    torch.save(architecture.build("cnn", torch.Generator()).state_dict(), tmp_path / "model.pth")
    (finding,) = integrity.check(tmp_path / "model.pth")
    assert "no card" in finding.problem


def test_check_reports_a_model_without_its_digest_file(model):
    assert [finding.problem for finding in integrity.check(model)] == [""]
    model.with_suffix(".digests").unlink()
    (finding,) = integrity.check(model)
    assert f"{model.stem}.digests, which lists its training images, is missing" in finding.problem


def test_check_reports_files_whose_weights_are_missing(model):
    model.unlink()
    model.with_suffix(".log.jsonl").touch()
    found = {finding.kind: finding.problem for finding in integrity.check(model.parent)}
    assert found == dict.fromkeys(("model card", "digest file", "training log"), "its weights are missing")


def test_check_refuses_unknown_and_missing_files(folder):
    for path, complaint in ((folder / "notes.txt", "neither a model"), (folder / "nothing", "there is no file")):
        with pytest.raises(integrity.UnknownFileError, match=complaint):
            list(integrity.check(path))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_check_does_not_follow_links_to_folders(folder):
    (folder / "models" / "link").symlink_to(folder)
    assert len(list(integrity.check(folder))) == 10


def test_verify_lists_and_counts_damaged_files(mnist, folder, tmp_path):
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
    assert any(line.startswith(f"{path.relative_to(tmp_path)} is damaged: its") for line in finished.out.splitlines())
    assert finished.out.splitlines()[-1] == "0 of 1 files are intact"


def test_verify_says_that_there_is_nothing_to_verify(mnist, tmp_path):
    for name in ("models", "pictures"):
        (tmp_path / name).mkdir()
    (tmp_path / "pictures" / "seven.png").touch()
    finished = mnist("verify")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("there is nothing to verify: ")
    for name in ("models", "pictures"):
        assert_one_clear_line(mnist("verify", name), f"there is nothing to verify in {name}: ")
    assert_one_clear_line(mnist("verify", "nowhere"), "there is no file or folder nowhere")


@pytest.mark.parametrize(("damaged", "code"), [(False, process.BAD_INPUT), (True, process.BLOCKED)])
def test_verify_reports_files_beside_a_missing_path(mnist, model, damaged, code):
    if damaged:
        model.write_bytes(model.read_bytes()[:-1])
    finished = mnist("verify", "nowhere", "models")
    assert finished.code == code
    assert finished.out.splitlines()[-1] == f"{int(not damaged)} of 1 files are intact"
    assert finished.err == "error: there is no file or folder nowhere\n"


@pytest.mark.parametrize("unreadable", ["data", "t10k-labels-idx1-ubyte"])
def test_check_continues_after_a_file_that_cannot_be_read(folder, monkeypatch, unreadable):
    def refuse(real):
        def call(path, *arguments):
            if Path(path).name == unreadable:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments)

        return call

    monkeypatch.setattr(Path, "iterdir", refuse(Path.iterdir))
    monkeypatch.setattr(os, "open", refuse(os.open))
    findings = list(integrity.check(folder))
    (problem,) = [finding for finding in findings if finding.problem]
    assert problem.path.name == unreadable
    assert "Permission denied" in problem.problem
    assert "model" in [finding.kind for finding in findings]


def test_verify_of_a_card_checks_its_model(tmp_path):
    path = save_model(architecture.build("cnn", generator(0)), tmp_path)
    (finding,) = integrity.check(path.with_suffix(".json"))
    assert (finding.path, finding.kind, finding.problem) == (path, "model", "")
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = integrity.check(path.with_suffix(".json"))
    assert "damaged" in finding.problem
