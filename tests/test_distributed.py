import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sandbox
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from samples import save_model
from strategies import PATIENCE, generator

from mnist import architecture, datasets, distributed, recipes, runs, trainer
from mnist.distributed import DistributedError, Group
from mnist.errors import MnistError
from mnist.runs import Settings
from mnist.storage import artifacts, checkpoints

IMAGES = torch.randint(0, 256, (49, 1, 28, 28), dtype=torch.uint8, generator=generator(0))
LABELS = torch.arange(49) % 10
RECIPES = ("standard", "fast", "robust")  # without and with batch norm, and with images that are mixed with each other
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # interface for gloo; some hosts cannot look up their own name
STEPS = 8  # two epochs of batches of 16, 16, 16 and 1 image: one process gets no image of the last batch


def on_cpu() -> torch.device:
    return torch.device("cpu")


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_are_a_partition_of_the_batch(count, size):
    shares = [Group(rank, size).share(torch.arange(count)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_join_without_torchrun_is_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.join(on_cpu) as group:
        assert group == distributed.SINGLE_PROCESS
        assert group.any(True)
        assert not group.any(False)
        assert group.gather("value") == ["value"]


def test_join_asks_for_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistributedError, match="start the run with torchrun"), distributed.join(on_cpu):
        pass


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "0x2", "\N{SUPERSCRIPT TWO}"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"])
def test_wrong_environment_variable_is_one_clear_line(mnist, monkeypatch, name, value):
    monkeypatch.setenv("WORLD_SIZE", "1" if name.startswith("TORCHELASTIC") else "2")
    monkeypatch.setenv(name, value)
    finished = mnist("train", "--dataset", "subset", "--device", "cpu")
    assert finished.code == 2
    assert f"error: the environment variable {name} must be a whole number" in finished.err
    assert repr(value) in finished.err
    assert finished.err.count("\n") == 1


def test_join_refuses_a_rank_beyond_the_world_size(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(DistributedError, match="RANK is 2, but WORLD_SIZE is 2"), distributed.join(on_cpu):
        pass


def meet(store: dist.Store, devices: list[str]) -> list[str]:
    """Let processes meet, one thread for each; return the type of device or the error that each of them gets."""

    def meet_as(rank: int) -> str:
        def select() -> torch.device:
            if devices[rank] == "none":
                raise MnistError("there is no device")
            return torch.device(devices[rank])

        try:
            return distributed._meet(store, rank, len(devices), select)[1]
        except MnistError as error:
            return str(error)

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(meet_as, range(len(devices))))


NO_MPS = "several processes cannot share an mps device (choose --device cpu)"
DIFFERENT_DEVICES = (
    "the devices of this run's processes differ: cuda on rank 0, cpu on rank 1 (choose one with --device)"
)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["cpu", "cpu", "cpu"], ["cpu", "cpu", "cpu"]),
        (["cpu", "mps"], [f"rank 1 of this run failed to start: {NO_MPS}", NO_MPS]),
        (["none", "cpu"], ["there is no device", "rank 0 of this run failed to start: there is no device"]),
        (["cuda", "cpu"], [DIFFERENT_DEVICES, DIFFERENT_DEVICES]),
    ],
)
def test_processes_with_different_devices_stop_together(devices, expected):
    assert meet(dist.HashStore(), devices) == expected


def test_exchange_ignores_what_earlier_processes_wrote():
    """The processes of two machines meet after a restart, whichever starts first and whatever the store still holds."""
    store, sessions = dist.HashStore(), []
    for attempt in range(3):

        def exchange(rank: int, attempt: int = attempt) -> list[str]:
            time.sleep(0.1 * (rank if attempt == 1 else 2 - rank))
            session, values = distributed._exchange(store, rank, 3, f"{attempt} {rank}")
            session.set("key", str(attempt))
            sessions.append(session)
            return values

        with ThreadPoolExecutor(3) as pool:
            for values in pool.map(exchange, range(3)):
                assert values == [f"{attempt} {rank}" for rank in range(3)]
    assert sorted(session.get("key") for session in sessions) == [b"0"] * 3 + [b"1"] * 3 + [b"2"] * 3


@pytest.mark.parametrize(("rank", "missing"), [(0, 1), (1, 0)])
def test_exchange_names_a_process_that_does_not_start(monkeypatch, rank, missing):
    monkeypatch.setattr(distributed, "MAX_JOIN_SECONDS", 0.1)
    with pytest.raises(DistributedError, match=f"rank {missing} of this run has not started within"):
        distributed._exchange(dist.HashStore(), rank, 2, None)


