"""What every sink promises.

A sink is driven by one thread of its own: `open` once, then `write` (and `write_audio`) in
order, `reconfigure` when the picture changes, and in the end either `close` or `abort`.  After an
error it takes no more results: `abort` it.  A sink owns no thread; the media library's encoders may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engines.labels import LabelSet
from pipeline.frame import Result
from pipeline.sources.base import AudioPacket, StreamInfo


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """What a sink is told about the stream that it will get.

    Attributes:
        stream: the input as opened; colour already resolved for the output.
        height, width: size of the rendered picture (twice as wide for side by side), in pixels.
        labels: class names and palette.
        model: name of the model.
        model_sha256: hash of the model's file.
    """

    stream: StreamInfo
    height: int
    width: int
    labels: LabelSet
    model: str
    model_sha256: str


@runtime_checkable
class Live(Protocol):
    """What a sink also tells whose takers come and go while it runs; for any thread."""

    @property
    def clients(self) -> int:
        """How many take what it makes now."""

    @property
    def lost(self) -> int:
        """Frames so far that a client which was late, or a server that was away, did not get."""


@runtime_checkable
class Encoding(Protocol):
    """What a sink also tells that makes a video."""

    @property
    def encoder(self) -> str:
        """The encoder in use by libav's name; empty before there is one."""


@runtime_checkable
class Keeping(Protocol):
    """What a sink also offers that can save what it has written of a live input."""

    @property
    def continues(self) -> bool:
        """Whether it may be opened again after `keep` without harm to what is there."""

    def keep(self) -> bool:
        """Instead of `abort`: what was written of a live input gets its final name, if it plays.

        Returns:
            False where `abort` is left to be done.
        """


@runtime_checkable
class Tending(Protocol):
    """What a sink also offers that keeps many files."""

    def tend(self) -> None:
        """Look after the files, from time to time, also before `open`; never raises."""


@runtime_checkable
class Sink(Protocol):
    """A place where results go."""

    @property
    def name(self) -> str:
        """The output as the user named it, credentials masked."""

    def open(self, info: OutputInfo) -> None:
        """Make ready: make missing directories, start encoders; nothing has its final name yet.

        Raises:
            SinkError: cannot be written, unknown container, refused codec.
        """

    def write(self, result: Result) -> None:
        """Take one result; its memory is shared with other sinks and must not be changed.

        Raises:
            SinkError: disk full, encoder failure, lost connection.
        """

    def write_audio(self, audio: AudioPacket) -> None:
        """Take one audio packet, which is shared as results are; a sink without audio ignores it.

        Raises:
            SinkError: as `write`.
        """

    def reconfigure(self, info: OutputInfo) -> None:
        """The pictures after this have another size or format (see the sink for what it does)."""

    def close(self) -> None:
        """Finish: flush, close, rename over the final name; also of a run that ends early.

        Harmless when repeated or never opened.  Without a single result nothing is written, and a
        warning logged.

        Raises:
            SinkError: as `write`.
        """

    def abort(self) -> None:
        """Give up: nothing of this run is left under the final name nor beside it, nor a directory made for it.

        Never raises; harmless when repeated, never opened, or closed already (then everything stays).
        """
