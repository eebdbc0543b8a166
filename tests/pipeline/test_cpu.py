"""What this process may use, read from control groups made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cpu
from pipeline.cpu import CpuPlan, available_cpus, available_memory, divide

pytestmark = pytest.mark.timeout(20)

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "affinity", lambda: 8)


V2 = {"proc/self/cgroup": "0::/user/app\n"}
V1 = {"proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n"}

QUOTAS = {
    "no files at all": ({}, 8),
    "v2 without a limit": ({**V2, "sys/fs/cgroup/user/app/cpu.max": "max 100000\n"}, 8),
    "v2 one and a half": ({**V2, "sys/fs/cgroup/user/app/cpu.max": "150000 100000\n"}, 2),
    "v2 limited above": (
        {**V2, "sys/fs/cgroup/user/app/cpu.max": "max 100000\n", "sys/fs/cgroup/user/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2 in a container, where the group is the mount": ({**V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "v2 more than there are": ({**V2, "sys/fs/cgroup/user/app/cpu.max": "6400000 100000\n"}, 8),
    "v1 two": (
        {
            **V1,
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "v1 under the controller's own name": (
        {
            **V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "v1 without a limit": (
        {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
    "nonsense": ({**V2, "sys/fs/cgroup/user/app/cpu.max": "many few\n", "sys/fs/cgroup/cpu.max": "1 0\n"}, 8),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_the_smallest_bound_counts(case: str, eight: None, tmp_path: Path) -> None:
    files, expected = QUOTAS[case]
    assert available_cpus(write(tmp_path, files)) == expected


def test_affinity_bounds_too() -> None:
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{one}}}); from pipeline.cpu import available_cpus as f; print(f())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "1\n"


MEMORY = {
    "unknown": ({}, None),
    "the machine": ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2097152 kB\n"}, 2 * GIB),
    "v2": (
        {
            **V2,
            "proc/meminfo": "MemAvailable:    8388608 kB\n",
            "sys/fs/cgroup/user/app/memory.max": str(3 * GIB),
            "sys/fs/cgroup/user/app/memory.current": str(2 * GIB),
            "sys/fs/cgroup/user/app/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
        GIB + GIB // 2,
    ),
    "v2 without a limit": (
        {**V2, "proc/meminfo": "MemAvailable: 1024 kB\n", "sys/fs/cgroup/user/app/memory.max": "max\n"},
        1 << 20,
    ),
    "v1 without a limit": (
        {
            **V1,
            "proc/meminfo": "MemAvailable: 1024 kB\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
        },
        1 << 20,
    ),
    "v1 used up": (
        {
            **V1,
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GIB + 5),
        },
        0,
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_that_is_left(case: str, tmp_path: Path) -> None:
    files, expected = MEMORY[case]
    assert available_memory(write(tmp_path, files)) == expected


def test_this_machine_has_some() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
    assert (available_memory() or 1) > 0


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("workers", [None, 0, 1, 5])
@pytest.mark.parametrize("live", [False, True])
def test_every_part_gets_something(cpus: int, workers: int | None, live: bool) -> None:
    plan = divide(cpus, workers, live)
    assert plan.cpus == cpus
    assert plan.engine_threads >= 1
    assert 1 <= plan.engine_requests <= plan.engine_threads
    assert plan.engine_requests == 1 or not live
    assert plan.engine_threads == (cpus if live or cpus >= 8 else cpus + 1)
    assert plan.crf_workers == (0 if workers is None else workers or cpus - cpus // 4)


def test_two_cores() -> None:
    assert divide(2, None, live=False) == CpuPlan(2, 3, 3, 0)
    assert divide(2, 0, live=False) == CpuPlan(2, 3, 3, 2)
    assert divide(2, None, live=True) == CpuPlan(2, 2, 1, 0)
    with pytest.raises(ValueError, match="at least one"):
        divide(0, None, live=False)


def test_a_child_gets_so_many_threads() -> None:
    environment = cpu.child_environment(1)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    program = "import os, numpy as np; a = np.ones((400, 400)); a @ a; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    assert done.stdout == "1\n"
