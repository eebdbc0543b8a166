"""What systemd is told of a run: that it is ready, and that it is alive (sd_notify, by a datagram each)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from pipeline.runner import Runner


class Service:
    """Tells ``$NOTIFY_SOCKET``, where there is one; harmless elsewhere.

    ``READY=1`` says that all is open.  ``WATCHDOG=1`` comes twice in ``$WATCHDOG_USEC`` as long as frames move: not
    where pictures came in since the last time and none came out.  An input that is away is no reason for a restart.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._every_s = int(os.environ.get("WATCHDOG_USEC") or 0) / 2e6
        self._next = 0.0
        self._ready = False
        self._seen = (0, 0)

    def tick(self) -> None:
        """Say what is due; to be called often while the run goes on."""
        if not self._address:
            return
        if not self._ready:
            self._ready = True
            self._tell(b"READY=1")
        if self._every_s and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            (read, done), self._seen = self._seen, self._frames()
            if self._seen[0] == read or self._seen[1] != done:
                self._tell(b"WATCHDOG=1")

    def _frames(self) -> tuple[int, int]:
        return sum(lane.read_frames for lane in self._runner.lanes), self._runner.frames

    def _tell(self, what: bytes) -> None:
        path = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(what, path)
