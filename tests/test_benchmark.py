"""Test the benchmark with stand-ins for the commands that it times."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import benchmark
import documents
import pytest
import step_time
import waiting
from waiting import Checkout, CommitError

from mnist import architecture

RUN = {"path": Path("x.pth"), "seconds": 2.0, "startup": 1.0, "memory": 1, "accuracy": 0.99, "process": 5.0}
SETUP = "[options]\ninstall_requires =\n    torch >= {torch}\n\n[options.extras_require]\ntest = pytest\n"


class StandIn:
    """A checkout whose commands take constant times."""

    def __init__(self, name: str, seconds: float = 1.0, accuracy: float = 0.99):
        self.name, self.seconds, self.accuracy = name, seconds, accuracy
        self.commands = []

    def train(self, recipe, folder, *options, **choices):
        return {**RUN, "seconds": 2 * self.seconds, "process": 5 * self.seconds, "accuracy": self.accuracy}

    def run(self, *arguments, codes=(0,)):
        self.commands.append(arguments)
        return self.seconds, ""


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Write a repository with two commits of a package `mnist`; the second one, v2, needs a newer torch."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    root = tmp_path / "repository"
    (root / "mnist").mkdir(parents=True)
    monkeypatch.setattr(documents, "ROOT", root)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    git(root, "init", "--quiet")
    for version in (1, 2):
        (root / "mnist" / "__init__.py").write_text(f"version = {version}\n", encoding="utf-8")
        (root / "setup.cfg").write_text(SETUP.format(torch=version), encoding="utf-8")
        (root / "constraints.txt").write_text("torch==2\n", encoding="utf-8")
        git(root, "add", "--all")
        git(root, *identity, "commit", "--quiet", "--message", f"v{version}")
        git(root, *identity, "tag", f"v{version}")
    return root


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


# ---- Two commits -----------------------------------------------------------------------------------------------------


def test_checked_out_runs_the_package_of_the_commit(repository, monkeypatch):
    monkeypatch.setattr(waiting, "_set_up", lambda folder: sys.executable)
    with waiting.checked_out("v1") as base:
        assert base.name == git(repository, "rev-parse", "--short", "v1").strip()
        assert base.run("-c", "import mnist; print(mnist.version)")[1].strip() == "1"
        assert len(git(repository, "worktree", "list").splitlines()) == 2
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not base.folder.exists()


@pytest.mark.parametrize(("commit", "set_up"), [("v1", True), ("v2", False)])
def test_checked_out_sets_up_an_environment_for_other_requirements(repository, commit, set_up, monkeypatch):
    folders = []

    def record(folder):
        folders.append(folder)
        return sys.executable

    monkeypatch.setattr(waiting, "_set_up", record)
    with waiting.checked_out(commit) as base:
        assert folders == [base.folder] * set_up


def test_checked_out_removes_the_worktree_after_an_error(repository, monkeypatch):
    def fail(folder):
        raise CommitError("no environment")

    monkeypatch.setattr(waiting, "_set_up", fail)
    with pytest.raises(CommitError, match="no environment"), waiting.checked_out("v1"):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_unknown_commit_is_a_one_line_error(repository, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--base", "v3"])
    with pytest.raises(SystemExit, match=r"error: git worktree: .*v3"):
        benchmark.main()


def test_missing_git_is_a_one_line_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--base", "v1"])
    with pytest.raises(SystemExit, match=r"^error: git, which --base needs, cannot be run: [^\n]*\(install git\)$"):
        benchmark.main()


@pytest.mark.parametrize(
    ("name", "content"),
    [("setup.cfg", b"no section"), ("setup.cfg", b"[options]\ninstall_requires = %(x)s"), ("constraints.txt", b"\xff")],
)
def test_unreadable_requirements_are_a_one_line_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CommitError, match=r"^setup.cfg or constraints.txt in [^\n]* cannot be read: [^\n]+$"):
        waiting.requirements(tmp_path)


def test_check_refuses_another_package(tmp_path):
    """The folder has no package, so that the installed one is imported."""
    with pytest.raises(CommitError, match=r"imports .*, not "):
        Checkout("empty", tmp_path).check()


def test_run_accepts_only_the_given_exit_codes():
    failing = "-c", "raise SystemExit(1)"
    assert waiting.WORKING_TREE.run(*failing, codes=(0, 1))[1] == ""
    with pytest.raises(subprocess.CalledProcessError):
        waiting.WORKING_TREE.run(*failing)


def test_compare_prints_times_and_their_ratio(monkeypatch, capsys):
    base, working_tree = StandIn("abc", seconds=2.0, accuracy=0.98), StandIn("working tree")
    monkeypatch.setattr(waiting, "checked_out", lambda commit: contextlib.nullcontext(base))
    monkeypatch.setattr(waiting, "WORKING_TREE", working_tree)
    benchmark.compare("abc", rounds=2, device="cpu", accuracy=False, quick=True)
    out = capsys.readouterr().out
    assert (
        "| `mnist predict x.png` in a new process | 2.00 (2.00 to 2.00) | 1.00 (1.00 to 1.00) | 0.50 (0.50 to 0.50) |"
        in out
    )
    assert "| `fast` | 2 | 98.00 % (98.00 to 98.00) | 99.00 % (99.00 to 99.00) | 1.00 (1.00 to 1.00) |" in out


def test_commands_of_two_checkouts_alternate():
    assert [waiting.in_turn(["base", "new"], number) for number in range(3)] == [
        ["base", "new"],
        ["new", "base"],
        ["base", "new"],
    ]


# ---- Parts -----------------------------------------------------------------------------------------------------------


def test_time_round_times_every_row_and_splits_training():
    checkout = StandIn("working tree", seconds=3.0)
    times, runs = waiting.time_round(checkout, seed=0, device="cpu")
    assert {*times, waiting.CONVENTIONAL} == set(waiting.ROWS)
    assert (times["train"], times["train-rest"]) == (6, 9)
    assert set(runs) == set(benchmark.TIMED_RECIPES)
    assert [arguments[2] for arguments in checkout.commands] == ["predict", "export", "predict", "gate", "gate"]


def test_waiting_table_leaves_out_rows_without_times():
    lines = waiting.waiting_table({"time": [{"fast": 1.0}, {"fast": 3.0}, {"fast": 1.5}]}).splitlines()
    assert lines[0] == "|  | time, s |"
    assert lines[2:] == [f"| {waiting.ROWS['fast']} | 1.50 (1.00 to 3.00) |"]


def test_ratio_is_that_of_the_same_round():
    """The machine is twice as slow in the second round."""
    times = {"abc": [{"fast": 1.0}, {"fast": 2.0}], "working tree": [{"fast": 0.9}, {"fast": 1.8}]}
    assert waiting.waiting_table(times).endswith("| 0.90 (0.90 to 0.90) |")


def test_measure_rounds_compares_with_the_conventional_script(monkeypatch):
    conventional = {"seconds": 8.0, "process": 10.0, "accuracy": 0.96}
    monkeypatch.setattr(benchmark, "_run_conventional", lambda workers, images=0, seed=0: conventional)
    monkeypatch.setattr(benchmark, "_measure_import", lambda: (1.0, 2**28))
    monkeypatch.setattr(waiting, "WORKING_TREE", StandIn("working tree"))
    text = benchmark.measure_rounds(2, "cpu", {1: 1e9}, quick=True, accurate=True)
    assert f"| {waiting.ROWS['conventional']} | 8.00 (8.00 to 8.00) |" in text
    assert "| `baseline` | 2.00 (2.00 to 2.00) | 4 |" in text
    assert "| `accurate` | 2.00 | 4 |" in text


def test_measure_accuracy_counts_the_seeds():
    text = benchmark.measure_accuracy([StandIn("working tree", accuracy=0.981)], "cpu", quick=False)
    assert "| `standard` | 10 | 98.10 % (98.10 to 98.10) |" in text


def test_compare_inference_describes_every_quick_network(monkeypatch):
    monkeypatch.setattr(benchmark, "in_new_process", lambda function, *arguments: (1000.0, 2000.0, 3000.0))
    text = benchmark.compare_inference(1e9, quick=True)
    assert "| `cnn` | 1 | 1,000 | 2,000 | 3,000 |" in text
    assert f"at most {architecture.IMAGES_PER_BATCH} images at once" in text


def test_time_inference_returns_three_rates():
    assert min(benchmark.time_inference("cnn", 1, seconds=0.01, rate=1e9)) > 0


@pytest.mark.slow
def test_measure_checkpoints_names_the_recipes():
    text = benchmark.measure_checkpoints(quick=True)
    assert all(f"| `{name}` |" in text for name in benchmark.TIMED_RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["baseline", "robust"])
def test_step_time_contains_the_time_of_its_kernels(monkeypatch, name):
    monkeypatch.setattr(step_time, "STEPS", 4)
    monkeypatch.setattr(step_time, "ROUNDS", 1)
    seen = []
    is_kernel = step_time._is_kernel
    monkeypatch.setattr(step_time, "_is_kernel", lambda key: seen.append(key) or is_kernel(key))
    step, kernels = step_time.measure(name)
    assert 0 < kernels < 2 * step  # the profiler and other load can make the kernels slower than in the timed step
    used = {key for key in seen if is_kernel(key)}
    assert {"aten::max_pool2d_with_indices", "aten::convolution_backward", "aten::_fused_adamw_"} <= used
    assert used.isdisjoint({"aten::view", "aten::empty", "aten::conv2d"})
