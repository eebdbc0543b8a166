"""Live sources that come back: whatever ends a connection, another one is made.

A thread of its own makes the connections and keeps emptying them, so that nothing which blocks
inside libav can hold up whoever wants to stop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from pipeline.errors import SourceAbsentError, SourceDeniedError, SourceError, SourceLostError
from pipeline.flow import Closed, Drain
from pipeline.frame import FORMATS, Colour, Frame
from pipeline.sources.base import AudioPacket, Decoded, Outages, Source, StreamInfo, shift_times
from pipeline.sources.parts import Pace

_log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
"""Between the starts of the first two attempts of a row."""

_GROWTH = 1.5
"""From one wait to the next: at any time about a third of how long the source has been away."""

LONGEST_WAIT_S = 2.0
"""A source that has come back waits no longer than this to be found."""

DENIED_WAIT_S = 30.0
LONGEST_DENIED_WAIT_S = 600.0
"""After a refused password, twice as long each time: cameras lock those who try too often."""

STEADY_S = 5.0
"""A connection that lasted as long begins a new row of attempts."""

_TOLD_IN_A_ROW = 5
_TOLD_EVERY_S = 60.0
"""A source that comes and goes all the time is not told of each time, but so often."""

_GRACE_S = 0.5
_BACKLOG = 8


class Backoff:
    """How long to wait between the attempts of a row: ever longer, with jitter so that many do not come at once."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        """``jitter`` gives numbers from 0 to 1."""
        self._jitter = jitter
        self.tries = self._denials = 0

    def next(self, *, denied: bool = False) -> float:
        """Seconds from the start of one attempt to that of the next; at most `LONGEST_WAIT_S`, unless ``denied``."""
        if denied:
            wait = min(LONGEST_DENIED_WAIT_S, DENIED_WAIT_S * 2.0 ** min(self._denials, 16))
            self._denials += 1
        else:
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * _GROWTH ** min(self.tries, 16))
        self.tries += 1
        return wait * (0.5 + 0.5 * self._jitter())

    def reset(self) -> None:
        """The row is over."""
        self.tries = self._denials = 0


class Reconnecting:
    """A live source over one connection after the other; see `Source` for what it promises.

    Times go on across a gap by as much as the monotonic clock did, and the first picture after it is
    marked as a discontinuity.  What turns out to be no live source (a file on a web server) is
    played once.
    """

    def __init__(
        self, connect: Callable[[], Source], *, name: str, shown: str, tries: int | None, alone: bool = True
    ) -> None:
        """Begin to connect, in the background: `settle` waits for the outcome.

        Args:
            connect: opens a connection.
            name: of the input.
            shown: the input as people may see it.
            tries: connections to try in a row before it is given up, None for ever, 0 for never again.
            alone: there is no other input: what looks like a slip of the pen (no such camera, another password) is an
                error at once, where it has never been connected.
        """
        self._connect = connect
        self._shown = shown
        self._tries = tries
        self._alone = alone
        self.own_thread_s = 0.0
        self._info = _unknown(name, shown)
        self._known = threading.Event()
        self._used = self._closed = self._given_up = False
        self._source: Source | None = None
        self._damaged = self._repaired = self._skipped = 0
        self._decoder = ""
        self._causes: Counter[str] = Counter()
        self._down_s = 0.0
        self._down_since: float | None = None  # of an outage that goes on
        self._began = self._found_at = self._told = -_TOLD_EVERY_S
        self._tells = False  # of this outage
        self._seam = _Seam()
        self._backoff = Backoff()
        self._drain: Drain[Decoded | AudioPacket] = Drain(f"{name} connection", self._serve, _BACKLOG)

    def settle(self) -> None:
        """Wait for the outcome of the first attempt.

        A source that may come later is none that failed: `info` then tells sizes of 0 until it is there.

        Raises:
            SourceError: it failed for good, or is not to be tried again.
        """
        self._known.wait()
        if self._given_up and not self._info.height:
            self._drain.get()

    @property
    def info(self) -> StreamInfo:
        """What was known when it was connected first; sizes of 0 before that."""
        return self._info

    @property
    def damaged(self) -> int:
        """As `Source`, over all connections."""
        source = self._source
        return self._damaged + (source.damaged if source is not None else 0)

    @property
    def repaired(self) -> int:
        """As `Source`, over all connections."""
        source = self._source
        return self._repaired + (source.repaired if source is not None else 0)

    @property
    def skipped(self) -> int:
        """As `Source`, over all connections."""
        source = self._source
        return self._skipped + (source.skipped if source is not None else 0)

    @property
    def decoder(self) -> str:
        """As `Source`, of the last connection."""
        source = self._source
        return self._decoder if source is None else source.decoder

    @property
    def outages(self) -> Outages:
        """As `Source`."""
        since = self._down_since
        down = self._down_s + (0.0 if since is None else time.monotonic() - since)
        return Outages(round(down, 3), tuple(sorted(self._causes.items())), since is not None)

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """As `Source`."""
        if self._closed or self._used:
            raise SourceError(f"{self._shown}: {'closed' if self._closed else 'read before'}; open it again")
        self._used = True
        return self._items()

    def _items(self) -> Iterator[Decoded | AudioPacket]:
        while True:
            try:
                item = self._drain.get()
            except Closed:
                return
            yield item

    def wake(self) -> None:
        """As `Source`; `read` ends now, whatever the network does."""
        self._drain.leave()
        source = self._source
        if source is not None:
            source.wake()

    def close(self) -> None:
        """As `Source`; a thread that is stuck inside libav closes its connection when its deadline comes."""
        self._closed = True
        self.wake()
        self._drain.join(_GRACE_S)
        self._known.set()

    # ---- in the thread

    def _serve(self, drain: Drain[Decoded | AudioPacket]) -> None:
        try:
            while (error := self._attempt(drain)) is not None:
                if not self._comes_back(error):
                    self._given_up = True
                    raise error
                self._known.set()
                denied = isinstance(error, SourceDeniedError)
                drain.pause(max(0.0, self._began + self._backoff.next(denied=denied) - time.monotonic()))
        finally:
            self._known.set()

    def _attempt(self, drain: Drain[Decoded | AudioPacket]) -> SourceError | None:
        """One connection from beginning to end: why it ended, None where that was a proper end."""
        self._began = time.monotonic()
        try:
            source = self._connect()
        except SourceError as error:
            self._lost(error)
            return error
        try:
            if not source.info.live and self._causes:
                source = Pace(source)  # it was taken for live while it was away
            self._source = source
            self._found(source.info)
            for item in source.read():
                self.own_thread_s = time.thread_time()
                joined = self._seam.join(item)
                if joined is not None:
                    drain.put(joined)
            return None
        except SourceError as error:
            if drain.left:
                return None
            if self._info.live:
                self._lost(error)
            return error
        finally:
            self._let_go(source)

    def _let_go(self, source: Source) -> None:
        source.close()
        damaged, repaired, skipped = source.damaged, source.repaired, source.skipped
        self._decoder = source.decoder
        self._source = None
        self._damaged += damaged
        self._repaired += repaired
        self._skipped += skipped

    def _found(self, info: StreamInfo) -> None:
        self._found_at = time.monotonic()
        if self._down_since is not None:
            away = self._found_at - self._down_since
            self._down_s += away
            self._down_since = None
            level = logging.WARNING if self._tells else logging.DEBUG
            _log.log(level, "%s: there again after %.1f s", self._shown, away)
        if not self._info.height:
            self._info = replace(info, live=True) if self._causes else info
        self._seam.begin(info, first=self._info)
        self._known.set()

    def _lost(self, error: SourceError) -> None:
        now = time.monotonic()
        if self._down_since is None:
            self._causes[_cause(error)] += 1
            self._down_since = now
            self._tells = False
            if now - self._found_at > STEADY_S:
                self._backoff.reset()
            if self._backoff.tries < _TOLD_IN_A_ROW:
                self._told = -_TOLD_EVERY_S
        message = str(error)  # whoever keeps the error keeps the pictures that its traceback mentions
        if now - self._told >= _TOLD_EVERY_S and self._comes_back(error):
            self._told, self._tells = now, True
            seldom = ", seldom so that no account is locked" if isinstance(error, SourceDeniedError) else ""
            _log.warning("%s (trying again until it is there%s; --reconnect N gives up after N tries)", message, seldom)
        else:
            _log.debug("%s", message)

    def _comes_back(self, error: SourceError) -> bool:
        if not self._info.live or (self._tries is not None and self._backoff.tries >= self._tries):
            return False
        if self._info.height or isinstance(error, SourceLostError):
            return True
        return not self._alone and isinstance(error, SourceAbsentError | SourceDeniedError)


def _cause(error: SourceError) -> str:
    if isinstance(error, SourceLostError):
        return error.cause
    return "absent" if isinstance(error, SourceAbsentError) else "refused"


class _Seam:
    """Joins connections to one stream: indices and times that go on, and the sound of the first one alone."""

    def __init__(self) -> None:
        self._last: Frame | None = None
        self._later = False
        self._shift: Fraction | None = Fraction(0)
        self._sound = True

    def begin(self, info: StreamInfo, *, first: StreamInfo) -> None:
        """A new connection; ``first`` is the one that the outputs were made for."""
        self._later = self._last is not None
        self._shift = None if self._later else Fraction(0)
        self._sound = _sound(info) == _sound(first)

    def join(self, item: Decoded | AudioPacket) -> Decoded | AudioPacket | None:
        """The item with its place in the whole; None where it has none."""
        if isinstance(item, Decoded):
            joined = self._picture(item) if self._later else item
            self._last = joined.frame
            return joined
        if self._shift is None or not self._sound:
            return None
        if self._shift:
            shift_times(item.packet, self._shift)
        return item

    def _picture(self, item: Decoded) -> Decoded:
        frame, last = item.frame, self._last
        assert last is not None
        again = self._shift is None
        if self._shift is None:
            passed = Fraction(frame.captured_ns - last.captured_ns, 1_000_000_000)
            self._shift = last.pts + passed - frame.pts
        pts = frame.pts + self._shift
        pts = max(pts - pts % frame.time_base, last.pts + frame.time_base)
        gap = frame.discontinuity or again
        return Decoded(replace(frame, pts=pts, index=last.index + 1, discontinuity=gap), item.picture)


def _sound(info: StreamInfo) -> tuple[object, ...] | None:
    """What two streams of sound must have in common for one muxer to take both."""
    if info.audio is None:
        return None
    context = info.audio.codec_context
    return (context.name, context.sample_rate, context.layout.name, context.extradata)


def _unknown(name: str, shown: str) -> StreamInfo:
    return StreamInfo(
        name=name,
        uri=shown,
        height=0,
        width=0,
        format=FORMATS["yuv420p"],
        colour=Colour(),
        sample_aspect_ratio=Fraction(1),
        time_base=Fraction(1, 90_000),
        average_rate=None,
        start=Fraction(0),
        duration=None,
        frames=None,
        live=True,
    )
