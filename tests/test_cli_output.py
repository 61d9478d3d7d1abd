"""A command whose output cannot be written still saves its results; only success turns into exit code 2."""

import errno
import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK

from mnist import cli, report
from mnist.cli import process, results, streams

FULL, CLOSED_TERMINAL, CLOSED_PIPE = errno.ENOSPC, errno.EIO, errno.EPIPE


class Failing(io.RawIOBase):
    """An output whose writes fail."""

    def __init__(self, code: int) -> None:
        self.code = code

    def writable(self) -> bool:
        return True

    def write(self, data):
        raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs a command whose output fails; it returns the exit code and stderr."""

    def run(code: int, *arguments: object, both: bool = False) -> tuple[int, str]:
        for name in ("stdout", "stderr")[: 1 + both]:
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(Failing(code)), encoding="utf-8"))
        with pytest.raises(SystemExit) as exited:
            cli.main([str(argument) for argument in arguments])
        return exited.value.code, capsys.readouterr().err

    return run


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("fault", [FULL, CLOSED_TERMINAL, CLOSED_PIPE])
def test_train_saves_its_model_without_output(run, tmp_path, fault, both):
    code, err = run(fault, "train", *QUICK, both=both)
    assert len(list(tmp_path.glob("models/*.pth"))) == 1
    assert list(tmp_path.glob("checkpoints/*")) == []
    assert code == (0 if fault == CLOSED_PIPE else process.BAD_INPUT)
    if not both:
        lost = f"error: some output could not be written: {os.strerror(fault)}"
        assert (lost in err) == (fault != CLOSED_PIPE)
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("fault", [FULL, CLOSED_PIPE])
def test_gate_keeps_its_verdict_without_output(run, model, tmp_path, monkeypatch, fault, blocked):
    if blocked:
        monkeypatch.setattr("mnist.gate.blocked", lambda verdicts: True)
    code, _ = run(fault, "gate", "--dataset", "subset")
    assert (tmp_path / "reports" / model.stem / "report.html").exists()
    assert code == (process.BLOCKED if blocked else 0 if fault == CLOSED_PIPE else process.BAD_INPUT)


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [False, True])
def test_gate_shows_its_verdict_if_the_report_cannot_be_written(mnist, model, monkeypatch, blocked):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "reports/report.json")

    monkeypatch.setattr(report, "write", fail)
    monkeypatch.setattr("mnist.gate.blocked", lambda verdicts: blocked)
    finished = mnist("gate", "--dataset", "subset")
    assert finished.code == (process.BLOCKED if blocked else process.BAD_INPUT)
    assert "\n  pass      accuracy " in finished.out
    assert "error: the report could not be written: reports/report.json: No space left" in finished.err


@pytest.mark.slow
@pytest.mark.parametrize("summary", ["missing/summary.md", "."])
def test_gate_keeps_its_verdict_without_the_job_summary(mnist, model, monkeypatch, summary):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", summary)
    finished = mnist("gate", "--dataset", "subset")
    assert finished.code == 0
    assert "WARNING: the job summary could not be written: " in finished.err


def test_annotations_are_one_command_each(monkeypatch, capsys):
    class Forged:
        passes, blocks, criterion = False, True, "accuracy"

        def explain(self):
            return "1 % of a\n::warning::forged\r::error::b"

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    results.annotate([Forged()], summary=str)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == r"::error title=accuracy::1 %25 of a\u000a::warning::forged\u000d::error::b"


def test_forgiving_output_discards_all_output_after_an_error():
    output = streams.ForgivingOutput(Failing(FULL))
    assert [output.write(b"abc"), output.write(b"de")] == [3, 2]
    assert output.error.errno == FULL


def test_forgiving_output_waits_for_a_full_pipe():
    class FullPipe(Failing):
        results = iter([None, None, 2, None, 1])

        def write(self, data):
            return next(self.results)

    writer = io.BufferedWriter(streams.ForgivingOutput(FullPipe(0)))
    writer.write(b"abc")
    writer.flush()
    assert writer.raw.error is None
    assert list(FullPipe.results) == []


def test_protected_streams_outlive_the_streams_that_they_replace(tmp_path, monkeypatch):
    paths = [tmp_path / "stdout", tmp_path / "stderr"]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    for name, descriptor in zip(("stdout", "stderr"), descriptors, strict=True):
        monkeypatch.setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
    streams.protect("strict")
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        print("written", file=stream, flush=True)
    for descriptor in descriptors:
        os.close(descriptor)
    assert [path.read_text(encoding="utf-8") for path in paths] == ["written\n"] * 2


COMMAND = [sys.executable, "-m", "mnist", "--help"]


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_process_ends_quietly_if_a_pipe_is_closed(options):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        finished = subprocess.run(
            [COMMAND[0], *options, *COMMAND[1:]], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_process_reports_lost_output_in_one_line():
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(COMMAND, stdout=full, stderr=subprocess.PIPE, check=False)
    assert finished.returncode == process.BAD_INPUT
    assert finished.stderr == b"error: some output could not be written: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors in the child process")
def test_process_runs_with_closed_descriptors(tmp_path):
    """A file that is opened later must not take the place of stdout."""
    program = "import os, runpy, sys; [os.close(number) for number in range(3)]; os.execv(sys.executable, sys.argv[1:])"
    finished = subprocess.run([sys.executable, "-c", program, *COMMAND, "--version"], check=False)
    assert finished.returncode == 0
