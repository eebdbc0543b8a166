"""What a live stream is held to: it begins at a keyframe, and packets become pictures in time."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import av

from pipeline.errors import SourceLostError

_log = logging.getLogger(__name__)

MAX_BROKEN = 10
"""Packets that may fail to decode one after the other: less than half a second; the codec may have changed."""

_BEHIND_NS = 1_000_000_000
"""Since when packets may have come without a pause before the decoder counts as too slow for them.

Longer than a `flow.Drain` waits for its reader at the beginning.
"""

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
        keep_up: leave out what has piled up since the decoder is too slow for it.

    Attributes:
        skipped: packets left out for that.
    """

    def __init__(self, shown: str, timeout: float | None, *, from_keyframe: bool, keep_up: bool) -> None:
        self.skipped = 0
        self._keep_up = keep_up
        self._behind = False
        self._shown = shown
        self._timeout = timeout
        self._since: int | None = None
        self._begun = not from_keyframe
        self._last: int | None = None
        self._usual: float | None = None
        self._arrivals: OrderedDict[int, int] = OrderedDict()

    def wants(self, packet: av.Packet[Any], arrived: int, drained: int) -> bool:
        """Whether the decoder should have it.

        It can make nothing of what comes before the first keyframe.  Where it is too slow for the stream, all that
        has piled up is left out, and it begins anew with the next keyframe.

        Args:
            packet: of the pictures.
            arrived: when it was taken from the input, in monotonic nanoseconds.
            drained: when the input was empty last.

        Raises:
            SourceLostError: no picture has come for too long, though packets do.
        """
        self._since = arrived if self._since is None else self._since
        waited = (arrived - self._since) / 1e9
        if self._timeout is not None and waited > self._timeout:
            raise SourceLostError(f"{self._shown}: lost, no picture came for {waited:.1f} s", cause="undecodable")
        if self._keep_up and self._skip(packet, arrived - drained):  # perhaps to no end: no keyframe need come
            return False
        self._begun |= packet.is_keyframe
        if self._begun and packet.pts is not None:
            self._arrivals[packet.pts] = arrived
            if len(self._arrivals) > _REORDERED:
                self._arrivals.popitem(last=False)
        return self._begun

    def _skip(self, packet: av.Packet[Any], piling_ns: int) -> bool:
        if piling_ns > _BEHIND_NS and not self._behind:
            self._behind = True
            _log.info("%s: comes faster than it can be decoded; what has piled up is left out", self._shown)
        elif self._behind and packet.is_keyframe and piling_ns < _BEHIND_NS:
            self._behind = False
        self.skipped += self._behind
        return self._behind

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
