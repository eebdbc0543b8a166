"""The ordered pool of worker processes.

    lane.submit ──> idle worker ──> lane.next        one job a worker, one socket a worker
                       │ dies
                       └──> the host forks another, the job goes to the front of its lane

A worker holds at most one job, so what was lost with it is known, and doing it again is
harmless: a job only reads the picture and the scores and writes all of the labels.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.flow import logs
from pipeline.flow.buffer import Closed, Gauge
from pipeline.flow.lane import Outcome, PoolLane, Task, as_error
from pipeline.flow.staff import Staff, Worker
from pipeline.flow.wire import Detach, Done, Failed, Job, Ready, Setup
from pipeline.slots import Ring

_log = logging.getLogger(__name__)

_FATAL_DEATHS = 2
"""A frame that so many workers died on passes unrefined."""

_STILLBORN = 3
"""So many deaths in a row for each worker, none of them ever ready, mean that none will ever be."""


class WorkerSpec(Protocol):
    """What the workers shall do; picklable."""

    @property
    def target(self) -> str:
        """``"module:callable"``: called in the worker with this specification, it gives the job function."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What the pool did so far.

    Attributes:
        workers: how many work at once.
        done: jobs done by workers, the failed ones included.
        unrefined: jobs given up because workers died on them.
        deaths: workers that died and were replaced.
        busy_s: seconds that workers spent on jobs, summed.
        mean_depth, max_depth: jobs waiting for a worker or in one.
        waited_s: seconds in which at least one job waited for a worker.
    """

    workers: int
    done: int
    unrefined: int
    deaths: int
    busy_s: float
    mean_depth: float
    max_depth: int
    waited_s: float


class WorkerPool:
    """``workers`` processes that do jobs on slots; see `lane`.

    Starting runs beside whatever the caller does next; `wait_ready` waits for it.  It is safe
    in a program that has threads already: see `pipeline.flow.host`.
    """

    def __init__(
        self, workers: int, spec: WorkerSpec, *, stage: str = "refine", threads: int = 1, patience: float = 60.0
    ) -> None:
        """Start them.

        Args:
            workers: how many processes.
            spec: what they do.
            stage: name for messages, errors and processes.
            threads: numerical threads for each.
            patience: seconds after which a job counts as hung and its worker is killed.
        """
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, not {workers}")
        self.workers = workers
        self.lock = threading.RLock()
        self.failed = False
        self._stage = stage
        self._patience = patience
        self._failure: PipelineError | None = None
        self._ended = False
        self._changed = threading.Condition(self.lock)
        self._lanes: list[PoolLane] = []
        self._numbers = itertools.count(1)
        self._turn = 0
        self._done = self._unrefined = self._deaths = self._stillborn = 0
        self._busy_s = 0.0
        self._depth, self._waiting = Gauge(time.monotonic), Gauge(time.monotonic)
        setup = Setup(spec.target, pickle.dumps(spec), logs.levels())
        self._staff = Staff(self, self.lock, setup, threads, tick_s=min(1.0, patience / 4))
        for number in range(1, workers + 1):
            self._staff.hire(f"{stage}-{number}")
        self._staff.listen()

    # ---- for the caller

    def lane(self, ring: Ring) -> PoolLane:
        """A way through the pool for the slots of one ring, in order; lanes are served in turn.

        Raises:
            Closed: the pool has ended.
            PipelineError: the pool failed, and nobody has been told yet.
        """
        with self.lock:
            self.raise_failure()
            if self._ended:
                raise Closed
            lane = PoolLane(next(self._numbers), ring, self)
            self._lanes.append(lane)
            for worker in self._staff.live.values():
                lane.introduce(partial(self._staff.send, worker))
            return lane

    def wait_ready(self, timeout: float) -> None:
        """Wait until every worker has been set up.

        Raises:
            ConfigError, StageError: setting up failed in a worker (raised once, here or in a lane).
            TimeoutError: not all are ready within ``timeout`` seconds.
        """
        with self.lock:
            if not self._changed.wait_for(self._has_news, timeout):
                raise TimeoutError(f"the {self._stage} workers were not ready within {timeout:g} s")
            self.raise_failure()
            if self._ended:
                raise Closed

    def stats(self) -> PoolStats:
        """What the pool did so far."""
        with self.lock:
            counts = (self._done, self._unrefined, self._deaths, self._busy_s)
            return PoolStats(self.workers, *counts, self._depth.mean, self._depth.max, self._waiting.above_zero_s)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids: the host's first, then those of the workers that live."""
        with self.lock:
            return (self._staff.host_pid, *(worker.pid for worker in self._staff.live.values()))

    def abort(self) -> None:
        """Abort every lane, so that nobody waits; `close` is still to be called."""
        with self.lock:
            self._ended = True
            for lane in tuple(self._lanes):
                lane.abandon()
            self._changed.notify_all()

    def close(self, timeout: float = 5.0) -> None:
        """End the processes, busy or not, and give everything back; harmless when repeated."""
        self.abort()
        self._staff.close(timeout)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_news(self) -> bool:
        ready = sum(worker.ready for worker in self._staff.live.values())
        return self.failed or self._ended or ready == self.workers

    # ---- for the lanes, with the lock held

    def dispatch(self) -> None:
        """Give waiting jobs to idle workers, one from each lane in turn."""
        idle = [worker for worker in self._staff.live.values() if worker.ready and worker.task is None]
        for worker in idle:
            task = self._next_task()
            if task is None:
                break
            worker.task = task
            worker.since = time.monotonic()
            self._staff.send(worker, Job(task.lane.number, task.slot, task.index, task.deadline))
        self._measure()

    def forget(self, lane: PoolLane) -> None:
        """The lane is over: the workers let go of its ring."""
        self._lanes.remove(lane)
        for worker in self._staff.live.values():
            self._staff.send(worker, Detach(lane.number))
        self._measure()

    def raise_failure(self) -> None:
        """Raise the failure to the first who asks, `Closed` to everybody else; nothing if all is well."""
        if not self.failed:
            return
        failure, self._failure = self._failure, None
        raise failure or Closed

    def _next_task(self) -> Task | None:
        for step in range(len(self._lanes)):
            lane = self._lanes[(self._turn + step) % len(self._lanes)]
            if lane.pending:
                self._turn = (self._turn + step + 1) % len(self._lanes)
                return lane.pending.popleft()
        return None

    def _measure(self) -> None:
        working = sum(worker.task is not None for worker in self._staff.live.values())
        waiting = sum(len(lane.pending) for lane in self._lanes)
        self._depth.set(working + waiting)
        self._waiting.set(waiting)

    # ---- for the staff, with the lock held

    def hired(self, worker: Worker) -> None:
        """A new worker learns of all rings."""
        for lane in self._lanes:
            lane.introduce(partial(self._staff.send, worker))

    def answered(self, worker: Worker, message: Ready | Done | Failed) -> None:
        """A worker is ready, has done its job, or failed."""
        match message:
            case Ready():
                worker.ready = True
                self._stillborn = 0
                self._changed.notify_all()
            case Failed(job=False):
                self.broken(as_error(message, self._stage, None, worker.name))
            case _:
                self._finish(worker, message)
        self.dispatch()

    def lost(self, worker: Worker) -> bool:
        """A worker died; its job goes to another, or passes unrefined."""
        self._deaths += 1
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN * self.workers:
                self.broken(PipelineError(f"the {self._stage} workers die before they can work (see the log)"))
        task = worker.task
        if task is not None and not task.lane.over:
            self._redo(task, time.monotonic() - worker.since)
        self.dispatch()
        return not (self.failed or self._ended)

    def broken(self, error: PipelineError) -> None:
        """Nothing works any more: the first who asks gets the error, everybody wakes."""
        if self.failed or self._ended:
            return
        self.failed = True
        self._failure = error
        for lane in self._lanes:
            lane.wake()
        self._changed.notify_all()

    def tick(self) -> None:
        """Workers that hang are killed."""
        oldest = time.monotonic() - self._patience
        for worker in self._staff.live.values():
            if worker.task is not None and worker.since < oldest and not worker.condemned:
                worker.condemned = True
                _log.warning(
                    "worker %s hangs on frame %d since %g s and is killed",
                    worker.name,
                    worker.task.index,
                    self._patience,
                )
                self._staff.kill(worker)

    def _finish(self, worker: Worker, message: Done | Failed) -> None:
        task, worker.task = worker.task, None
        if task is None:
            return
        self._done += 1
        if isinstance(message, Done):
            self._busy_s += message.busy_s
            task.outcome = Outcome(task.slot, task.index, True, None, message.busy_s, message.value)
        else:
            task.failure = as_error(message, self._stage, task.index, worker.name)
        task.lane.wake()

    def _redo(self, task: Task, busy_s: float) -> None:
        task.deaths += 1
        if task.deaths < _FATAL_DEATHS:
            task.lane.pending.appendleft(task)
            return
        self._unrefined += 1
        error = f"{task.deaths} {self._stage} workers died on frame {task.index}; it passes without"
        task.outcome = Outcome(task.slot, task.index, False, error, busy_s)
        task.lane.wake()
