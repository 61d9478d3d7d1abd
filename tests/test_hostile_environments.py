"""Test scripts/hostile_environments.py on a project with one test."""

import os
import subprocess
import sys
import time
from pathlib import Path

import hostile_environments as hostile
import psutil
import pytest
from strategies import PATIENCE

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="the program needs Unix"), pytest.mark.slow]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Create a git repository with one test, whose body is given."""

    def make(body: str) -> None:
        (tmp_path / "project" / "tests").mkdir(parents=True)
        (tmp_path / "project" / "scripts").mkdir()
        plugin = tmp_path / "project" / "scripts" / "hostile_environments.py"
        plugin.write_bytes(Path(hostile.__file__).read_bytes())
        lines = ["import os, pathlib, sys", "def test():", *(f"    {line}" for line in body.splitlines())]
        (tmp_path / "project" / "tests" / "test_one.py").write_text("\n".join(lines), encoding="utf-8")
        configuration = "[pytest]\nmarkers = slow\n"
        (tmp_path / "project" / "pytest.ini").write_text(configuration, encoding="utf-8")
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path / "project", check=True)
        monkeypatch.setattr(hostile, "ROOT", tmp_path / "project")

    return make


def problems(name: str, **changes) -> list[str]:
    case = hostile.Case(("one",), processes=1, **{"environment": hostile.CASES[name].environment, **changes})
    return hostile.run(name, case, seed=0)[1]


@pytest.mark.parametrize(
    ("name", "fault", "problem"),
    [
        ("github", "pathlib.Path(os.environ['GITHUB_STEP_SUMMARY']).write_text('x')", "wrote to the job summary"),
        ("github", "pathlib.Path('left').touch()", "left behind: left"),
        ("60-columns", "assert os.environ['COLUMNS'] == '80'", "FAILED"),
        ("ascii", "'°'.encode(__import__('locale').getpreferredencoding(False))", "UnicodeEncodeError"),
        ("other-processor", "assert 'ATEN_CPU_CAPABILITY' not in os.environ", "FAILED"),
    ],
)
def test_run_finds_a_test_that_depends_on_its_environment(project, name, fault, problem):
    project(fault)
    assert problem in "\n".join(problems(name))


def test_run_finds_no_problem_in_an_independent_test(project):
    project("assert True")
    assert problems("github") == []


def test_run_hides_unix_from_the_project_only(project):
    project("assert not hasattr(os, 'fork')\nassert hasattr(sys.modules['os'], 'fork')\nimport shutil, resource")
    assert "No module named 'resource'" in "\n".join(problems("no-unix-modules", plugin="hide-unix"))


def test_run_copies_the_checkout_into_the_folder_of_the_case(project):
    project("assert pathlib.Path.cwd().name == 'checkout #1 [a]'")
    assert problems("odd-path", folder="checkout #1 [a]") == []


def test_run_reports_a_missing_program(project):
    project("assert True")
    expected = "no-such-program is not installed (install it, or run other cases)"
    assert problems("clock", wrapper=("no-such-program",)) == [expected]


def test_keep_busy_ends_its_processes():
    with hostile.keep_busy(2):
        command = [sys.executable, "-c", "while True: pass"]

        def running() -> int:
            return sum(child.cmdline() == command for child in psutil.Process().children())

        end = time.monotonic() + PATIENCE
        while running() < 2 and time.monotonic() < end:  # a process shows its command once it has started
            time.sleep(0.01)
        assert running() == 2
    assert running() == 0
