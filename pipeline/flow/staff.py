"""The worker processes as the streaming process sees them: hired, heard, lost, replaced.

One thread listens to the host and to every worker and tells the employer (the pool) what it
hears, with the pool's lock held.  Jobs are the pool's business; processes and sockets are this
module's.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import selectors
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.flow import host
from pipeline.flow.lane import Task
from pipeline.flow.logs import LogReceiver
from pipeline.flow.wire import CannotSpawn, Died, Done, Failed, Kill, Ready, Setup, Spawn, Spawned, Wire

_log = logging.getLogger(__name__)

_SEND_S = 5.0
"""A process that takes no message for so long is stopped or worse; messages are small and few."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process.

    Attributes:
        serial: its number, never used twice.
        name: what it is called; its replacement inherits it.
        pid: its process id.
        wire: the way to it.
        ready: it can take jobs.
        task: the job that it has, or None.
        since: ``time.monotonic()`` when it got that.
        condemned: it was killed for taking too long.
    """

    serial: int
    name: str
    pid: int
    wire: Wire
    ready: bool = False
    task: Task | None = None
    since: float = 0.0
    condemned: bool = False


class Employer(Protocol):
    """Who is told; every call is made by the listening thread with the lock held."""

    def hired(self, worker: Worker) -> None:
        """A worker exists and can be sent messages."""

    def answered(self, worker: Worker, message: Ready | Done | Failed) -> None:
        """A worker has sent a message."""

    def lost(self, worker: Worker) -> bool:
        """A worker died; True if another shall take its place."""

    def broken(self, error: PipelineError) -> None:
        """Nothing will work any more."""

    def tick(self) -> None:
        """Some time has passed."""


class Staff:
    """All worker processes of a pool, their host and the thread that listens to them."""

    def __init__(self, employer: Employer, lock: threading.RLock, setup: Setup, threads: int, tick_s: float) -> None:
        """Start the host; workers come with `hire`, messages after `listen`."""
        self._employer = employer
        self._lock = lock
        self._setup = setup
        self._tick_s = tick_s
        self._closing = False
        self._serials = itertools.count(1)
        self._names: dict[int, str] = {}
        self.live: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._process, self._host = host.launch(setup.target.partition(":")[0], threads)
        self._host.settimeout(_SEND_S)
        self._selector.register(self._host, selectors.EVENT_READ, None)
        self._logs = LogReceiver()
        self._thread = threading.Thread(target=self._listen, name="pool", daemon=True)

    def listen(self) -> None:
        """Begin to tell the employer what happens."""
        self._thread.start()

    def hire(self, name: str) -> None:
        """Ask the host for a worker."""
        serial = next(self._serials)
        self._names[serial] = name
        self._tell_host(Spawn(serial, name))

    def send(self, worker: Worker, message: object, fds: Sequence[int] = ()) -> None:
        """Send a worker a message; one that cannot take it is killed, and lost like any other."""
        try:
            worker.wire.send(message, fds)
        except OSError:
            self.kill(worker)

    def kill(self, worker: Worker) -> None:
        """SIGKILL, by the host: only it knows that the process id still means this worker."""
        self._tell_host(Kill(worker.serial))

    @property
    def host_pid(self) -> int:
        """Process id of the host."""
        return self._process.pid

    def close(self, timeout: float) -> None:
        """End all processes and the thread, and give everything back; call without the lock."""
        deadline = time.monotonic() + timeout
        self._closing = True
        self._host.shutdown()  # the host sees the end of its socket, kills the workers and follows them
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()  # and the kernel kills the workers for it
            self._process.wait()
        if self._thread.is_alive():
            self._thread.join(max(1.0, deadline - time.monotonic()))
        with self._lock:
            for worker in self.live.values():
                worker.wire.close()
            self.live.clear()
            self._host.close()
            self._selector.close()
        self._logs.close()

    def _tell_host(self, message: Spawn | Kill) -> None:
        with contextlib.suppress(OSError):  # a host that is gone is noticed by the listening thread
            self._host.send(message)

    # ---- the listening thread

    def _listen(self) -> None:
        try:
            while self._listen_once():
                with self._lock:
                    self._employer.tick()
        except Exception as cause:
            error = cause if isinstance(cause, PipelineError) else PipelineError(f"the worker pool broke: {cause!r}")
            if error is not cause:
                error.__cause__ = cause
            with self._lock:
                self._employer.broken(error)

    def _listen_once(self) -> bool:
        for key, _ in self._selector.select(self._tick_s):
            if key.data is not None:
                self._hear_worker(key.data)
            elif not self._hear_host():
                return False
        return True

    def _hear_host(self) -> bool:
        try:
            messages = self._host.receive()
        except (EOFError, OSError):
            if not self._closing:
                with self._lock:
                    self._employer.broken(PipelineError("the host of the worker processes died; start again"))
            return False
        for raw, fds in messages:
            match pickle.loads(raw):
                case Spawned(serial, pid):
                    self._welcome(serial, pid, fds)
                case Died(serial, how):
                    _log.warning("worker %s was %s; another takes its place", self._names.pop(serial), how)
                case CannotSpawn(message):
                    with self._lock:
                        self._employer.broken(PipelineError(message))
        return True

    def _welcome(self, serial: int, pid: int, fds: Sequence[int]) -> None:
        jobs, logs = (Wire.adopt(fd) for fd in fds)
        jobs.settimeout(_SEND_S)
        self._logs.add(logs)
        worker = Worker(serial, self._names[serial], pid, jobs)
        self._selector.register(jobs, selectors.EVENT_READ, worker)
        with self._lock:
            self.live[serial] = worker
            self.send(worker, self._setup)
            self._employer.hired(worker)

    def _hear_worker(self, worker: Worker) -> None:
        try:
            messages = worker.wire.receive()
        except (EOFError, OSError):
            self._lose(worker)
            return
        with self._lock:
            for raw, _ in messages:
                self._employer.answered(worker, pickle.loads(raw))

    def _lose(self, worker: Worker) -> None:
        self._selector.unregister(worker.wire)
        worker.wire.close()
        with self._lock:
            del self.live[worker.serial]
            self.kill(worker)  # it may have closed its socket and live on
            if self._employer.lost(worker) and not self._closing:
                self.hire(worker.name)
