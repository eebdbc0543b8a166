"""How far a client lags behind what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

LATE_S = 1.0
"""A client that has not taken everything for so long loses what comes next."""

STUCK_S = 20.0
"""One that has taken nothing for so long is gone."""

_UNSENT_BYTES = 128 << 10


class Outflow:
    """Watches the bytes that wait to be sent to one client.

    The system would take megabytes for a client that has stopped reading, which would then see
    what happened long ago; where it can, it is told to keep little that is not on its way.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._clear = self._moved = time.monotonic()
        self._waiting = 0
        wire = transport.get_extra_info("socket")
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if wire is not None and option is not None:
            with contextlib.suppress(OSError):
                wire.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)

    @property
    def late(self) -> bool:
        """It should not be sent more now."""
        return self._look() > 0 and time.monotonic() - self._clear > LATE_S

    @property
    def clear(self) -> bool:
        """It has taken everything."""
        return self._look() == 0

    @property
    def stuck(self) -> bool:
        """It has stopped taking anything."""
        return self._look() > 0 and time.monotonic() - self._moved > STUCK_S

    def _look(self) -> int:
        """Bytes that wait."""
        waiting = self._transport.get_write_buffer_size()
        now = time.monotonic()
        if waiting == 0:
            self._clear = now
        if waiting < self._waiting or waiting == 0:
            self._moved = now
        self._waiting = waiting
        return waiting
