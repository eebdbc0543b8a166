"""What the workers do in the tests; imported by them, so without pytest."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.slots import Slot

log = logging.getLogger("worker.jobs")


@dataclass(frozen=True)
class Jobs:
    """Names one of the job functions below; `folder` is a place to leave marks in."""

    kind: str
    folder: str = ""
    target: str = "tests.pipeline.pool_jobs:open_job"

    @property
    def path(self) -> Path:
        return Path(self.folder)


def open_job(spec: Jobs) -> Callable[[Slot, int, float | None], object]:
    if spec.kind == "bad-setup":
        raise ValueError("no such parameters")
    if spec.kind == "stillborn":
        os.kill(os.getpid(), signal.SIGKILL)
    job: Callable[[Jobs, Slot, int], object] = globals()["do_" + spec.kind.replace("-", "_")]
    return lambda slot, index, _: job(spec, slot, index)


def do_copy(spec: Jobs, slot: Slot, index: int) -> object:
    """Labels are the luma plus one."""
    slot.labels[:] = slot.planes[0] + 1
    return index * 10


def do_slow_copy(spec: Jobs, slot: Slot, index: int) -> object:
    slot.labels[:] = 255  # half done, should the worker die here
    time.sleep(0.004)
    return do_copy(spec, slot, index)


def do_which(spec: Jobs, slot: Slot, index: int) -> object:
    return os.getpid(), threading.active_count(), os.environ["OMP_NUM_THREADS"], "numpy" in sys.modules


def do_hang(spec: Jobs, slot: Slot, index: int) -> object:
    (spec.path / f"busy-{os.getpid()}").touch()
    time.sleep(600)
    return None


def do_raise(spec: Jobs, slot: Slot, index: int) -> object:
    if index % 5 == 3:
        raise ValueError(f"cannot do {index}")
    return do_copy(spec, slot, index)


def do_exit(spec: Jobs, slot: Slot, index: int) -> object:
    if index == 1:
        sys.exit(3)
    return do_copy(spec, slot, index)


def do_unpicklable(spec: Jobs, slot: Slot, index: int) -> object:
    return lambda: index


def do_die(spec: Jobs, slot: Slot, index: int) -> object:
    """Frame 2 always kills, frame 4 only the first who tries."""
    mark = spec.path / "tried"
    if index == 2 or (index == 4 and not mark.exists()):
        mark.touch() if index == 4 else None
        os.kill(os.getpid(), signal.SIGKILL)
    return do_copy(spec, slot, index)


def do_die_in_log(spec: Jobs, slot: Slot, index: int) -> object:
    """Frame 3 dies with half of a log record written, and the handler's lock held."""
    mark = spec.path / "tried"
    log.info("frame %d in %s", index, slot.labels.shape)
    if index == 3 and not mark.exists():
        mark.touch()
        handler = logging.root.handlers[0]
        handler.acquire()
        handler.queue._wire._socket.sendall(struct.pack("<IB", 1000, 0) + b"half a record")  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)
    return do_copy(spec, slot, index)


def do_chatter(spec: Jobs, slot: Slot, index: int) -> object:
    for n in range(5):
        log.info("frame %d, word %d, %s", index, n, "x" * 20_000)
    return do_copy(spec, slot, index)


class Odd:
    """Cannot travel, but can be logged."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return "an odd thing"


def do_log(spec: Jobs, slot: Slot, index: int) -> object:
    log.debug("not wanted")
    logging.getLogger("worker.quiet").info("not wanted either")
    log.warning("seen %s", Odd())
    log.error(Odd())
    try:
        raise KeyError("inner")
    except KeyError:
        log.exception("with a trace")
    print("on stdout")  # must not end up in a video that is piped out
    return None


def do_crowd(spec: Jobs, slot: Slot, index: int) -> object:
    """How many do this at the same time: in a file, since the workers share nothing else."""
    with (spec.path / "crowd").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{index}\n")
    return do_copy(spec, slot, index)
