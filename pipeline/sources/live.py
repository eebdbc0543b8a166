"""What a live stream is held to: it begins at a keyframe, and packets become pictures in time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import av

from pipeline.errors import SourceLostError

MAX_BROKEN = 10
"""Packets that may fail to decode one after the other: less than half a second; the codec may have changed."""

_GAP_NS = 300_000_000
"""From which on a pause between two pictures counts as a gap, where it is several times what is usual."""

_REORDERED = 64
"""Packets whose arrival is remembered: more than any decoder holds back."""


class Watch:
    """Looks after the packets of one connection of a live stream.

    Args:
        shown: the input as people may see it.
        timeout: seconds that may pass without a picture, None without end.
        from_keyframe: leave out what comes before the first keyframe.
    """

    def __init__(self, shown: str, timeout: float | None, *, from_keyframe: bool) -> None:
        self._shown = shown
        self._timeout = timeout
        self._since: int | None = None
        self._begun = not from_keyframe
        self._last: int | None = None
        self._usual: float | None = None
        self._arrivals: OrderedDict[int, int] = OrderedDict()

    def wants(self, packet: av.Packet[Any], arrived: int) -> bool:
        """Whether the decoder can make something of it: nothing before the first keyframe is worth its time.

        Raises:
            SourceLostError: no picture has come for too long, though packets do.
        """
        self._since = arrived if self._since is None else self._since
        waited = (arrived - self._since) / 1e9
        if self._timeout is not None and waited > self._timeout:
            raise SourceLostError(f"{self._shown}: lost, no picture came for {waited:.1f} s", cause="undecodable")
        self._begun |= packet.is_keyframe
        if self._begun and packet.pts is not None:
            self._arrivals[packet.pts] = arrived
            if len(self._arrivals) > _REORDERED:
                self._arrivals.popitem(last=False)
        return self._begun

    def arrival(self, pts: int | None, otherwise: int) -> int:
        """A picture came: when its own packet arrived, in monotonic nanoseconds, which a decoder may have held back.

        Args:
            pts: of the picture.
            otherwise: what to take where no packet had that time.
        """
        self._since = None
        return otherwise if pts is None else self._arrivals.pop(pts, otherwise)

    def paused(self, captured: int) -> bool:
        """Whether pictures are missing before this one, by when it came: senders that start anew do not tell."""
        last, self._last = self._last, captured
        if last is None:
            return False
        interval, usual = captured - last, self._usual
        self._usual = interval if usual is None else usual + 0.1 * (min(interval, 4 * usual) - usual)
        return usual is not None and interval > max(_GAP_NS, 4 * usual)

    def check(self, broken: int) -> None:
        """See that not too many packets have failed in a row.

        Raises:
            SourceLostError: they have.
        """
        if broken >= MAX_BROKEN:
            raise SourceLostError(
                f"{self._shown}: lost, {broken} packets in a row could not be decoded", cause="undecodable"
            )
