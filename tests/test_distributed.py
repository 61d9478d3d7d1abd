import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sandbox
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import PATIENCE, generator

from mnist import distributed, recipes, trainer
from mnist.distributed import Group
from mnist.storage import artifacts, checkpoints

IMAGES = torch.randint(0, 256, (49, 1, 28, 28), dtype=torch.uint8, generator=generator(0))
LABELS = torch.arange(49) % 10
RECIPES = ("standard", "fast")  # without and with batch norm
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # interface for gloo; some hosts cannot look up their own name
STEPS = 8  # two epochs of batches of 16, 16, 16 and 1 image: one process gets no image of the last batch


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_are_a_partition_of_the_batch(count, size):
    shares = [Group(rank, size).share(torch.arange(count)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_join_without_torchrun_is_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.join("cpu") as group:
        assert group == distributed.SINGLE_PROCESS
        assert group.any(True)
        assert not group.any(False)
        assert group.from_first(b"content") == b"content"


def test_join_refuses_several_processes_on_mps(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(distributed.DistributedError, match="cannot share"), distributed.join("mps"):
        pass


def test_join_asks_for_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(distributed.DistributedError, match="start the run with torchrun"), distributed.join("cpu"):
        pass


def train(group: Group, recipe: str) -> dict:
    """Train; return the final weights, the reported losses and accuracies, and the image indices of each step."""
    reports, shares = [], []

    class RecordingGroup(Group):
        def share(self, batch: torch.Tensor) -> torch.Tensor:
            shares.append(super().share(batch).tolist())
            return super().share(batch)

    chosen = recipes.get(recipe, batch_size=16, epochs=2)
    recording = RecordingGroup(group.rank, group.size, group.device)
    model = trainer.train(chosen, IMAGES, LABELS, report=reports.append, group=recording).model.state_dict()
    losses, accuracies = ([getattr(report, name) for report in reports] for name in ("loss", "accuracy"))
    return {"model": model, "losses": losses, "accuracies": accuracies, "shares": shares}


def join_and_train(rank: int, port: int, folder: Path) -> None:
    """Run one of two processes, and write its results to the folder."""
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, GLOO_SOCKET_IFNAME=LOOPBACK)
    with distributed.join("cpu") as group:
        for recipe in RECIPES:
            torch.save(train(group, recipe), folder / f"{recipe} 2 {rank}")
        assert group.any(rank == 0)
        assert not group.any(False)
        assert group.from_first(b"first" if rank == 0 else None) == b"first"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of each process, by recipe, number of processes and rank."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = sandbox.CONTEXT.Process
    processes = [start(target=join_and_train, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    single = {f"{recipe} 1 0": train(distributed.SINGLE_PROCESS, recipe) for recipe in RECIPES}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return single | {path.name: torch.load(path) for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="these tests fork processes")
@pytest.mark.parametrize("recipe", RECIPES)
class TestTwoProcesses:
    def test_result_is_that_of_one_process_up_to_rounding(self, results, recipe):
        one, two = results[f"{recipe} 1 0"], results[f"{recipe} 2 0"]
        for name, expected in one["model"].items():
            torch.testing.assert_close(two["model"][name], expected, rtol=1e-4, atol=1e-4, msg=name)
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)
        assert two["accuracies"] == pytest.approx(one["accuracies"], abs=1e-6)

    def test_both_have_the_same_weights_bit_for_bit(self, results, recipe):
        first, second = results[f"{recipe} 2 0"]["model"], results[f"{recipe} 2 1"]["model"]
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_together_see_every_image_once_in_each_epoch(self, results, recipe):
        shares = [results[f"{recipe} 2 {rank}"]["shares"] for rank in (0, 1)]
        # Each step asks once for its share of the batch; an epoch has four steps.
        assert [len(steps) for steps in shares] == [STEPS, STEPS]
        for epoch in (slice(0, 4), slice(4, 8)):
            seen = [index for steps in shares for step in steps[epoch] for index in step]
            assert sorted(seen) == list(range(49))


KILLED = """
import os, signal, sys
from mnist import cli
from mnist.storage import checkpoints
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    write = checkpoints.RunFolder.write
    def write_and_die(self, step, checkpoint):
        path = write(self, step, checkpoint)
        if step >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return path
    checkpoints.RunFolder.write = write_and_die
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_torchrun_resumes_a_killed_run_from_its_checkpoint(tmp_path):
    program = tmp_path / "killed.py"
    program.write_text(KILLED, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", "--max-restarts=1"]
    options = ["--dataset", "subset", "--epochs", "1", "--no-gate", "--device", "cpu", "--checkpoint-interval", "10"]
    finished = subprocess.run(
        [*command, str(program), "train", *options],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": LOOPBACK},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    path = artifacts.newest(tmp_path / "models")
    training = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["training"]
    assert (training["processes"], training["resumed"], training["images"]) == (2, 1, 4000)
    assert len(list((tmp_path / "models").glob("*.pth"))) == 1, "only one process writes the model"
    assert checkpoints.find(tmp_path / "checkpoints", lambda checkpoint: True) is None
    assert finished.stdout.count("parameters") == 1, "only one process prints"
    assert f"exitcode: -{signal.SIGKILL.value}" in finished.stderr
