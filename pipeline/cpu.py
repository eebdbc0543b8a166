"""How much processor and memory this process may use, and who gets which part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

_ROOT = Path("/")

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


_MAX_REQUESTS = 8
"""More pictures in the engine at once gain nothing and cost a slot each."""


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that may still be taken: what the machine has left and the control groups allow.

    Returns:
        The smaller of both, or None where the system does not say.
    """
    bounds = [left for left in (_machine_memory(root), _group_memory(root)) if left is not None]
    return min(bounds) if bounds else None


def _machine_memory(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_memory(root: Path) -> int | None:
    left: list[int] = []
    for folder in _group_folders(root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most = _number(folder / limit)
            if most is not None and most < 1 << 60:  # version 1 writes "no limit" as a huge number
                left.append(max(0, most - (_number(folder / used) or 0) + _reclaimable(folder)))
    return min(left) if left else None


def _reclaimable(folder: Path) -> int:
    """Page cache that the group would give up; it counts as used, and is nearly all of it after a download."""
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Our own control group for a controller and those above it, innermost first.

    In a container the path in /proc is often the host's, and what is mounted is already the
    group itself: walking up from a path that is not there ends at the mount.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            if not mount.is_dir():
                mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield mount


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def affinity(pid: int = 0) -> int:
    """CPUs that the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(pid))
    return os.cpu_count() or 1


def child_environment(threads: int = 1) -> dict[str, str]:
    """Variables that keep numerical libraries in a child process to so many threads.

    They are read when the library is loaded, so they must be there before the child's first import.
    """
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """Who gets which part of the processor.

    Attributes:
        cpus: how many there are to divide.
        engine_threads: threads of the engine, all requests together.
        engine_requests: pictures in the engine at once.
        crf_workers: processes that refine; 0 if nothing is refined.
    """

    cpus: int
    engine_threads: int
    engine_requests: int
    crf_workers: int


def divide(cpus: int, crf_workers: int | None, live: bool) -> CpuPlan:
    """Divide the processor among the parts of a run.

    A file wants throughput: one picture for each engine thread, as far as eight go, so that none waits for
    another inside a layer, and there one thread more than there are processors, so that none of these waits
    while a picture is handed over (measured: 3 to 6 % more frames on two processors; two more threads give
    no more).  A live stream wants its one picture soon: all threads on it.
    The engine may use everything also where workers refine: the slots are bounded, so it
    runs a few frames ahead and then leaves the processor to the workers, whichever of the
    two is the slower, and no guess of their costs is needed.

    Args:
        cpus: how many there are, see `available_cpus`.
        crf_workers: how many processes refine, 0 to choose here, None if nothing is refined.
        live: the stream does not wait.
    """
    if cpus < 1:
        raise ValueError(f"there is at least one processor, not {cpus}")
    workers = 0 if crf_workers is None else crf_workers or _workers(cpus)
    return CpuPlan(
        cpus=cpus,
        engine_threads=cpus if live or cpus >= _MAX_REQUESTS else cpus + 1,
        engine_requests=1 if live else min(cpus + 1, _MAX_REQUESTS),
        crf_workers=workers,
    )


def _workers(cpus: int) -> int:
    """Three quarters of the processors; all of two."""
    return cpus - cpus // 4


def available_cpus(root: Path = _ROOT) -> int:
    """CPUs that this process may keep busy: what its affinity and its control groups' quotas allow.

    A quota of one and a half counts as two: rounding down would leave half of one idle.
    """
    quotas = [quota for folder in _group_folders(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([affinity(), *(ceil(quota) for quota in quotas)]))


def _quota(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()  # version 2: "150000 100000" or "max 100000"
    if len(words) != 2:
        words = [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]  # "-1": none
    if not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])
