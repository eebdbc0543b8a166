"""Bounded buffers between threads, and fair waiting on several of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an ending, not an error
    """Nothing will come out of this buffer (or go in) any more."""


@dataclass(frozen=True, slots=True)
class BufferStats:
    """How full a buffer has been since it was made.

    Attributes:
        capacity: items that it can hold.
        mean_depth: items that it held, averaged over time.
        max_depth: most items that it ever held.
        waited_s: seconds in which at least one item was in it.
        items: items put in, dropped ones included.
        dropped: items thrown away to make room.
    """

    capacity: int
    mean_depth: float
    max_depth: int
    waited_s: float
    items: int
    dropped: int


class Gauge:
    """Time-weighted mean and maximum of a depth, and the time in which it was not 0."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._changed = clock()
        self._depth = 0
        self._area = self._above = 0.0
        self.max = 0

    def set(self, depth: int) -> None:
        """The depth has just become this."""
        now = self._clock()
        self._area += self._depth * (now - self._changed)
        self._above += (now - self._changed) * (self._depth > 0)
        self._changed = now
        self._depth = depth
        self.max = max(self.max, depth)

    @property
    def mean(self) -> float:
        """Average since the beginning."""
        now = self._clock()
        area = self._area + self._depth * (now - self._changed)
        return area / (now - self._began) if now > self._began else float(self._depth)

    @property
    def above_zero_s(self) -> float:
        """Seconds since the beginning in which the depth was not 0."""
        return self._above + (self._clock() - self._changed) * (self._depth > 0)


class Buffer(Generic[T]):
    """A bounded first-in, first-out buffer between threads.

    A full buffer makes its writer wait (``drop="never"``), or throws its oldest item away
    (``drop="oldest"``), which then goes to ``on_drop`` in the writer's thread.  Whoever has to
    know where items are missing looks at what they carry (`Frame.index`): it is exact there.
    """

    def __init__(
        self,
        capacity: int,
        drop: Literal["never", "oldest"] = "never",
        on_drop: Callable[[T], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"a buffer holds at least one item, not {capacity}")
        if drop not in ("never", "oldest"):
            raise ValueError(f"drop is 'never' or 'oldest', not {drop!r}")
        self.capacity = capacity
        self._drop = drop
        self._on_drop = on_drop
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._gauge = Gauge(clock)
        self._put = self._dropped = 0
        self._watchers: tuple[Callable[[], None], ...] = ()

    def put(self, item: T, timeout: float | None = None) -> None:
        """Add an item, waiting for room unless the buffer drops.

        Raises:
            Closed: the buffer was closed or aborted; the item was not taken.
            TimeoutError: no room within ``timeout`` seconds; the item was not taken.
        """
        dropped: list[T] = []
        with self._lock:
            if self._drop == "never":
                self._wait(lambda: self._closed or len(self._items) < self.capacity, timeout, "room in")
            if self._closed:
                raise Closed
            while len(self._items) >= self.capacity:
                dropped.append(self._items.popleft())
            self._items.append(item)
            self._put += 1
            self._dropped += len(dropped)
            self._notice()
        for watcher in self._watchers:
            watcher()
        if self._on_drop is not None:
            for lost in dropped:
                self._on_drop(lost)

    def get(self, timeout: float | None = None, wanted: Callable[[T], bool] = lambda _: True) -> T:
        """Take the oldest item, waiting for one; ``timeout=0`` does not wait.

        An item that is not ``wanted`` stays where it is, as if it had not come yet.

        Raises:
            Closed: the buffer is closed and empty, or aborted.
            TimeoutError: nothing came within ``timeout`` seconds.
        """
        with self._lock:
            self._wait(lambda: wanted(self._items[0]) if self._items else self._closed, timeout, "an item in")
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._notice()
            return item

    def __iter__(self) -> Iterator[T]:
        """The items, each waited for, until the buffer is closed and empty, or aborted."""
        with suppress(Closed):
            while True:
                yield self.get()

    def close(self) -> None:
        """No more items: writers get `Closed` now, readers when they have taken what is left."""
        self._end(discard=False)

    def abort(self) -> None:
        """Everybody gets `Closed` now; what is left is discarded."""
        self._end(discard=True)

    @property
    def closed(self) -> bool:
        """Closed or aborted; there may be items left to take."""
        return self._closed

    def __len__(self) -> int:
        return len(self._items)

    def stats(self) -> BufferStats:
        """How full the buffer has been."""
        with self._lock:
            gauge = self._gauge
            return BufferStats(self.capacity, gauge.mean, gauge.max, gauge.above_zero_s, self._put, self._dropped)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` from now on whenever an item has come in or the buffer has ended."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

    def _end(self, *, discard: bool) -> None:
        with self._lock:
            self._closed = True
            if discard:
                self._items.clear()
            self._notice()
        for watcher in self._watchers:
            watcher()

    def _notice(self) -> None:
        self._gauge.set(len(self._items))
        self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        if not self._changed.wait_for(ready, timeout):
            raise TimeoutError(f"no {what} the buffer within {timeout} s")


class FairReader(Generic[T]):
    """Reads several buffers in turn, that which gave something longest ago first.

    None with items waits longer than one item of each other.

    For one reading thread; the buffers may have other readers too.
    """

    def __init__(self, buffers: Sequence[Buffer[T]]) -> None:
        if not buffers:
            raise ValueError("nothing to read from")
        self._buffers = tuple(buffers)
        self._turns = list(range(len(self._buffers)))
        self._place = 0  # in them, of the buffer that something came from last
        self._news = threading.Condition()
        self._count = 0
        for buffer in self._buffers:
            buffer.watch(self._wake)

    def get(self, timeout: float | None = None, wanted: Callable[[int, T], bool] = lambda _, __: True) -> tuple[int, T]:
        """The next item and the number of the buffer that it came from; ``timeout=0`` does not wait.

        Args:
            timeout: seconds.
            wanted: asked of the number of a buffer and the oldest item in it, which stays there where it is not.

        Raises:
            Closed: every buffer is closed and empty, or aborted.
            TimeoutError: nothing came within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self._count  # before looking, so that an item which comes meanwhile is not slept over
            found = self._look(wanted)
            if found is not None:
                return found
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._news:
                if not self._news.wait_for(lambda seen=seen: self._count != seen, left):  # type: ignore[misc]
                    raise TimeoutError(f"no item in any of {len(self._buffers)} buffers within {timeout} s")

    def again(self, index: int) -> None:
        """What came last, and from that buffer, was not its turn: it keeps its place until something else comes."""
        self._turns.remove(index)
        self._turns.insert(self._place, index)

    def _look(self, wanted: Callable[[int, T], bool]) -> tuple[int, T] | None:
        ended = 0
        for place, index in enumerate(self._turns):
            try:
                item = self._buffers[index].get(timeout=0, wanted=partial(wanted, index))
            except TimeoutError:
                continue
            except Closed:
                ended += 1
                continue
            self._place = place
            self._turns.append(self._turns.pop(place))
            return index, item
        if ended == len(self._buffers):
            raise Closed
        return None

    def _wake(self) -> None:
        with self._news:
            self._count += 1
            self._news.notify_all()
