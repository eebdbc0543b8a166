"""Times that rise strictly, whatever the container says."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")

BACKWARD = Fraction(1)
"""Seconds backward from which a stamp is another time line and not mere disorder."""

FORWARD = Fraction(10)
"""Seconds forward from which a stamp is believed only when the next one agrees."""

_NOMINAL_STEP = Fraction(1, 25)


@dataclass(slots=True)
class _Held(Generic[T]):
    item: T
    stamp: Fraction
    span: Fraction | None


class Timestamps(Generic[T]):
    """Puts missing and backward stamps right; leaves every good one exactly as it is.

    A stamp that repeats or falls a little behind is put one tick after its predecessor.  One that
    falls far behind starts a time line of its own, which is appended to the old one, unless the
    next stamp fits the old one again: then it was the only bad one.  One that leaps far ahead is
    held back until the next shows whether the stream leapt or the stamp lied.
    """

    def __init__(self, tick: Fraction, *, rate: Fraction | None = None, patient: bool = True) -> None:
        """Begin a stream.

        Args:
            tick: resolution of the container's clock, in seconds.
            rate: pictures a second where the container has no times at all; stamps are ignored.
            patient: may hold back one item; a live source must not.
        """
        self.repaired = 0
        self._tick = tick
        self._rate = rate
        self._patient = patient
        self._count = 0
        self._last: Fraction | None = None
        self._step = _NOMINAL_STEP
        self._shift = Fraction(0)
        self._held: _Held[T] | None = None

    def push(self, item: T, stamp: Fraction | None, span: Fraction | None = None) -> list[tuple[T, Fraction]]:
        """Take the next item in presentation order.

        Args:
            item: anything.
            stamp: its time in seconds as the container has it, None where it has none.
            span: its duration in seconds as the container has it.

        Returns:
            The items whose times are settled now, with those times.
        """
        if self._rate is not None:
            self._count += 1
            return [(item, (self._count - 1) / self._rate)]
        if stamp is not None and self._last is not None and self._held is None and not self._shift:
            step = stamp - self._last
            if 0 < step <= FORWARD:  # nearly every one: nothing to weigh
                self._last, self._step = stamp, span or step
                return [(item, stamp)]
        settled = self._release(stamp)
        if stamp is not None and self._leaps(stamp):
            self._held = _Held(item, stamp, span)
        else:
            settled.append((item, self._settle(stamp, span)))
        return settled

    def flush(self) -> list[tuple[T, Fraction]]:
        """The stream has ended: what was held back."""
        return self._release(None)

    def _leaps(self, stamp: Fraction) -> bool:
        return self._patient and self._last is not None and stamp + self._shift - self._last > FORWARD

    def _release(self, following: Fraction | None) -> list[tuple[T, Fraction]]:
        held, self._held = self._held, None
        if held is None:
            return []
        assert self._last is not None
        lied = following is not None and self._last < following + self._shift < held.stamp + self._shift
        return [(held.item, self._settle(None if lied else held.stamp, held.span))]

    def _settle(self, stamp: Fraction | None, span: Fraction | None) -> Fraction:
        pts = self._rising(stamp)
        if pts != stamp:
            self.repaired += 1
        elif self._last is not None and pts - self._last <= FORWARD:
            self._step = pts - self._last
        if span:
            self._step = span
        self._last = pts
        return pts

    def _rising(self, stamp: Fraction | None) -> Fraction:
        if self._last is None:
            return stamp if stamp is not None else Fraction(0)
        expected = self._last + self._step
        if stamp is None:
            return expected
        rising = [s for s in {stamp, stamp + self._shift} if s > self._last]
        if rising:
            pts = min(rising, key=lambda s: abs(s - expected))
        elif self._last - stamp < BACKWARD:
            return self._last + self._tick
        else:
            pts = expected
        self._shift = pts - stamp
        return pts
