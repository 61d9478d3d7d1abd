import contextlib
import dataclasses
import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ON_FOLDER, QUICK, assert_one_clear_line
from strategies import PATIENCE, generator

import mnist
from mnist import __main__ as start
from mnist import architecture, runs, trainer, transforms
from mnist.cli import process
from mnist.storage import artifacts, checkpoints

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def test_ctrl_c_is_one_line_and_exit_code_130(mnist, model, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupt)
    finished = mnist("train", *QUICK)
    assert finished.code == process.INTERRUPTED
    assert finished.err.strip().startswith("error: interrupted")
    assert artifacts.newest(model.parent) == model


@pytest.fixture
def _ctrl_c_is_heard():
    """A shell's background job ignores Ctrl-C, and so would the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_signal_outside_training_is_one_line(mnist, monkeypatch, number):
    monkeypatch.setattr(runs, "train", lambda *arguments, **options: signal.raise_signal(number))
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    finished = mnist("train", *QUICK)
    assert (finished.code, finished.err.strip()) == (128 + number, "error: interrupted (no file was left half-written)")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_nohup_lets_the_training_continue(mnist, interrupt, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt(20, signal.SIGHUP)
        finished = mnist("train", *QUICK)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (finished.code, "interrupted" in finished.err) == (0, False)


def test_ctrl_c_during_the_imports_is_one_line(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *arguments):
            if name == "mnist.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "mnist.cli")
    monkeypatch.delattr(mnist, "cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as exited:
        start.main()
    assert exited.value.code == process.INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted (no file was left half-written)\n"


def wait_for(path: Path) -> None:
    """Return as soon as ``path`` exists."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not appeared"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("when", ["starting", "training"])
