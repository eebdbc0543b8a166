"""An engine that is told to give up."""

from __future__ import annotations

import time

from engines.base import CancelledError, EngineError

GIVE_UP_S = 3.0
"""How long a GPU may take for what is waited for by somebody who ends; then it hangs."""


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
    """How long whoever waits for requests to a GPU does so once the engine was told to give up.

    That is `GIVE_UP_S`, or twice the longest request so far where that is more.

    Args:
        cancellation: the engine's.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._began = 0.0
        self._longest = 0.0

    def begin(self) -> None:
        """A request begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """It is done."""
        self._longest = max(self._longest, time.monotonic() - self._began)

    def check(self, asked: float) -> None:
        """See that a GPU does not hang, which is waited for since ``asked`` (by the monotonic clock).

        Raises:
            EngineError: it does.
        """
        limit, since = max(GIVE_UP_S, 2 * self._longest), self._cancellation.since
        if since is not None and time.monotonic() - max(asked, since) >= limit:
            raise EngineError(f"the GPU has not answered for {limit:.1f} s: the driver may say why (dmesg)")
