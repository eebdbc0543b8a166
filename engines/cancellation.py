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
    def is_set(self) -> bool:
        """The engine was told to."""
        return self._since is not None

    def check_answer(self, asked: float) -> None:
        """See that a GPU does not hang, which is waited for since ``asked`` (by the monotonic clock).

        Raises:
            EngineError: the engine was told to give up, and nothing has come for `GIVE_UP_S`.
        """
        if self._since is not None and time.monotonic() - max(asked, self._since) >= GIVE_UP_S:
            raise EngineError(f"the GPU has not answered for {GIVE_UP_S:g} s: the driver may say why (dmesg)")

    def check(self, what: str) -> None:
        """Go on only where nobody has said to give up.

        Raises:
            CancelledError: saying that ``what`` was called off.
        """
        if self.is_set:
            raise CancelledError(f"{what} was called off")
