"""The one thread in which all servers of this process run, on an asyncio event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from pipeline.errors import PipelineError

T = TypeVar("T")

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
"""Nothing in the service thread may take long, since everything there waits for it."""

LEAVE_TIMEOUT_S = 5.0

_SLICES = 10
"""In which a time-out is waited for: a process that stands still (Ctrl-Z, a machine asleep) loses one, not all."""


class Service:
    """An event loop in a thread of its own, shared by all who `join` it and ended when the last one leaves.

    The other threads hand work over by `run` and `call`, and wait until it is done: so nothing
    piles up between them, and a service that is late makes its callers late, where it is counted.
    """

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _shared: ClassVar[Service | None] = None

    def __init__(self) -> None:
        self._users = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="service", daemon=True)

    @classmethod
    def join(cls) -> Service:
        """The process's service, started if nobody else uses it; to be given back by `leave`."""
        with cls._guard:
            service = cls._shared
            if service is None:
                service = cls._shared = cls()
                service._thread.start()
            service._users += 1
            return service

    def leave(self) -> None:
        """Give it back; the last one ends it, and everything that still runs in it."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            Service._shared = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LEAVE_TIMEOUT_S)

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work(*arguments)`` in the service thread, wait, and return what it gave.

        Raises:
            PipelineError: the service thread did not come to it in time.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def perform() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work(*arguments))
            except BaseException as error:  # it is the caller's, whatever it is
                done.set_exception(error)

        self._loop.call_soon_threadsafe(perform)
        return self._wait(done, CALL_TIMEOUT_S)

    def call(self, work: Coroutine[Any, Any, T], timeout: float = CALL_TIMEOUT_S) -> T:
        """Await ``work`` in the service thread and return what it gave.

        Raises:
            PipelineError: it took longer than ``timeout`` seconds; it is cancelled then.
        """
        return self._wait(asyncio.run_coroutine_threadsafe(work, self._loop), timeout)

    @staticmethod
    def _wait(done: concurrent.futures.Future[T], timeout: float) -> T:
        for _ in range(_SLICES):
            try:
                return done.result(timeout / _SLICES)
            except concurrent.futures.TimeoutError:
                if done.done():  # just now; or it is the work's own
                    return done.result()
        done.cancel()
        raise PipelineError(f"the service thread did not answer within {timeout:g} s")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_report)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()


def _report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A client's connection failed in a way that nobody foresaw; the others go on."""
    error = context.get("exception")
    log.warning("%s", context.get("message"), exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
    if error is not None:
        log.warning("in the service thread: %s: %s", type(error).__name__, error)
