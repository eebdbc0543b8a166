"""Frames of several inputs gathered to pass the engine in one request, where it takes as many.

While the engine is busy they gather by themselves.  Where it is free, a frame waits only for inputs whose next one is
about to come, and never longer than the engine takes for a request: until then it might have been done alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from pipeline.flow import FairReader
from pipeline.runner.epoch import Ticket
from pipeline.runner.lane import Lane

LONGEST_WAIT_S = 0.005
"""However slow the engine is: a small part of the time between two frames of a camera."""

_NEWEST = 0.2
"""Weight of the newest request in the mean of the time that requests take."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames for one request, and inputs that have ended.

    Attributes:
        members: frames of one input size, one of an input at most, each with its input; none where those that came
            are too old.
        ended: inputs that have no frames any more.
        waited_s: seconds that the first frame waited for the others.
    """

    members: tuple[tuple[Lane, Ticket], ...]
    ended: tuple[Lane, ...]
    waited_s: float

    @property
    def name(self) -> str:
        """The inputs, as messages call them."""
        return " + ".join(ticket.frame.source for _, ticket in self.members)


@dataclass(slots=True)
class _Rhythm:
    """When an input's last frame was taken, the time between the last two, and the network's input size for them."""

    last: float = -inf
    interval: float = inf
    size: tuple[int, int] | None = None

    def came(self, size: tuple[int, int], now: float) -> None:
        self.last, self.interval, self.size = now, now - self.last, size

    @property
    def due(self) -> float:
        """When the next frame should come."""
        return self.last + self.interval


@dataclass(slots=True)
class _Gathered:
    """A batch in the making: tickets by the number of their input."""

    members: dict[int, Ticket] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    size: tuple[int, int] | None = None

    def fits(self, lane: int, ticket: Ticket | None) -> bool:
        """Whether what an input has next may come in: a frame that fits, the first one of its input, or its end."""
        return ticket is None or (lane not in self.members and ticket.epoch.session.input_size == self.size)


class Batcher:
    """Takes frames from the inputs in turn; for one thread.

    Args:
        lanes: the inputs.
        most: frames of the largest batch; with 1 nothing ever waits.
    """

    def __init__(self, lanes: Sequence[Lane], most: int) -> None:
        self._lanes = tuple(lanes)
        self._most = most
        self._reader = FairReader([lane.ready for lane in self._lanes])
        self._rhythms = {index: _Rhythm() for index in range(len(self._lanes))}  # of those that have not ended
        self._request_s = 0.0

    @property
    def ended(self) -> bool:
        """No input has any frames left."""
        return not self._rhythms

    def took(self, seconds: float) -> None:
        """Learn how long a request was in the engine; any thread may tell."""
        self._request_s += (seconds - self._request_s) * (_NEWEST if self._request_s else 1.0)

    def next(self) -> Batch:
        """Wait for the next frames.

        Raises:
            Closed: the run is given up.
        """
        gathered = _Gathered()
        self._take(gathered, *self._reader.get())
        began = time.monotonic()
        longest = min(self._request_s, LONGEST_WAIT_S)
        while gathered.members and len(gathered.members) < self._most:
            wait = began + longest - time.monotonic() if self._awaits(gathered, began, longest) else 0.0
            try:
                self._take(gathered, *self._reader.get(max(0.0, wait), gathered.fits))
            except TimeoutError:
                break
        return Batch(
            tuple((self._lanes[index], ticket) for index, ticket in gathered.members.items()),
            tuple(self._lanes[index] for index in gathered.ended),
            time.monotonic() - began,
        )

    def _take(self, gathered: _Gathered, index: int, ticket: Ticket | None) -> None:
        if ticket is None:
            gathered.ended.append(index)
            del self._rhythms[index]
            return
        size = ticket.epoch.session.input_size
        self._rhythms[index].came(size, time.monotonic())
        if self._lanes[index].admit(ticket):
            gathered.members[index] = ticket
            gathered.size = size
        else:
            # Its next frame is a fresh one; behind all the others again it would grow too old like this one, for ever.
            self._reader.again(index)

    def _awaits(self, gathered: _Gathered, began: float, longest: float) -> bool:
        """Whether an input that is not in it is about to bring a frame; one that is overdue may be stuck."""
        return any(
            rhythm.size == gathered.size and abs(rhythm.due - began) <= longest
            for index, rhythm in self._rhythms.items()
            if index not in gathered.members
        )
