"""Parts of the benchmark for GPUs that hang, die or are slow, for processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

PIDS = "PARTS_LIKE_PIDS"
"""Variable with the directory in which each process that hangs leaves its number."""

NEVER = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"

TIMING = {"median_ms": 1.0, "p95_ms": 1.0, "alone_per_second": 90.0, "per_second": 100.0, "batches": 10}


def hang() -> NoReturn:
    """Never come back, as a driver does: deaf to what can be ignored, and with a process in a session of its own."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for new_session in (False, True):
        child = subprocess.Popen([sys.executable, "-c", NEVER], start_new_session=new_session)
        Path(os.environ[PIDS], str(child.pid)).touch()
    Path(os.environ[PIDS], str(os.getpid())).touch()
    threading.Event().wait()
    raise AssertionError


def hangs(**_: Any) -> Iterator[dict[str, int]]:
    """Find something, then hang."""
    yield {"so far": 1}
    hang()


def hangs_at_once(**_: Any) -> Iterator[dict[str, int]]:
    """Find nothing."""
    hang()
    yield {}


def chatters(**_: Any) -> Iterator[dict[str, int]]:
    """Find ever more."""
    count = 0
    while True:
        count += 1
        yield {"so far": count}


def dies(**_: Any) -> Iterator[dict[str, int]]:
    """Find something, then be killed, while a process that it has started holds all its descriptors."""
    yield {"so far": 1}
    print("no way on", file=sys.stderr, flush=True)
    if os.fork():
        while len(list(Path(os.environ[PIDS]).iterdir())) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    hang()


def fails(**_: Any) -> Iterator[dict[str, int]]:
    """Find something, then fail."""
    yield {"so far": 1}
    raise LookupError("no\nway")


def exports(folder: str) -> Iterator[dict[str, Any]]:
    """Two networks that were exported, and a third that hangs."""
    for name, sizes in (("deeplabv2-resnet101-aspp", 2), ("deeplabv3-resnet101", 1)):
        yield {"name": name, "path": f"{folder}/x.onnx", "weights": 10, "flops": [1e9] * sizes}
    hang()


def rows(contender: str, cases: list[tuple[str, tuple[int, int], int]], **_: Any) -> Iterator[dict[str, Any]]:
    """A contender that hangs in batches, and one whose library is missing."""
    for _network, _size, batch in cases:
        if contender == "torch-eager":
            yield {"why": "it is not here"}
        elif batch == 1:
            yield {"timing": TIMING}
        else:
            hang()
