"""A program of our own that runs beside us and is fed through a pipe."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_SAID_BYTES = 4096
_PIPE_BYTES = 1 << 20


class Helper:
    """A Python file in a process of its own, for libraries that cannot be interrupted otherwise.

    It is started by exec, reads what it is given from its standard input, and ends when that does.  A line on its
    standard output says that it is ready; what it prints to standard error is why it has ended.

    Args:
        program: the file.

    Raises:
        OSError: the system has no process to give.
    """

    def __init__(self, program: Path) -> None:
        # In a group of its own, so that Ctrl+C is our business alone; -P: nothing beside the file is imported.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._ready = False
        for each in (self._pipe, self._output):
            os.set_blocking(each, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # beyond what the system allows to a user
                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def write(self, data: bytes, timeout: float) -> bool:
        """Feed it; False if it has ended, or did not take all of it in time."""
        rest = memoryview(data)
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._pipe, select.POLLOUT)
        while rest:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return False
            try:
                rest = rest[os.write(self._pipe, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    @property
    def ready(self) -> bool:
        """It has said so."""
        if not self._ready:
            with suppress(BlockingIOError, OSError):
                self._ready = bool(os.read(self._output, 64))
        return self._ready

    @property
    def ended(self) -> bool:
        """It runs no more."""
        return self._process.poll() is not None

    def close(self, timeout: float) -> str:
        """End its input, give it ``timeout`` seconds to finish, and end it; what it said last, or ""."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.set_blocking(process.stderr.fileno(), False)
        said = (process.stderr.read(_SAID_BYTES) or b"").decode(errors="replace").strip()
        process.stdout.close()
        process.stderr.close()
        if process.returncode in (-signal.SIGALRM, -signal.SIGKILL):
            return "no answer in time"
        return said.splitlines()[-1] if said else ""
