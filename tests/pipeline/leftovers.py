"""What a run may have left behind: threads, processes, descriptors, files in shared memory."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    threads: frozenset[str]
    children: frozenset[int]
    descriptors: frozenset[str]
    shared: frozenset[str]
    temporary: frozenset[str]


def held() -> Held:
    """What this process holds now."""
    gc.collect()
    shared = Path("/dev/shm")
    return Held(
        frozenset(f"{thread.name} {thread.ident}" for thread in threading.enumerate()),
        frozenset(_children()),
        frozenset(_descriptors()),
        frozenset(path.name for path in shared.iterdir()) if shared.is_dir() else frozenset(),
        frozenset(path.name for path in Path(tempfile.gettempdir()).iterdir() if "deeplab" in path.name),
    )


def _children() -> Iterator[int]:
    multiprocessing.active_children()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield from map(int, (task / "children").read_text().split())


def _descriptors() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(link.readlink())
            if "/proc/" not in target:
                yield f"{link.name} {target}"


def _mapped_by_others() -> frozenset[str]:
    """Names in shared memory that another process has mapped: semaphores keep theirs as long as they live."""
    inodes: set[int] = set()  # a semaphore is mapped before it gets its name
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if maps.parent.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                found = re.findall(r" (\d+) +/dev/shm/", maps.read_text(encoding="utf-8", errors="replace"))
                inodes.update(map(int, found))
    names: set[str] = set()
    for path in Path("/dev/shm").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino in inodes:
                names.add(path.name)
    return frozenset(names)


@contextlib.contextmanager
def nothing_left(wait: float = 5.0) -> Iterator[None]:
    """See that the block gives back all threads, processes, descriptors and files in shared memory."""
    before = held()
    yield
    deadline = time.monotonic() + wait
    first = held()
    while True:
        after = held()
        left = {
            what: now - getattr(before, what)
            for what in ("threads", "children", "descriptors", "shared", "temporary")
            if (now := getattr(after, what)) - getattr(before, what)
        }
        for what in ("shared", "temporary"):  # these places are everybody's: others' files come and go
            if what in left and not (left[what] & getattr(first, what)) - _mapped_by_others():
                del left[what]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not left, left
