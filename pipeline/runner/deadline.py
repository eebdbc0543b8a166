"""Until when a live input's frame has to be refined."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from pipeline.frame import Frame

_SHARE = 0.1
"""Weight of the newest interval in their mean: some ten frames, so that a camera's jitter passes."""


class Deadlines:
    """Gives each frame as long as the workers may take with it and still keep up with its input.

    Frames come an interval apart.  Where an input has the time of n workers, each of them has to be done with a
    frame after n intervals, or those that come meanwhile find nobody.

    Args:
        workers: how many this input has for itself; less than one where several share them.
        clock: seconds.
    """

    def __init__(self, workers: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._clock = clock
        self._last: tuple[int, int] | None = None
        self._interval: float | None = None

    def came(self, frame: Frame) -> None:
        """Learn from a frame how fast its input is, whatever became of those before it."""
        last, self._last = self._last, (frame.index, frame.captured_ns)
        if last is None or frame.index <= last[0]:
            return
        interval = (frame.captured_ns - last[1]) / 1e9 / (frame.index - last[0])
        mean = self._interval
        self._interval = interval if mean is None else mean + _SHARE * (interval - mean)

    @property
    def interval(self) -> float | None:
        """Seconds from one frame to the next; None while the pace is not known."""
        return self._interval

    def next(self) -> float:
        """Deadline of a frame that is handed to the workers now; infinite while the pace is not known."""
        return math.inf if self._interval is None else self._clock() + self._workers * self._interval
