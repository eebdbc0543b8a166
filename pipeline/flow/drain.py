"""A thread that empties what may block without end, for somebody who must be able to leave at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from engines.stragglers import leave_behind
from pipeline.flow.buffer import Buffer, Closed

T = TypeVar("T")

PATIENCE_S = 0.5
"""How long items wait for a reader who has not begun; then the oldest make room."""


class Drain(Generic[T]):
    """Runs ``fill`` in a thread and hands on what it `put`s, in order.

    Whoever takes items can `leave` at any moment, whatever the thread is waiting for; the thread ends
    by itself as soon as that returns.  What ``fill`` raises is raised by `get` after the last item.

    Args:
        name: of the thread.
        fill: the work; called with this drain, ended by `Closed` when nobody takes any more.
        capacity: items that may wait.  A full buffer makes ``fill`` wait, but not before anybody reads:
            until then the oldest items are thrown away, since what is emptied would grow old instead.
    """

    def __init__(self, name: str, fill: Callable[[Drain[T]], None], capacity: int) -> None:
        self._items: Buffer[T] = Buffer(capacity)
        self._fill = fill
        self._error: BaseException | None = None
        self._wanted = self._overdue = False
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def left(self) -> bool:
        """Nobody takes any more."""
        return self._leaving.is_set()

    def put(self, item: T) -> None:
        """Hand an item on; for the thread.

        Raises:
            Closed: nobody takes any more.
        """
        while True:
            try:
                return self._items.put(item, None if self._wanted else 0 if self._overdue else PATIENCE_S)
            except TimeoutError:
                if not self._wanted:
                    self._overdue = True
                    with suppress(TimeoutError):
                        self._items.get(0)

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than somebody takes; for the thread.

        Raises:
            Closed: nobody takes any more.
        """
        if self._leaving.wait(seconds):
            raise Closed

    def get(self) -> T:
        """The next item, waited for without end.

        Raises:
            Closed: there are no more, or `leave` was called.
            BaseException: what ``fill`` raised, once.
        """
        self._wanted = True
        try:
            return self._items.get()
        except Closed:
            error, self._error = self._error, None
            if error is not None and not self.left:
                raise error from None
            raise

    def leave(self) -> None:
        """Take no more; for any thread, harmless when repeated."""
        self._leaving.set()
        leave_behind(self._thread)
        self._items.abort()

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended, after at most ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._fill(self)
        except Closed:
            pass
        except BaseException as error:  # it must reach the reader whatever it is
            self._error = error
        finally:
            self._items.close()
