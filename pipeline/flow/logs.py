"""Log records of the workers, on their way into this process's handlers.

The way is `multiprocessing-logging`'s: its handler makes records fit to travel in the worker,
and its receiving thread hands them on here.  Only its queue is another one.  A
``multiprocessing.Queue`` has one lock for all its writers, and a worker that is killed while
it holds that lock makes everybody else wait for ever, the exit of this process included.  So
each worker writes into a socket of its own; whoever dies in the middle of a record takes
nothing but that record along.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import queue
import selectors
import socket
import threading
from collections import deque

from multiprocessing_logging import MultiProcessingHandler

from pipeline.flow.wire import Wire

_DRAIN_S = 5.0
"""A handler of ours that blocks for longer may keep what the workers still had to say."""


def levels() -> dict[str, int]:
    """Level of every logger that has one of its own, the root's under ``""``."""
    own = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }
    return {"": logging.root.level, **own}


def install_in_worker(wire: Wire, level_of: dict[str, int]) -> None:
    """Send all that is logged in this process down the wire, and nowhere else."""
    for name, level in level_of.items():
        logging.getLogger(name or None).setLevel(level)
    logging.root.handlers[:] = [WorkerHandler(wire)]


class _Outbox:
    """What the package's handler takes for its queue, in a worker."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def put_nowait(self, record: logging.LogRecord) -> None:
        # Waits while the pipe is full: a worker may not be faster than whoever reads its words.
        with contextlib.suppress(ConnectionError):  # the parent is gone, and soon this process too
            self._wire.send(record)


class WorkerHandler(MultiProcessingHandler):  # type: ignore[misc]
    """The package's handler as a worker uses it: no thread, no queue, its own wire."""

    def __init__(self, wire: Wire) -> None:
        logging.Handler.__init__(self)  # not the package's: it would make the queue with the lock
        self.queue = _Outbox(wire)

    def _format_record(self, record: logging.LogRecord) -> logging.LogRecord:
        super()._format_record(record)
        record.msg = str(record.msg)  # any object may be logged, but not any can travel
        return record

    def close(self) -> None:
        """Nothing to wait for: records are written as they are made."""
        logging.Handler.close(self)


class _Inbox:
    """What the package's receiving thread takes for its queue, in the parent: all workers' wires."""

    def __init__(self) -> None:
        self._coming: deque[Wire] = deque()
        self._selector = selectors.DefaultSelector()
        self._records: deque[logging.LogRecord] = deque()
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)

    def add(self, wire: Wire) -> None:
        self._coming.append(wire)  # for the receiving thread to register
        self.wake()

    def wake(self) -> None:
        """Let the receiving thread look around now instead of at its next turn."""
        self._waker.send(b"!")

    def get(self, timeout: float) -> logging.LogRecord:
        self._collect(timeout)
        if not self._records:
            raise queue.Empty
        return self._records.popleft()

    def qsize(self) -> int:
        self._collect(0)
        return len(self._records)

    def close(self) -> None:
        while self._coming:
            self._coming.popleft().close()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.close()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def join_thread(self) -> None:
        """There is none."""

    def _collect(self, timeout: float) -> None:
        while self._coming:
            wire = self._coming.popleft()
            self._selector.register(wire, selectors.EVENT_READ, wire)
        if self._records:
            return
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._woken.recv(4096)
            else:
                self._read(key.data)

    def _read(self, wire: Wire) -> None:
        try:
            self._records.extend(_readable(raw) for raw, _ in wire.receive())
        except (EOFError, OSError):
            self._selector.unregister(wire)
            wire.close()


def _readable(raw: bytes) -> logging.LogRecord:
    try:
        record = pickle.loads(raw)
        if isinstance(record, logging.LogRecord):
            return record
        problem = f"a {type(record).__name__}"
    except Exception as error:  # whatever a class of the user's does when it is unpickled
        problem = repr(error)
    message = f"a worker's log record cannot be read: {problem}"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)


class _Relay(logging.Handler):
    """Hands a record to the logger of its name, as if it had been made here."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        except Exception:  # a broken handler must not end the thread that serves all workers
            self.handleError(record)


class LogReceiver(MultiProcessingHandler):  # type: ignore[misc]
    """The package's receiving end, fed by one wire from each worker; belongs to no logger."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # not the package's: it would make the queue with the lock
        self.sub_handler = _Relay()
        self.queue = _Inbox()
        self._is_closed = False
        self._receive_thread = threading.Thread(target=self._receive, name="worker-logs", daemon=True)
        self._receive_thread.start()

    def add(self, wire: Wire) -> None:
        """Listen to one more worker; the wire belongs to the receiver now."""
        self.queue.add(wire)

    def close(self) -> None:
        """Hand on what has come, then end; harmless when repeated."""
        if not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(OSError):  # the thread may have seen that already, and closed its end
                self.queue.wake()
            self._receive_thread.join(_DRAIN_S)
            self.sub_handler.close()
            logging.Handler.close(self)
