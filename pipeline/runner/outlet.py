"""A sink and the thread that drives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.flow import Buffer, Closed
from pipeline.frame import Result
from pipeline.runner.failing import failing_as
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sources.base import AudioPacket
from pipeline.telemetry import LatencyHistogram, StageMeter

log = logging.getLogger(__name__)

BACKLOG = 4
"""Results that may wait in front of a sink: enough to ride out a keyframe, little enough to stay fresh."""

AUDIO_BACKLOG = 256
"""Audio packets that may wait in live mode, besides the results: some seconds of sound, and little memory."""


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
        gone: whoever read the output has stopped reading, as ``head`` does; the rest is thrown away.

    Args:
        sink: not opened yet.
        source: name of the input.
        live: lose the oldest result rather than wait for the sink.
        failed: true once any part of the run has failed, so that the sink gives up instead of finishing.
    """

    def __init__(self, sink: Sink, *, source: str, live: bool, failed: Callable[[], bool]) -> None:
        self.sink = sink
        self.meter = StageMeter()
        self.latency = LatencyHistogram()
        self.dropped = 0
        self.gone = False
        self._source = source
        self._failed = failed
        self.buffer: Buffer[Delivery | AudioPacket] = _Fresh(self._count_drop) if live else Buffer(BACKLOG)
        self._info: OutputInfo | None = None
        self._index: int | None = None
        # Audio that comes before the first picture waits for it: only a picture tells how to open the sink.
        self._early: list[AudioPacket] = []

    def _count_drop(self, item: Delivery | AudioPacket) -> None:
        self.dropped += isinstance(item, Delivery)

    def run(self) -> None:
        """Thread: write until the buffer ends, then finish the output, or undo it if the run failed."""
        try:
            self._feed()
        except BaseException as error:
            self._abort()
            if not isinstance(error.__cause__, BrokenPipeError):
                raise
            self.gone = True
        if self.gone:
            self._discard()

    def _abort(self) -> None:
        try:
            self.sink.abort()
        except Exception as error:  # why the sink is given up is what the user must learn
            log.warning("%s: giving up failed too: %s", self.sink.name, error)

    def _feed(self) -> None:
        try:
            while True:
                item = self.buffer.get()
                index = item.result.index if isinstance(item, Delivery) else self._index
                with failing_as(self.sink.name, self._source, index):
                    self._take(item)
        except Closed:
            with failing_as(self.sink.name, self._source):
                self._finish()

    def _take(self, item: Delivery | AudioPacket) -> None:
        if isinstance(item, Delivery):
            self._write(item)
        elif self._info is None:
            self._early.append(item)
        else:
            self.sink.write_audio(item)

    def _write(self, delivery: Delivery) -> None:
        result = delivery.result
        if self._index is not None and result.index != self._index + 1 and not result.frame.discontinuity:
            result = replace(result, frame=replace(result.frame, discontinuity=True))
        self._index = result.index
        with self.meter:
            self._tell(delivery.info)
            self.sink.write(result)
        self.latency.add(time.monotonic_ns() - result.frame.captured_ns)

    def _tell(self, info: OutputInfo) -> None:
        if self._info is None:
            self.sink.open(info)
            for audio in self._early:
                self.sink.write_audio(audio)
            self._early.clear()
        elif info is not self._info:
            self.sink.reconfigure(info)
        self._info = info

    def _finish(self) -> None:
        if self._failed() or self._info is None:
            self._abort()
        else:
            self.sink.close()

    def _discard(self) -> None:
        """Take what still comes, so that the other outputs do not wait."""
        while True:
            self.buffer.get()