def test_ctrl_c_ends_a_process_without_traceback(tmp_path, when):
    options = ["--dataset", "subset", "--epochs", "50", "--device", "cpu"]
    command = [sys.executable, "-u", "-m", "mnist", "train", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        try:
            if when == "training":
                assert child.stdout.readline().startswith("epoch ")
            else:
                wait_for(tmp_path / "reports")  # the last folder to be made before torch is imported
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
    assert child.returncode == process.INTERRUPTED
    assert list(tmp_path.glob("models/*")) == []
    if when == "starting":
        assert err.strip() == "error: interrupted (no file was left half-written)"
    else:
        assert re.fullmatch(
            r"interrupted after [\d,]+ of 3,150 steps; saved in checkpoints/run_\d+_\d+ \(continue: .*\)\n", err
        )


@pytest.fixture
def interrupt(monkeypatch, _ctrl_c_is_heard):
    """Have the next run told to leave after so many steps."""

    def plan(steps: int, number: int = signal.SIGINT) -> None:
        draw_affine = transforms.draw_affine
        batches = itertools.count(1)

        def draw_and_interrupt(*arguments, **options):
            if next(batches) == steps:
                monkeypatch.setattr(transforms, "draw_affine", draw_affine)
                signal.raise_signal(number)
            return draw_affine(*arguments, **options)

        monkeypatch.setattr(transforms, "draw_affine", draw_and_interrupt)

    return plan


def newest_weights(folder: Path) -> bytes:
    return artifacts.newest(folder / "models").read_bytes()


@pytest.mark.slow
def test_resume_leads_to_the_same_model(mnist, interrupt, tmp_path):
    assert mnist("train", *QUICK, "--seed", 3).code == 0
    whole = newest_weights(tmp_path)
    interrupt(20)
    finished = mnist("train", *QUICK, "--seed", 3)
    assert finished.code == process.INTERRUPTED
    assert "interrupted after 20 of 32 steps; saved in checkpoints" in finished.err
    assert "make train RESUME=1" in finished.err
    finished = mnist("train", "--no-gate", "--resume")
    assert finished.code == 0
    assert "step 26/32" in finished.out
    assert newest_weights(tmp_path) == whole
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.training.resumed == 1
    assert card.recipe.seed == 3
    assert list((tmp_path / "checkpoints").iterdir()) == [], "what is saved is not needed any more"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_during_training_saves_the_run(mnist, interrupt, tmp_path, number):
    interrupt(2, number)
    finished = mnist("train", *QUICK)
    assert finished.code == 128 + number
    assert "interrupted after 2 of 32 steps; saved in checkpoints" in finished.err
    assert len(list(tmp_path.glob("checkpoints/run_*/step_000000002.ckpt"))) == 1


@pytest.mark.slow
def test_resume_requires_the_same_options(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3)
    for choice in (("--seed", 4), ("--recipe", "fast"), ("--dataset", "mnist", "--mirror", tmp_path)):
        finished = mnist("train", *QUICK[2:], "--dataset", "subset", *choice, "--resume")
        assert "no interrupted run with these settings is in checkpoints: starting a new one" in finished.err
    assert "no interrupted run" not in mnist("train", *QUICK, "--recipe", "standard", "--seed", 3, "--resume").err


def test_resume_refuses_changed_data(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    other = dataclasses.replace(saved.dataset, sha256="0" * 64)
    path.write_bytes(checkpoints.pack(dataclasses.replace(saved, dataset=other)))
    assert_one_clear_line(mnist("train", *QUICK, "--resume"), "the data has changed since the run was interrupted")


@pytest.mark.slow
def test_resume_warns_of_another_number_of_threads(mnist, interrupt, tmp_path):
    interrupt(20)
    mnist("train", *QUICK)
    path = next((tmp_path / "checkpoints").rglob("*.ckpt"))
    saved = checkpoints.read(path)
    path.write_bytes(
        checkpoints.pack(dataclasses.replace(saved, machine=dataclasses.replace(saved.machine, threads=64)))
    )
    finished = mnist("train", *QUICK, "--resume")
    assert finished.code == 0
    assert (
        "WARNING: rounding will make the weights differ from those of an uninterrupted run (threads: 64, now"
        in finished.err
    )


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_second_ctrl_c_stops_at_once(mnist, tmp_path, monkeypatch):
    def twice(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(transforms, "draw_affine", twice)
    finished = mnist("train", *QUICK)
    assert finished.code == process.INTERRUPTED
    assert finished.err.strip() == "error: interrupted (no file was left half-written)"


@pytest.mark.slow
def test_ignored_ctrl_c_does_not_interrupt_the_training(mnist, interrupt):
    """A shell makes its background jobs ignore Ctrl-C, which is meant for the command in the foreground."""
    interrupt(20)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    finished = mnist("train", *QUICK)
    assert (finished.code, "interrupted" in finished.err) == (0, False)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("ignored", [True, False])
def test_deferred_signals_restores_the_handler(ignored):
    handler = signal.SIG_IGN if ignored else signal.default_int_handler
    signal.signal(signal.SIGINT, handler)
    with process.DeferredSignals() as signals:
        signal.raise_signal(signal.SIGINT)
    assert signals.received == (None if ignored else signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == handler
    with contextlib.nullcontext() if ignored else pytest.raises(KeyboardInterrupt):
        signals.deliver()


def test_full_disk_for_checkpoints_is_a_warning(mnist, tmp_path, monkeypatch):
    def fail(folder, step, checkpoint):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoints/run")

    monkeypatch.setattr(checkpoints.RunFolder, "write", fail)
    finished = mnist("train", *QUICK, "--checkpoint-interval", 20)
    assert finished.code == 0
    assert finished.err.count("could not be saved") == 2
    assert "step 20 could not be saved: checkpoints/run: No space left on device" in finished.err


@pytest.mark.slow
def test_resume_accepts_another_spelling_of_the_folder(mnist, interrupt, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    interrupt(1)
    assert mnist("train", "--dataset", "photos", *ON_FOLDER).code == process.INTERRUPTED
    finished = mnist("train", "--dataset", "./photos/", "--no-gate", "--resume")
    assert (finished.code, "no interrupted run" in finished.err) == (0, False)
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.training.resumed == 1


@pytest.fixture
def others(tmp_path) -> list[str]:
    """Two models to start from."""
    for seed in (1, 2):
        torch.save(architecture.build("cnn", generator(seed)).state_dict(), tmp_path / f"{seed}.pth")
    return ["1.pth", "2.pth"]


@pytest.mark.slow
def test_resume_requires_the_same_initial_model(mnist, interrupt, tmp_path, others):
    one, other = others
    assert mnist("train", *QUICK, "--init", one).code == 0
    whole = newest_weights(tmp_path)
    interrupt(20)
    assert mnist("train", *QUICK, "--init", one).code == process.INTERRUPTED
    said = "no interrupted run with these settings is in checkpoints: starting a new one"
    assert said in mnist("train", *QUICK, "--init", other, "--resume").err
    assert newest_weights(tmp_path) != whole
    finished = mnist("train", "--no-gate", "--init", one, "--resume")
    assert (finished.code, said in finished.err) == (0, False)
    assert newest_weights(tmp_path) == whole
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    assert card.training.resumed == 1
    assert card.training.init.weights == one


@pytest.mark.slow
def test_resume_works_without_the_initial_model(mnist, interrupt, tmp_path, others):
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3)
    assert "no interrupted run" in mnist("train", *QUICK, "--seed", 3, "--init", others[0], "--resume").err
    whole = newest_weights(tmp_path)
    interrupt(20)
    mnist("train", *QUICK, "--seed", 3, "--init", others[0])
    (tmp_path / others[0]).unlink()
    assert mnist("train", "--no-gate", "--resume").code == 0, "the newest run comes first"
    assert newest_weights(tmp_path) == whole
    assert artifacts.load(artifacts.newest(tmp_path / "models")).card.training.init.weights == others[0]


@pytest.mark.parametrize("interval", ["0", "-1s", "soon", "s", "nans", "infs"])
def test_checkpoint_interval_refuses_bad_values(mnist, interval):
    assert_one_clear_line(mnist("train", "--checkpoint-interval", interval), "neither a number of steps, like 500")
