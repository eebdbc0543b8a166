"""An engine that is told to give up."""

from __future__ import annotations

import time

from engines.base import CancelledError


class Cancellation:
    """Whether an engine was told to give up; every method from any thread, and from a signal handler."""

    def __init__(self) -> None:
        self._since: float | None = None  # no lock: whom a signal interrupts may hold it

    def set(self) -> None:
        """Give up from now on."""
        if self._since is None:
            self._since = time.monotonic()

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
