"""Test how a model card describes the software and the machine."""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_artifacts import save
from test_card import edit_card

import mnist as package
from mnist.storage import artifacts, environment

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    options = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        [shutil.which("git"), *options, *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8"
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Create a git work tree with a committed package `mnist`, out of reach of the user's settings."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    folder = tmp_path / "project"
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / "__init__.py").write_text("", encoding="utf-8")
    (folder / ".gitignore").write_text(".venv\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "First")
    environment.source_commit.cache_clear()
    return folder


def test_card_names_the_software_and_the_processor(tmp_path):
    described = artifacts.load(save(tmp_path)).card.environment
    assert described.mnist == package.__version__
    for name in ("torchvision", "numpy", "pillow", "scipy"):
        assert getattr(described, name) == importlib.metadata.version(name)
    assert described.processor
    assert dataclasses.asdict(described) == json.loads(next(tmp_path.glob("*.json")).read_text("utf-8"))["environment"]


def test_card_without_the_new_fields_is_read(tmp_path):
    path = save(tmp_path)
    edit_card(path, environment=None)
    edit_card(path, environment={"python": "3.10.0", "torch": "2.6.0", "platform": "Linux", "threads": 2})
    described = artifacts.load(path).card.environment
    assert (described.threads, described.mnist, described.commit, described.clean) == (2, None, None, None)


@pytest.mark.parametrize("clean", ["yes", 1])
def test_card_with_a_wrong_clean_is_refused(tmp_path, clean):
    path = save(tmp_path)
    edit_card(path, environment={"clean": clean})
    with pytest.raises(artifacts.ArtifactError, match="clean is not of type bool"):
        artifacts.load(path)


@needs_git
def test_source_commit_is_that_of_the_tree(tree):
    assert environment.source_commit(tree / "mnist") == (git(tree, "rev-parse", "HEAD"), True)


@needs_git
@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_source_commit_detects_changes_of_the_package(tree, name):
    (tree / "photos").mkdir()
    (tree / "photos" / "0.png").write_bytes(b"")  # not a part of the package
    (tree / "mnist" / name).write_text("changed", encoding="utf-8")
    assert environment.source_commit(tree / "mnist") == (git(tree, "rev-parse", "HEAD"), False)


@needs_git
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("folder", [".venv/lib/mnist", "vendor/mnist"])
def test_source_commit_is_none_inside_another_project(tree, folder, committed):
    """The commit is unknown even if that project has committed the package."""
    shutil.copytree(tree / "mnist", tree / folder)
    if committed:
        git(tree, "add", "--force", folder)
        git(tree, "commit", "--quiet", "--message", "Vendor")
    assert environment.source_commit(tree / folder) == (None, None)


@needs_git
def test_source_commit_is_none_for_an_untracked_package(tree):
    git(tree, "rm", "--cached", "--quiet", "-r", "mnist")
    assert environment.source_commit(tree / "mnist") == (None, None)


@needs_git
def test_source_commit_ignores_the_variables_of_git_hooks(tree, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "--quiet")
    expected = (git(tree, "rev-parse", "HEAD"), True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert environment.source_commit(tree / "mnist") == expected


def test_source_commit_is_none_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.source_commit(tmp_path) == (None, None)


@pytest.mark.skipif(os.name == "nt", reason="the fake git is a shell script")
def test_source_commit_does_not_wait_for_a_slow_git(tmp_path, monkeypatch):
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import time; time.sleep(60)'\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "MAX_GIT_SECONDS", 0.1)
    started = time.monotonic()
    assert environment.source_commit(tmp_path) == (None, None)
    assert time.monotonic() - started < 30


@needs_git
def test_source_commit_is_remembered(tree):
    """A tree that changes during a run does not change the card."""
    before = environment.source_commit(tree / "mnist")
    (tree / "mnist" / "__init__.py").write_text("changed", encoding="utf-8")
    assert environment.source_commit(tree / "mnist") == before
