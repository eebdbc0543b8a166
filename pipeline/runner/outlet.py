"""A sink and the thread that drives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.errors import PipelineError
from pipeline.flow import Buffer, Closed
from pipeline.frame import Result
from pipeline.runner.failing import failing_as
from pipeline.sinks.base import Keeping, OutputInfo, Sink, Tending
from pipeline.sources.base import AudioPacket
from pipeline.telemetry import LatencyHistogram, StageMeter

log = logging.getLogger(__name__)

BACKLOG = 4
"""Results that may wait in front of a sink: enough to ride out a keyframe, little enough to stay fresh."""

AUDIO_BACKLOG = 256
"""Audio packets that may wait in live mode, besides the results: some seconds of sound, and little memory."""

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
"""How long an output rests that has failed, at first and at most."""

STEADY_S = 10.0
"""An output that has written for so long is there again."""

TEND_S = 30.0
"""How often an output that keeps files looks after them."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result for a sink, with what the sink must know of it."""

    result: Result
    info: OutputInfo


class _Fresh(Buffer[Delivery | AudioPacket]):
    """What waits in live mode: too many results push out the oldest result, too much audio the oldest audio."""

    def __init__(self, on_drop: Callable[[Delivery | AudioPacket], None]) -> None:
        super().__init__(BACKLOG + AUDIO_BACKLOG, "oldest", on_drop)

    def put(self, item: Delivery | AudioPacket, timeout: float | None = None) -> None:
        """Never waits; results come from one thread, and audio from one."""
        kind, limit = (Delivery, BACKLOG) if isinstance(item, Delivery) else (AudioPacket, AUDIO_BACKLOG)
        lost = None
        with self._lock:
            alike = [place for place, held in enumerate(self._items) if isinstance(held, kind)]
            if len(alike) >= limit:
                lost = self._items[alike[0]]
                del self._items[alike[0]]
                self._dropped += 1
        if lost is not None and self._on_drop is not None:
            self._on_drop(lost)
        super().put(item, timeout)


class Outlet:
    """Feeds one sink in a thread of its own, so that a slow sink holds up nobody sooner than it must.

    Attributes:
        dropped: results lost because the sink was too slow (live mode only).
        gone: nothing is written any more, and the rest is thrown away: whoever read the output has stopped reading,
            as ``head`` does, or it failed for good.
        failures: how often it failed.
        missed: results lost because it had failed.
        failure: why nothing is written now; None while all is well.

    Args:
        sink: not opened yet.
        source: name of the input.
        live: lose the oldest result rather than wait for the sink.
        failed: true once any part of the run has failed, so that the sink gives up instead of finishing.
        alone: what the sink fails at concerns no other output: it is tried again where that does no harm.
    """

    def __init__(self, sink: Sink, *, source: str, live: bool, failed: Callable[[], bool], alone: bool = False) -> None:
        self.sink = sink
        self.meter = StageMeter()
        self.latency = LatencyHistogram()
        self.dropped = self.failures = self.missed = 0
        self.gone = False
        self.failure: PipelineError | None = None
        self._alone = alone
        self._ending = False
        self._pause = FIRST_RETRY_S
        self._writes_since = 0.0
        self._tended = 0.0
        self._source = source
        self._failed = failed
        self.buffer: Buffer[Delivery | AudioPacket] = _Fresh(self._count_drop) if live else Buffer(BACKLOG)
        self._info: OutputInfo | None = None
        self._index: int | None = None
        # Audio that comes before the first picture waits for it: only a picture tells how to open the sink.
        self._early: list[AudioPacket] = []

    @property
    def unread(self) -> bool:
        """Whoever read the output has stopped reading."""
        return self.gone and self.failure is None

    def _count_drop(self, item: Delivery | AudioPacket) -> None:
        self.dropped += isinstance(item, Delivery)

    def run(self) -> None:
        """Thread: write until the buffer ends, then finish the output, or undo it if the run failed."""
        while True:
            try:
                self._feed()
                return
            except Closed:
                raise
            except BaseException as error:
                self._give_up()
                if isinstance(error.__cause__, BrokenPipeError):
                    self.gone = True
                elif self._alone and isinstance(error, PipelineError) and not self._failed():
                    self._fail(error)
                else:
                    raise
            self._rest()

    def _give_up(self) -> None:
        """Keep what can be kept of a live input's recording; nothing of any other output."""
        self._info = None
        try:
            if not (self._alone and isinstance(self.sink, Keeping) and self.sink.keep()):
                self.sink.abort()
        except Exception as error:  # why the sink is given up is what the user must learn
            log.warning("%s: giving up failed too: %s", self.sink.name, error)

    def _fail(self, error: PipelineError) -> None:
        self.failures += 1
        self.gone = not isinstance(self.sink, Keeping) or not self.sink.continues
        first, self.failure = self.failure is None, error.with_traceback(None)
        how = "it is lost" if self.gone else "it is tried again"
        loud = first and not self._ending  # in the end whoever runs this tells of all that is lost
        log.log(logging.ERROR if loud else logging.DEBUG, "%s (%s, everything else goes on)", error, how)

    def _rest(self) -> None:
        """Take what still comes, so that the other outputs do not wait; for ever, or until the next try."""
        again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_RETRY_S)
        while self.gone or time.monotonic() < again:
            with suppress(TimeoutError):
                item = self.buffer.get(None if self.gone else again - time.monotonic())
                self.missed += self.failure is not None and isinstance(item, Delivery)

    def _feed(self) -> None:
        try:
            while True:
                item = self._next()
                index = item.result.index if isinstance(item, Delivery) else self._index
                with failing_as(self.sink.name, self._source, index):
                    self._take(item)
                self._recovered(STEADY_S)
        except Closed:
            self._ending = True
            with failing_as(self.sink.name, self._source):
                self._finish()
            self._recovered(0.0)

    def _next(self) -> Delivery | AudioPacket:
        """What is to be written next; files are looked after meanwhile, whether anything comes or not."""
        if not isinstance(self.sink, Tending):
            return self.buffer.get()
        while True:
            if time.monotonic() - self._tended >= TEND_S:
                self.sink.tend()
                self._tended = time.monotonic()
            with suppress(TimeoutError):
                return self.buffer.get(TEND_S)

    def _recovered(self, after_s: float) -> None:
        """An output that failed has written for some time since."""
        if self.failure is not None and self._info is not None and time.monotonic() - self._writes_since >= after_s:
            log.warning("%s: is written again; %d frames were lost to it", self.sink.name, self.missed)
            self.failure, self._pause = None, FIRST_RETRY_S

    def _take(self, item: Delivery | AudioPacket) -> None:
        if isinstance(item, Delivery):
            self._write(item)
        elif self._info is None:
            self._early.append(item)
        else:
            self.sink.write_audio(item)

    def _write(self, delivery: Delivery) -> None:
        result = delivery.result
        follows = self._index is not None and result.index == self._index + 1
        if not follows and not result.frame.discontinuity:
            result = replace(result, frame=replace(result.frame, discontinuity=True))
        self._index = result.index
        with self.meter:
            self._tell(delivery.info)
            self.sink.write(result)
        self.latency.add(time.monotonic_ns() - result.frame.captured_ns)

    def _tell(self, info: OutputInfo) -> None:
        if self._info is None:
            self.sink.open(info)
            self._writes_since = time.monotonic()
            for audio in self._early:
                self.sink.write_audio(audio)
            self._early.clear()
        elif info is not self._info:
            self.sink.reconfigure(info)
        self._info = info

    def _finish(self) -> None:
        if self._failed() or self._info is None:
            self._give_up()
        else:
            self.sink.close()
