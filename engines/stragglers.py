"""What was left behind: threads where nothing calls them off, and things that cannot be freed."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import sys
import threading
import time
from typing import NoReturn

_left_behind: set[threading.Thread] = set()
_lock = threading.RLock()
_forsaken: list[object] = []

_TIMEOUT_S = 60.0
"""For all of them: longer than any deadline of what a thread may be waiting for."""


def leave_behind(thread: threading.Thread) -> None:
    """Wait no more for a thread; it must be a daemon, and end by itself as soon as it comes back."""
    with _lock:
        stragglers()  # of those that have ended none is kept
        _left_behind.add(thread)


def stragglers() -> tuple[threading.Thread, ...]:
    """Threads that were left behind and have not ended yet.

    An interpreter that ends under such a thread crashes once it comes back, so at the end of the program they are
    waited for; a program that must not wait leaves by `leave`.
    """
    with _lock:
        _left_behind.intersection_update([thread for thread in _left_behind if thread.is_alive()])
        return tuple(_left_behind)


def forsake(thing: object) -> None:
    """Keep a thing for ever, since whatever frees it would block."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # the interpreter's end clears the list
    _forsaken.append(thing)


def leave(status: int) -> NoReturn:
    """End the program; at once where anything was left behind."""
    if stragglers() or _forsaken:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
                stream.flush()
        os._exit(status)
    sys.exit(status)


@atexit.register
def _wait() -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    for thread in stragglers():
        thread.join(max(0.0, deadline - time.monotonic()))
