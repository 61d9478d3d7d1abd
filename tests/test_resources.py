import gc
import os

import psutil
import pytest
import torch

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
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "what is this"}, None),
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
def test_a_containers_limit_is_respected(tmp_path, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert resources.processors(tmp_path) == (expected or allowed)


def test_a_thousand_epochs_leak_neither_memory_nor_files_nor_threads():
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(8) % 10
    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return process.memory_info().rss, files, process.num_threads()

    def epochs(count: int) -> None:
        trainer.train(recipes.get("standard", epochs=count, batch_size=8), images, labels)

    epochs(100)
    memory, files, threads = held()
    epochs(1000)
    for _ in range(20):
        epochs(1)
    memory_after, files_after, threads_after = held()
    assert files_after <= files
    assert threads_after <= threads
    assert memory_after - memory < 8 * 2**20
