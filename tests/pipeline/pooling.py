"""Rings, jobs and processes for tests of the pool; also imported by programs that they start, so without pytest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.flow import Outcome, PoolLane
from pipeline.frame import FORMATS, Colour, Geometry
from pipeline.slots import Ring, SlotLayout
from tests.pipeline.pool_jobs import Jobs

PATIENCE = 20.0


def jobs(kind: str, folder: Path | str = "") -> Jobs:
    return Jobs(kind, str(folder))


def ring_of(count: int, height: int = 36, width: int = 64) -> Ring:
    geometry = Geometry.fit(height, width, size=32, multiple=16)
    scores = (3, geometry.input_height // 16, geometry.input_width // 16)
    return Ring(SlotLayout(FORMATS["yuv420p"], Colour(6), height, width, geometry, scores), count)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: tuple[int, ...], seconds: float = 3.0) -> None:
    until(lambda: not any(alive(pid) for pid in pids), seconds)


def descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def names_in_shm(pid: int) -> list[str]:
    """What a process has open in /dev/shm; the folder itself is everybody's, and others use it meanwhile."""
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    return [link for link in links if link.startswith("/dev/shm/")]


def stream(lane: PoolLane, ring: Ring, frames: int, after: Callable[[int], None] = lambda _: None) -> list[Outcome]:
    """Send frames through a lane as the pipeline does: a slot is used again when its frame has come out."""
    free = list(range(len(ring)))
    outcomes: list[Outcome] = []
    sent = 0
    while len(outcomes) < frames:
        while free and sent < frames:
            slot = free.pop(0)
            ring[slot].planes[0][:] = sent % 200
            ring[slot].labels[:] = 254
            lane.submit(slot, sent)
            sent += 1
        outcome = lane.next(PATIENCE)
        labels = np.unique(ring[outcome.slot].labels).tolist()
        if outcome.refined:
            assert labels == [len(outcomes) % 200 + 1], f"frame {outcome.index} has labels {labels}"
        outcomes.append(outcome)
        free.append(outcome.slot)
        after(len(outcomes))
    return outcomes
