"""Memory of this process and of those that it has started, as Linux tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def memory() -> tuple[int, int] | None:
    """Bytes held by this process, and by those that it has started; None where the system does not tell.

    What several of them share counts for each in part (proportional set size), so sums are true.
    """
    try:
        return _held(Path("/proc/self")), sum(map(_held_or_gone, started_by(os.getpid())))
    except OSError:
        return None


def started_by(process: int) -> Iterator[Path]:
    """The processes that one has started, and those that they have: their directories in /proc."""
    with suppress(OSError):  # a thread or process that has ended meanwhile
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield Path("/proc", child)
                yield from started_by(int(child))


def _held_or_gone(process: Path) -> int:
    try:
        return _held(process)
    except OSError:
        return 0


def _held(process: Path) -> int:
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
