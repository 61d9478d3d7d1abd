import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import fault_injection
import pytest
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
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # a host may be unable to look up its own name
STEPS = 8  # two epochs: batches of 16, 16, 16 and 1, so that one process has nothing of the last


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_are_disjoint_and_make_up_the_whole(count, size):
    shares = [Group(rank, size).share(torch.arange(count)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_by_itself_is_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.join("cpu") as group:
        assert group == distributed.SINGLE_PROCESS
        assert group.any(True)
        assert not group.any(False)
        assert group.from_first(b"content") == b"content"


def test_several_processes_do_not_share_an_mps_device(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(distributed.DistributedError, match="cannot share"), distributed.join("mps"):
        pass


def test_processes_that_torchrun_has_not_started_are_told_to_use_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(distributed.DistributedError, match="start it with torchrun"), distributed.join("cpu"):
        pass


def train(group: Group, recipe: str) -> dict:
    """The weights that a process ends with, what it was told, and the images that it saw at each step."""
    reports, shares = [], []

    class Noting(Group):
        def share(self, batch: torch.Tensor) -> torch.Tensor:
            shares.append(super().share(batch).tolist())
            return super().share(batch)

    chosen = recipes.get(recipe, batch_size=16, epochs=2)
    noting = Noting(group.rank, group.size, group.device)
    model = trainer.train(chosen, IMAGES, LABELS, report=reports.append, group=noting).model.state_dict()
    losses, accuracies = ([getattr(report, name) for report in reports] for name in ("loss", "accuracy"))
    return {"model": model, "losses": losses, "accuracies": accuracies, "shares": shares}


def join_and_train(rank: int, port: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, GLOO_SOCKET_IFNAME=LOOPBACK)
    with distributed.join("cpu") as group:
        for recipe in RECIPES:
            torch.save(train(group, recipe), folder / f"{recipe} 2 {rank}")
        assert group.any(rank == 0)
        assert not group.any(False)
        assert group.from_first(b"first" if rank == 0 else None) == b"first"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of each recipe and number of processes, what each process ended with."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = fault_injection.CONTEXT.Process
    processes = [start(target=join_and_train, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    alone = {f"{recipe} 1 0": train(distributed.SINGLE_PROCESS, recipe) for recipe in RECIPES}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return alone | {path.name: torch.load(path) for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="these tests fork processes")
@pytest.mark.parametrize("recipe", RECIPES)
class TestTwoProcesses:
    def test_agree_with_one_up_to_rounding(self, outcomes, recipe):
        alone, together = outcomes[f"{recipe} 1 0"], outcomes[f"{recipe} 2 0"]
        for name, expected in alone["model"].items():
            torch.testing.assert_close(together["model"][name], expected, rtol=1e-4, atol=1e-4, msg=name)
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert together["accuracies"] == pytest.approx(alone["accuracies"], abs=1e-6)

    def test_end_with_the_same_weights_bit_for_bit(self, outcomes, recipe):
        first, second = outcomes[f"{recipe} 2 0"]["model"], outcomes[f"{recipe} 2 1"]["model"]
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_see_every_image_once_an_epoch_between_them(self, outcomes, recipe):
        shares = [outcomes[f"{recipe} 2 {rank}"]["shares"] for rank in (0, 1)]
        # Each step asks for its indices once: all of an epoch are four.
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
def test_torchrun_brings_a_killed_run_back_from_its_last_checkpoint(tmp_path):
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
    assert len(list((tmp_path / "models").glob("*.pth"))) == 1, "one process writes"
    assert checkpoints.find(tmp_path / "checkpoints", lambda checkpoint: True) is None
    assert finished.stdout.count("parameters") == 1, "one process shows"
    assert f"exitcode: -{signal.SIGKILL.value}" in finished.stderr
