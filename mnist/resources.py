"""The resources of this process: available processors, load from other processes, peak memory and age."""

import contextlib
import functools
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def processors(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use at once.

    The number is the size of the CPU affinity mask, or less if the container has a CPU quota. The quota is the smallest
    one set for the process's control group (version 2 or 1) or one of its ancestors.

    Args:
        root: folder that contains ``proc`` and ``sys``.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(root))))


@functools.cache
def processor_name(root: Path = Path("/")) -> str:
    """Return the model name of the processor, or its architecture if the model name is unknown.

    Args:
        root: folder that contains ``proc``.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            finished = subprocess.run(command, capture_output=True, timeout=1.0, check=True)  # noqa: S603 (constant)
            if name := finished.stdout.decode(errors="replace").strip():
                return name
    return platform.processor() or platform.machine()


class OtherLoad:
    """Measures the number of processors that other processes have used since the object was created.

    Only the processors that this process may run on are considered. Time that a hypervisor gives to other virtual
    machines counts as busy.
    """

    def __init__(self) -> None:
        self.processors = len(_processor_times())
        self._start = self._sample()

    @property
    def seconds(self) -> float:
        """The time since the object was created, in seconds."""
        return time.monotonic() - self._start[0]

    def busy(self) -> float:
        """Return the mean number of processors that other processes have used, from 0 to ``self.processors``."""
        seconds, idle, own = (now - then for now, then in zip(self._sample(), self._start, strict=True))
        return min(max(0.0, self.processors - (idle + own) / seconds), self.processors)

    @staticmethod
    def _sample() -> tuple[float, float, float]:
        """Return the clock time, the idle processor time and the processor time used by this process, in seconds."""
        idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in _processor_times())
        return time.monotonic(), idle, time.process_time()


def _processor_times() -> list[Any]:
    """Return the CPU times of each processor that this process may run on, as psutil reports them."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(times))
    return [times[number] for number in allowed if number < len(times)] or times


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes."""
    try:
        import resource  # not available on Windows
    except ImportError:
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux reports KiB


def process_age() -> float:
    """Return the age of this process in seconds. On Linux, setting the system clock does not affect it."""
    if sys.platform == "linux":
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime of proc(5), in clock ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    import psutil

    return time.time() - psutil.Process().create_time()


def _quota(root: Path) -> float:
    """Return the number of processors that this process's control groups allow, or infinity if there is no limit."""
    quotas = [math.inf]
    with contextlib.suppress(OSError, ValueError):  # not Linux, no control groups, or they cannot be read
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            group = top / name.lstrip("/")
            for folder in (group, *group.parents):
                quotas.append(_quota_of(folder, 1 if controllers else 2))
                if folder == top:
                    break
    return min(quotas)


def _quota_of(folder: Path, version: int) -> float:
    """Return the number of processors that one control group allows, or infinity if there is no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if version == 2:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        if quota != "max" and int(quota) > 0:  # version 1 writes -1 for no limit
            return int(quota) / int(period)
    return math.inf
