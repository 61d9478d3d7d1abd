import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnist import recipes, resources, trainer


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "99000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "900000000 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "not a number"}, None),
        (
            {
                "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_processors_respects_the_quota_of_a_container(tmp_path, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert resources.processors(tmp_path) == (expected or allowed)


@pytest.mark.slow
def test_training_leaks_no_memory_files_or_threads():
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(8) % 10
    process = psutil.Process()

    def used() -> tuple[int, int, int]:
        """Return the memory in bytes, the number of open files, and the number of threads."""
        gc.collect()
        files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return process.memory_info().rss, files, process.num_threads()

    def epochs(count: int) -> None:
        trainer.train(recipes.get("standard", epochs=count, batch_size=8), images, labels)

    epochs(100)
    memory, files, threads = used()
    epochs(1000)
    for _ in range(20):
        epochs(1)
    memory_after, files_after, threads_after = used()
    # A leak in each of the 21 runs would exceed these bounds. Windows and macOS open a few files and threads.
    assert files_after < files + 20
    assert threads_after < threads + 20
    assert memory_after - memory < 8 * 2**20


class Machine:
    """A machine with a given number of processors, simulated by replacing functions of `psutil`, `time` and `os`."""

    def __init__(self, monkeypatch, processors: int) -> None:
        self.now, self.own, self.idle = 100.0, 5.0, [50.0] * processors
        monkeypatch.setattr(resources.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(resources.time, "process_time", lambda: self.own)
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [SimpleNamespace(idle=i) for i in self.idle])
        monkeypatch.setattr(resources.os, "sched_getaffinity", lambda pid: set(range(processors)), raising=False)

    def pass_time(self, seconds: float, own: float, others: float) -> None:
        """Advance the clock, while this process and others use these numbers of processors."""
        self.now += seconds
        self.own += seconds * own
        for number in range(len(self.idle)):
            self.idle[number] += seconds * (len(self.idle) - own - others) / len(self.idle)


@given(st.integers(1, 64), st.floats(0.1, 100), st.floats(0, 1), st.floats(0, 1))
def test_other_load_excludes_idle_time_and_this_process(monkeypatch, processors, seconds, own, others):
    machine = Machine(monkeypatch, processors)
    load = resources.OtherLoad()
    own *= processors
    others *= processors - own
    machine.pass_time(seconds, own, others)
    assert load.seconds == pytest.approx(seconds)
    assert load.busy() == pytest.approx(others, abs=1e-3)


def test_other_load_ignores_other_processors(monkeypatch):
    """Only the processors that this process may use count."""
    machine = Machine(monkeypatch, 4)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    load = resources.OtherLoad()
    machine.now += 1
    machine.idle = [51.0, 51.0, 50.0, 50.0]
    assert (load.processors, load.busy()) == (2, 0)


def test_process_age_does_not_depend_on_the_date(monkeypatch):
    before = resources.process_age()
    if sys.platform == "linux":
        monkeypatch.setattr(resources.time, "time", lambda: 0.0)
    assert 0 < before <= resources.process_age() < before + 3600


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz: new\nflags\t: a b\n", "Fast CPU @ 3 GHz: new"),
        ("CPU part\t: 0xd0c\n", None),
    ],
)
def test_processor_name_on_linux(tmp_path, monkeypatch, text, name):
    """Not every architecture has a model name in cpuinfo."""
    monkeypatch.setattr(resources.sys, "platform", "linux")
    monkeypatch.setattr(resources.platform, "processor", lambda: "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text, encoding="utf-8")
    assert resources.processor_name(tmp_path) == (name or "aarch64")


@pytest.mark.parametrize(("output", "name"), [(b"Apple M1\n", "Apple M1"), (None, "arm")])
def test_processor_name_on_macos(tmp_path, monkeypatch, output, name):
    def run(command, **options):
        assert command[-1] == "machdep.cpu.brand_string"
        if output is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 0, output)

    monkeypatch.setattr(resources.sys, "platform", "darwin")
    monkeypatch.setattr(resources.subprocess, "run", run)
    monkeypatch.setattr(resources.platform, "processor", lambda: "arm")
    assert resources.processor_name(tmp_path) == name


def test_processor_name_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(resources.sys, "platform", "win32")
    monkeypatch.setattr(resources.platform, "processor", lambda: "Intel64 Family 6")
    assert resources.processor_name(tmp_path) == "Intel64 Family 6"
