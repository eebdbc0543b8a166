"""One input's way through the worker pool: jobs go in in order, and outcomes come out in that order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import ConfigError, PipelineError, StageError
from pipeline.flow.buffer import Closed
from pipeline.flow.wire import Attach, Failed
from pipeline.slots import Ring


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job.

    Attributes:
        slot: number of the slot.
        index: index of the frame in it.
        refined: the worker has written the slot's labels; False after two workers died on it, and
            the labels then hold anything.
        error: why it is not refined, in one line, or None.
        busy_s: seconds that the worker spent on it.
        value: what the job function returned.
    """

    slot: int
    index: int
    refined: bool
    error: str | None
    busy_s: float
    value: object = None


@dataclass(slots=True, eq=False)
class Task:
    """A job on its way; guarded by the pool's lock."""

    lane: PoolLane
    slot: int
    index: int
    deadline: float | None = None
    deaths: int = 0
    outcome: Outcome | None = None
    failure: PipelineError | None = None

    @property
    def settled(self) -> bool:
        """Nothing more will happen to it."""
        return self.outcome is not None or self.failure is not None


class PoolLane:
    """Made by `WorkerPool.lane`; one thread may submit and another wait for outcomes."""

    def __init__(self, number: int, ring: Ring, pool: Owner) -> None:
        self.number = number
        # A copy, so that workers which are replaced later can map the ring as long as the lane is open.
        self._fd = os.dup(ring.fd)
        self._attach = Attach(number, ring.layout, len(ring))
        self._pool = pool
        self._news = threading.Condition(pool.lock)
        self._order: deque[Task] = deque()
        self._closed = False
        self._submitted = 0
        self.pending: deque[Task] = deque()

    def submit(self, slot: int, index: int | None = None, deadline: float | None = None) -> None:
        """Queue a slot for the workers; never waits, since there are only so many slots.

        Args:
            slot: number of the slot.
            index: index of its frame, for outcomes and errors; counted from 0 over the lane's jobs
                where it is not given.
            deadline: ``time.monotonic()`` when it should be done, for a job function that can do with
                less time; nothing happens to one that is late.

        Raises:
            Closed: the lane or the pool has ended.
            PipelineError: the pool failed, and nobody has been told yet.
        """
        with self._pool.lock:
            self._pool.raise_failure()
            if self._closed:
                raise Closed
            if not 0 <= slot < self._attach.count:
                raise ValueError(f"slot {slot} is not in a ring of {self._attach.count}")
            task = Task(self, slot, self._submitted if index is None else index, deadline)
            self._submitted += 1
            self._order.append(task)
            self.pending.append(task)
            self._pool.dispatch()

    def next(self, timeout: float | None = None) -> Outcome:
        """Wait for the oldest job that was not returned yet.

        Raises:
            StageError: the worker raised on this frame; the lane can be used on.
            PipelineError: the pool failed; raised once, to whoever asks first.
            Closed: the lane was closed and everything returned, or it was aborted.
            TimeoutError: it was not done within ``timeout`` seconds.
        """
        with self._pool.lock:
            if not self._news.wait_for(self._has_news, timeout):
                raise TimeoutError(f"no outcome within {timeout} s")
            self._pool.raise_failure()
            if not self._order:
                raise Closed
            task = self._order.popleft()
            self._detach_if_over()
        if task.failure is not None:
            raise task.failure
        assert task.outcome is not None
        return task.outcome

    def close(self) -> None:
        """No more jobs; `next` still returns those that were submitted, then raises `Closed`."""
        with self._pool.lock:
            self._closed = True
            self._detach_if_over()
            self._news.notify_all()

    def abort(self) -> None:
        """Forget all jobs; whoever waits gets `Closed`.  Workers let go of the ring when they can."""
        with self._pool.lock:
            self.abandon()

    def __len__(self) -> int:
        return len(self._order)

    # ---- for the pool, which holds the lock

    def abandon(self) -> None:
        """`abort`, with the lock held."""
        self._closed = True
        self._order.clear()
        self.pending.clear()
        self._detach_if_over()
        self._news.notify_all()

    def wake(self) -> None:
        """Something changed that `next` may wait for."""
        self._news.notify_all()

    @property
    def over(self) -> bool:
        """Nobody waits for anything here any more."""
        return self._fd < 0

    def introduce(self, send: Callable[[Attach, list[int]], None]) -> None:
        """Tell a worker of the ring."""
        send(self._attach, [self._fd])

    def _has_news(self) -> bool:
        return self._pool.failed or bool(self._order and self._order[0].settled) or (self._closed and not self._order)

    def _detach_if_over(self) -> None:
        if self._closed and not self._order and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._pool.forget(self)


class Owner(Protocol):
    """The side of the pool that its lanes see; all but `lock` is called with the lock held."""

    @property
    def lock(self) -> threading.RLock:
        """Guards the pool and all its lanes."""

    @property
    def failed(self) -> bool:
        """The pool has failed, whether or not somebody has been told."""

    def dispatch(self) -> None:
        """Give waiting jobs to idle workers."""

    def forget(self, lane: PoolLane) -> None:
        """The lane is over."""

    def raise_failure(self) -> None:
        """Raise the failure to the first who asks, `Closed` to everybody else; nothing if all is well."""


def as_error(failed: Failed, stage: str, index: int | None, worker: str) -> PipelineError:
    """What a worker reported, as an exception of this process; its traceback is the cause."""
    where = f"{stage} failed on frame {index}: " if index is not None else ""
    error: PipelineError
    if index is None and failed.kind == "ConfigError":
        error = ConfigError(failed.message)
    else:
        error = StageError(where + failed.message, stage=stage, index=index)
    error.__cause__ = RuntimeError(f"in {worker}:\n{failed.traceback}")
    return error
