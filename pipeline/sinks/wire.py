"""A muxer's target that goes on at once and cannot be gone back in."""

from __future__ import annotations

from collections.abc import Callable


class Wire:
    """Hands on what a muxer writes; see `pipeline.sinks.target.Target`.

    Args:
        name: of the output, for messages.
        send: gets each piece; never raises, since libav, which calls, would lose the error: see `check`.

    Attributes:
        written: bytes so far.
    """

    def __init__(self, name: str, send: Callable[[bytes], object]) -> None:
        self._name = name
        self._send = send
        self.written = 0

    @property
    def name(self) -> str:
        """Of the output, for messages."""
        return self._name

    def seekable(self) -> bool:
        """False: what is sent is sent."""
        return False

    def write(self, data: bytes) -> int:
        """Hand on a piece; returns its length in bytes."""
        self._send(bytes(data))
        self.written += len(data)
        return len(data)

    def check(self) -> None:
        """Raise what has gone wrong since."""

    def finish(self) -> None:
        """The muxer has written all."""
        self.check()

    def publish(self) -> None:
        """Nothing to do: it has no final name."""

    def discard(self) -> None:
        """Nothing to do: what is sent is sent."""
