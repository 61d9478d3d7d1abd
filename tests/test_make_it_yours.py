"""Run every command of docs/make-it-yours.md as a new user would, in a clone without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_project import needs_make

CHECKOUT = Path(__file__).parent.parent
PAGE = (CHECKOUT / "docs" / "make-it-yours.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STAND_IN = '#!/bin/sh\nexec "{program}" {arguments}"$@"\n'  # shell script that runs another program


@pytest.fixture
def home(tmp_path) -> Path:
    """Write a repository with all files of the checkout, and a `make` that does not create a virtual environment."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    repository = tmp_path / "repository"
    for name in filter(None, names.split("\0")):
        if (CHECKOUT / name).exists():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, repository / name)
    run(tmp_path, "cd repository && git init --quiet && git add --all && git commit --quiet --message all")
    programs = tmp_path / "programs"
    programs.mkdir()
    write_program(programs / "make", shutil.which("make"), "-o venv ")
    return tmp_path


def write_program(path: Path, program: str, arguments: str = "") -> None:
    path.write_text(STAND_IN.format(program=program, arguments=arguments), encoding="utf-8")
    path.chmod(0o755)


def run(folder: Path, commands: str) -> str:
    """Run shell commands until the first failure; return their output."""
    names = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    variables = {"PATH": f"{folder}/programs:{folder}/../programs:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | names | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished.stdout + finished.stderr


@needs_make
@pytest.mark.slow
def test_every_command_of_the_page_succeeds(home):
    clone, *blocks = BLOCKS
    clone = clone.replace("REPOSITORY", "repository").splitlines()
    run(home, "\n".join(clone[:2]))
    mine = home / "mine"
    (mine / ".venv" / "bin").mkdir(parents=True)
    write_program(mine / ".venv" / "bin" / "python", sys.executable)
    printed = [run(mine, commands) for commands in ("\n".join(clone[2:]), *blocks)]

    assert "4,000 images" in printed[0]
    assert "standard (default)" in printed[2]
    assert "letters/3/7.png: 3 (" in printed[3]
    assert "SHIP, with " in printed[4]
    assert "SHIP, with " in printed[5]
    assert all((mine / name).exists() for name in ("figures/augmentation_samples.png", "site/index.html"))
    assert len(list((mine / "models").glob("*.onnx"))) == 1
    assert run(mine, "git status --porcelain") == ""

    workflow = yaml.safe_load((mine / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["train"]["steps"] if "run" in step]
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("make ")]
    ours = [step for step in steps if step.startswith("make ") and "tests/" not in step]
    assert len(ours) == 5
    assert [step for step in ours if step not in commands] == []
