"""An engine that is told to give up."""

from __future__ import annotations

import time

from engines.base import CancelledError, EngineError

LONGEST_S = 60.0
"""A GPU that gives no answer for so long hangs."""

GIVE_UP_S = 3.0
"""The same for whoever was told to give up."""


class Cancellation:
    """Whether an engine was told to give up; every method from any thread, and from a signal handler."""

    def __init__(self) -> None:
        self._since: float | None = None  # no lock: whom a signal interrupts may hold it

    def set(self) -> None:
        """Give up from now on."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def since(self) -> float | None:
        """When the engine was told to, by the monotonic clock."""
        return self._since

    @property
    def is_set(self) -> bool:
        """The engine was told to."""
        return self._since is not None

    def check(self, what: str) -> None:
        """Go on only where nobody has said to give up.

        Raises:
            CancelledError: saying that ``what`` was called off.
        """
        if self.is_set:
            raise CancelledError(f"{what} was called off")


class Patience:
    """How long a GPU is waited for before it is taken to hang.

    That is `LONGEST_S`, but once the engine was told to give up no more than `GIVE_UP_S`, or twice the longest request
    so far where that is more.

    Args:
        cancellation: the engine's.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._longest = 0.0

    def took(self, seconds: float) -> None:
        """A request is done, so long after it was given to the GPU, or was waited for only then."""
        self._longest = max(self._longest, min(seconds, LONGEST_S / 2))

    def is_over(self, asked: float) -> bool:
        """Whether the GPU hangs, which is waited for since ``asked`` (by the monotonic clock)."""
        now, since = time.monotonic(), self._cancellation.since
        if since is not None and now - max(asked, since) >= max(GIVE_UP_S, 2 * self._longest):
            return True
        return now - asked >= LONGEST_S


def unanswered(asked: float) -> EngineError:
    """What is told of a GPU that hangs, which was waited for since ``asked`` (by the monotonic clock)."""
    return EngineError(f"the GPU has not answered for {time.monotonic() - asked:.1f} s: the driver may say why (dmesg)")
