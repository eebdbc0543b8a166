"""Keeping libraries from changing how the system schedules our threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Undo what is done inside to the scheduling of this process' threads, new ones included.

    SVT-AV1 gives its threads, and the one that opens it, the highest real-time priority where it
    may (that is, as root): a machine that encodes AV1 would do nothing else, and every process
    started from that thread inherits it.
    """
    if not hasattr(os, "sched_getscheduler") or not _TASKS.is_dir():
        yield
        return
    before = _scheduling()
    ours = before[threading.get_native_id()]
    try:
        yield
    finally:
        for task, found in _scheduling().items():
            wanted = before.get(task, ours)
            if found != wanted:
                with suppress(OSError):  # it has ended meanwhile
                    os.sched_setscheduler(task, wanted[0], os.sched_param(wanted[1]))


def _scheduling() -> dict[int, tuple[int, int]]:
    """Policy and priority of each thread of this process."""
    found = {}
    for entry in _TASKS.iterdir():
        task = int(entry.name)
        with suppress(OSError):
            found[task] = os.sched_getscheduler(task), os.sched_getparam(task).sched_priority
    return found
