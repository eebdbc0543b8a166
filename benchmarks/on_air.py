"""What the benchmarks of live streams share."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.frame import Result
from pipeline.reports import Percentiles
from pipeline.sinks.base import OutputInfo
from pipeline.sources.base import AudioPacket


@dataclass(frozen=True, slots=True)
class Arrival:
    """One picture.

    Attributes:
        index: its number in the run.
        captured_ns: monotonic clock at its arrival.
        there_ns: and when its result was here.
    """

    index: int
    captured_ns: int
    there_ns: int


class Tally:
    """A sink that keeps when each picture arrived and when its result was here."""

    name = "tally"

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    def open(self, info: OutputInfo) -> None:
        """Nothing to make ready."""

    def write(self, result: Result) -> None:
        """Keep the times."""
        frame = result.frame
        self.arrivals.append(Arrival(frame.index, frame.captured_ns, time.monotonic_ns()))

    def write_audio(self, audio: AudioPacket) -> None:
        """Ignored."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Nothing to change."""

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to undo."""


def percentiles(values: Iterable[float]) -> Percentiles:
    """Of at least one value."""
    ordered = sorted(values)
    return Percentiles(
        *(round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) for share in (0.5, 0.95, 0.99))
    )


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One that nobody has just now."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
