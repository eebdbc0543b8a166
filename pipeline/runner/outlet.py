"""A sink and the thread that drives it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.flow import Buffer, Closed
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sources.base import AudioPacket
from pipeline.telemetry import LatencyHistogram, StageMeter

BACKLOG = 4
"""Results that may wait in front of a sink: enough to ride out a keyframe, little enough to stay fresh."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result for a sink, with what the sink must know of it."""

    result: Result
    info: OutputInfo


class Outlet:
    """Feeds one sink in a thread of its own, so that a slow sink holds up nobody sooner than it must.

    Args:
        sink: not opened yet.
        live: lose the oldest result rather than wait for the sink.
        failed: true once any part of the run has failed, so that the sink gives up instead of finishing.
    """

    def __init__(self, sink: Sink, *, live: bool, failed: Callable[[], bool]) -> None:
        self.sink = sink
        self.meter = StageMeter()
        self.latency = LatencyHistogram()
        self.dropped = 0
        self._failed = failed
        self.buffer: Buffer[Delivery | AudioPacket] = Buffer(BACKLOG, "oldest" if live else "never", self._count_drop)
        self._info: OutputInfo | None = None
        # Audio that comes before the first picture waits for it: only a picture tells how to open the sink.
        self._early: list[AudioPacket] = []

    def _count_drop(self, item: Delivery | AudioPacket) -> None:
        self.dropped += isinstance(item, Delivery)

    def run(self) -> None:
        """Thread: write until the buffer ends, then finish the output, or undo it if the run failed."""
        try:
            while True:
                item = self.buffer.get()
                if isinstance(item, Delivery):
                    self._write(item)
                elif self._info is None:
                    self._early.append(item)
                else:
                    self.sink.write_audio(item)
        except Closed:
            if self._failed() or self._info is None:
                self.sink.abort()
            else:
                self._close()
        except BaseException:
            self.sink.abort()
            raise

    def _write(self, delivery: Delivery) -> None:
        with self.meter:
            self._tell(delivery.info)
            self.sink.write(delivery.result)
        self.latency.add(time.monotonic_ns() - delivery.result.frame.captured_ns)

    def _tell(self, info: OutputInfo) -> None:
        if self._info is None:
            self.sink.open(info)
            for audio in self._early:
                self.sink.write_audio(audio)
            self._early.clear()
        elif info is not self._info:
            self.sink.reconfigure(info)
        self._info = info

    def _close(self) -> None:
        try:
            self.sink.close()
        except BaseException:
            self.sink.abort()
            raise