def train(group: Group, recipe: str) -> dict:
    """Train; return the final weights, the reported losses and accuracies, and the image indices of each step."""
    reports, shares = [], []

    class RecordingGroup(Group):
        def share(self, batch: torch.Tensor) -> torch.Tensor:
            shares.append(super().share(batch).tolist())
            return super().share(batch)

    chosen = recipes.get(recipe, batch_size=16, epochs=2)
    recording = RecordingGroup(group.rank, group.size, group.device)
    negatives = IMAGES[:7] if recipe == "robust" else None
    trained = trainer.train(chosen, IMAGES, LABELS, negatives=negatives, report=reports.append, group=recording)
    model = trained.model.state_dict()
    losses, accuracies = ([getattr(report, name) for report in reports] for name in ("loss", "accuracy"))
    return {"model": model, "losses": losses, "accuracies": accuracies, "shares": shares}


def run_as_rank(rank: int, port: int, folder: Path, action: Callable[..., None], arguments: tuple) -> None:
    """Call ``action(rank, folder, *arguments)`` in one of two processes."""
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, GLOO_SOCKET_IFNAME=LOOPBACK)
    os.chdir(folder)
    action(rank, folder, *arguments)


def start_two_processes(folder: Path, action: Callable[..., None], *arguments) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = sandbox.CONTEXT.Process
    processes = [start(target=run_as_rank, args=(rank, port, folder, action, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def join_and_train(rank: int, folder: Path) -> None:
    """Write the results of one process to the folder."""
    with distributed.join(on_cpu) as group:
        for recipe in RECIPES:
            torch.save(train(group, recipe), folder / f"{recipe} 2 {rank}")
        assert group.any(rank == 0)
        assert not group.any(False)
        assert group.gather(rank) == [0, 1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of each process, by recipe, number of processes and rank."""
    folder = tmp_path_factory.mktemp("processes")
    processes = start_two_processes(folder, join_and_train)
    single = {f"{recipe} 1 0": train(distributed.SINGLE_PROCESS, recipe) for recipe in RECIPES}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return single | {path.name: torch.load(path) for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="these tests fork processes")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.slow
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


SHORT = {"epochs": 0.1}  # seven steps
DIFFER = "DistributedError: the processes of this run do not match: "
RANK_1_FAILED = "DistributedError: rank 1 of this run failed to start: "


def unavailable(*arguments, **options) -> None:
    raise datasets.UnavailableError("could not download MNIST")


def subset_as_mnist(*arguments, **options) -> datasets.Dataset:
    return dataclasses.replace(datasets.load_subset(), name="mnist")


def other_images(*arguments, **options) -> datasets.Dataset:
    train = datasets.load_subset().train
    return dataclasses.replace(subset_as_mnist(), train=dataclasses.replace(train, images=255 - train.images))


def accept() -> None:
    """Allow the run to start."""


def refuse() -> None:
    raise MnistError("there is no policy")


def start_run(
    rank: int, folder: Path, settings: tuple[dict, dict], load_mnist: tuple, restarts: str, checks: tuple
) -> None:
    """Train in one process, and write the error or, in the first process, where the model was saved."""
    datasets.load_mnist = load_mnist[rank]
    os.environ["TORCHELASTIC_RESTART_COUNT"] = restarts[rank]
    options = {"dataset": "subset", "overrides": SHORT, "device": "cpu", **settings[rank]}
    options = {"models_dir": Path(f"models {rank}"), "checkpoints_dir": Path(f"checkpoints {rank}"), **options}
    try:
        result = runs.train(Settings(**options), check=checks[rank])
        outcome = str(result.path) if result else "trained"
    except (MnistError, OSError) as error:
        outcome = f"{type(error).__name__}: {error}"
    Path(f"outcome {rank}").write_text(outcome, encoding="utf-8")


@pytest.fixture
def start(tmp_path) -> Callable[..., list[str]]:
    """Return a function that starts a run in two processes, and returns the outcome of each."""

    def start(
        first: dict,
        second: dict,
        *,
        load_mnist: tuple = (subset_as_mnist, subset_as_mnist),
        restarts: str = "00",
        checks: tuple = (accept, accept),
    ) -> list[str]:
        for process in start_two_processes(tmp_path, start_run, (first, second), load_mnist, restarts, checks):
            process.join(PATIENCE)
            assert process.exitcode == 0
        return [(tmp_path / f"outcome {rank}").read_text(encoding="utf-8") for rank in range(2)]

    return start


@contextlib.contextmanager
def stop_at_once(group: Group):
    yield runs.TrainingCallbacks(stop=lambda: True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="these tests fork processes")
class TestStart:
    @pytest.mark.parametrize(
        ("first", "second", "difference"),
        [
            ({}, {"overrides": SHORT | {"seed": 2}}, "recipe's seed: 0 on rank 0, 2 on rank 1"),
            ({"recipe": "standard"}, {"recipe": "baseline"}, "recipe's name: standard on rank 0, baseline on rank 1"),
            ({}, {"validation": 400}, "validation images: 0 on rank 0, 400 on rank 1"),
            ({}, {"init": Path("model.pth")}, "initial weights: random on rank 0, SHA-256"),
        ],
    )
    def test_different_settings_stop_both_processes(self, start, tmp_path, first, second, difference):
        shutil.copy(save_model(architecture.build("cnn", generator(0)), tmp_path), tmp_path / "model.pth")
        one, two = start(first, second)
        assert one == two
        assert one.startswith(DIFFER)
        assert difference in one
        assert not list(tmp_path.glob("checkpoints */*")), "no folder is left behind"

    def test_different_data_stop_both_processes(self, start):
        one, two = start({"dataset": "mnist"}, {"dataset": "mnist"}, load_mnist=(subset_as_mnist, other_images))
        assert one == two
        assert re.fullmatch(
            DIFFER + r"data: 4,000 .* SHA-256 \w{16} on rank 0, 4,000 .* on rank 1 \(start all .*\)", one
        )

    @pytest.mark.parametrize("name", ["mnist", "auto"])
    def test_unavailable_data_stop_both_processes(self, start, name):
        """In particular, a process does not use the offline subset while the other one trains on MNIST."""
        one, two = start({"dataset": name}, {"dataset": name}, load_mnist=(subset_as_mnist, unavailable))
        assert two == "UnavailableError: could not download MNIST"
        assert one == RANK_1_FAILED + "could not download MNIST"

    def test_first_process_chooses_the_auto_dataset(self, start, tmp_path):
        path, other = start({"dataset": "auto"}, {"dataset": "auto"}, load_mnist=(unavailable, subset_as_mnist))
        assert other == "trained"
        assert artifacts.load(tmp_path / path).card.dataset.name == "subset"

    def test_unwritable_folder_stops_both_processes(self, start, tmp_path):
        (tmp_path / "models 0").write_text("a file", encoding="utf-8")
        one, two = start({}, {})
        assert one.startswith("FileExistsError")
        assert two.startswith(RANK_1_FAILED.replace("rank 1", "rank 0") + "models 0: ")

    def test_only_the_first_process_needs_its_folders(self, start, tmp_path):
        (tmp_path / "models 1").write_text("a file", encoding="utf-8")
        assert start({}, {})[1] == "trained"

    def test_failed_check_stops_both_processes(self, start):
        one, two = start({}, {}, checks=(refuse, accept))
        assert one == "MnistError: there is no policy"
        assert two == RANK_1_FAILED.replace("rank 1", "rank 0") + "there is no policy"

    @pytest.mark.parametrize(("resume", "restarts"), [((False, True), "00"), ((False, False), "10")])
    def test_one_process_that_resumes_makes_both_resume(self, start, tmp_path, resume, restarts):
        """After the crash of one machine, the restart counts that torchrun gives differ."""
        interrupted = Settings(dataset="subset", overrides=SHORT, device="cpu", checkpoints_dir=Path("checkpoints 0"))
        with pytest.raises(runs.RunInterrupted):
            runs.train(interrupted, callbacks=stop_at_once)
        path, other = start({"resume": resume[0]}, {"resume": resume[1]}, restarts=restarts)
        assert other == "trained"
        assert artifacts.load(tmp_path / path).card.training.resumed == 1

    def test_resuming_a_run_with_other_options_stops_both_processes(self, start):
        with pytest.raises(runs.RunInterrupted):
            runs.train(
                Settings(dataset="subset", overrides=SHORT, device="cpu", checkpoints_dir=Path("checkpoints 0")),
                callbacks=stop_at_once,
            )
        one, two = start({"resume": True}, {"resume": True, "overrides": SHORT | {"seed": 3}})
        assert two.startswith("RunError: the run that rank 0 resumes has other options")
        assert one.startswith(RANK_1_FAILED + "the run that rank 0 resumes has other options")


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
