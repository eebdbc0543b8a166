"""Recordings that go on for ever: a file after the other, named by the clock, and the oldest removed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import Result
from pipeline.sinks.base import Encoding, OutputInfo, Sink
from pipeline.sinks.files import PartFile
from pipeline.sinks.places import make_directory, remove_directories
from pipeline.sinks.recordings import Recordings, at, free, place_of
from pipeline.sinks.target import cannot_write
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)B?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How recordings with the clock in their names are cut, and how many are kept.

    Attributes:
        segment_time: seconds of a file.
        segment_size: bytes at which the next file begins, or text such as ``"500M"``; None for no limit.
        keep_time: seconds after which a finished file is removed; None for never.
        keep_size: bytes that finished files may take together, or text; the oldest are removed; None for no limit.

    Raises:
        ConfigError: a limit that makes no sense.
    """

    segment_time: float | Fraction = 600
    segment_size: int | str | None = None
    keep_time: float | Fraction | None = None
    keep_size: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("segment_time", "keep_time"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0 seconds, not {value}")
        for name in ("segment_size", "keep_size"):
            if (value := getattr(self, name)) is not None:
                _bytes(name, value)

    @property
    def segment_bytes(self) -> int | None:
        """`segment_size` in bytes."""
        return None if self.segment_size is None else _bytes("segment_size", self.segment_size)

    @property
    def keep_bytes(self) -> int | None:
        """`keep_size` in bytes."""
        return None if self.keep_size is None else _bytes("keep_size", self.keep_size)


def _bytes(name: str, size: int | str) -> int:
    match = _SIZE.fullmatch(str(size))
    if match is None or not float(match[1]):
        raise ConfigError(f"{name} {size!r} is no size: give bytes, or a number with k, M, G or T")
    return round(float(match[1]) * _UNITS[match[2]])


class FileSink(Sink, Protocol):
    """A sink that makes one file and knows its size."""

    @property
    def written(self) -> int:
        """Bytes written so far."""

    def keep(self) -> bool:
        """As `Keeping`."""


class SegmentedSink:
    """Gives every segment a sink of its own, which begins with a keyframe and at time 0.

    A segment gets its name, the local time of its first frame, when it is whole.  Where that name is taken,
    ``-2`` and so on is added.  An error or `abort` costs the segment that is being written, not those before.
    Only files whose names fit the pattern are ever removed, and the directories with the clock in their names that
    this empties.  A segment that a killed run has left under its hidden name is given its own, where it plays.

    Args:
        name: the output as the user named it.
        make: the sink of one segment, by its path.
        options: how long segments are, and how many are kept.

    Attributes:
        encoder: as `Encoding`, of the last segment.
    """

    def __init__(self, name: str, make: Callable[[str], FileSink], options: RecordOptions) -> None:
        self._name = name
        self._make = make
        self._options = options
        self._info: OutputInfo | None = None
        self._sink: FileSink | None = None
        self._made: list[Path] = []
        self._began = Fraction(0)
        self._segments = 0
        self._files = Recordings(name)
        self._adopted = False
        self.encoder = ""

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return self._name

    def open(self, info: OutputInfo) -> None:
        """See that files can be made there."""
        path = Path(at(self._name, time.time()))
        made = self._make_directory(path)
        PartFile(path, self._name).discard()
        remove_directories(made)
        self._info = info
        self._segments = 0

    def write(self, result: Result) -> None:
        """Append to the segment, or begin the next."""
        if self._info is None:
            raise SinkError(f"{self._name} is not open")
        sink = self._sink
        if sink is None or self._is_full(sink, result.pts):
            self._end()
            sink = self._next(self._info, result)
        sink.write(result)

    def _is_full(self, sink: FileSink, pts: Fraction) -> bool:
        limit = self._options.segment_bytes
        return not 0 <= pts - self._began < self._options.segment_time or (limit is not None and sink.written >= limit)

    def _next(self, info: OutputInfo, result: Result) -> FileSink:
        self._began = result.pts
        stream = replace(info.stream, start=Fraction(0), skipped=result.pts)
        path = free(at(self._name, result.frame.wall_ns / 1e9))
        self._made = self._make_directory(Path(path))
        sink = self._make(path)
        self._sink = sink  # whoever aborts must reach it
        sink.open(replace(info, stream=stream))
        self.encoder = sink.encoder if isinstance(sink, Encoding) else ""
        self._segments += 1
        return sink

    def _make_directory(self, path: Path) -> list[Path]:
        """What lies above the first directory with the clock in its name is made as for any file; the rest always."""
        made = []
        try:
            made = make_directory(place_of(self._name))
            missing = [parent for parent in path.parents if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remove_directories(made)
            raise cannot_write(self._name, error) from error
        return [*made, *reversed(missing)]

    def _end(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None
            self.tend()

    def tend(self) -> None:
        """As `Tending`: also what an earlier run that was killed has left."""
        if not self._adopted:
            self._adopted = True
            self._files.adopt()
        self._files.tidy(self._options.keep_time, self._options.keep_bytes)

    def write_audio(self, audio: AudioPacket) -> None:
        """Copy one packet into the segment that it belongs to."""
        if self._sink is not None and audio.time >= self._began:
            self._sink.write_audio(audio)

    def reconfigure(self, info: OutputInfo) -> None:
        """Pictures of another size begin a segment of their own."""
        self._info = info
        self._end()

    def close(self) -> None:
        """Finish the last segment."""
        if self._info is None:
            return
        if not self._segments:
            _LOG.warning("%s: no picture came, nothing is written", self._name)
        try:
            self._end()
        finally:
            self._info = None

    @property
    def continues(self) -> bool:
        """True: what comes after an error has a segment of its own."""
        return True

    def keep(self) -> bool:
        """As `Keeping`: the segment that is being written, in Matroska and WebM."""
        sink = self._sink
        if sink is None:
            return False
        if sink.keep():
            self._sink = None
        self.abort()
        self.tend()
        return True

    def abort(self) -> None:
        """Remove the segment that is being written."""
        if self._sink is not None:
            self._sink.abort()
            remove_directories(self._made)
        self._sink = self._info = None
