"""The sink that only counts."""

from __future__ import annotations

from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo
from pipeline.sources.base import AudioPacket


class NullSink:
    """Takes everything and keeps nothing.

    Attributes:
        frames: results taken since `open`.
        audio_packets: audio packets taken since `open`.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.audio_packets = 0

    @property
    def name(self) -> str:
        """``"null"``."""
        return "null"

    def open(self, info: OutputInfo) -> None:  # noqa: ARG002
        """Count from zero."""
        self.frames = self.audio_packets = 0

    def write(self, result: Result) -> None:  # noqa: ARG002
        """Count."""
        self.frames += 1

    def write_audio(self, audio: AudioPacket) -> None:  # noqa: ARG002
        """Count."""
        self.audio_packets += 1

    def reconfigure(self, info: OutputInfo) -> None:
        """Nothing changes."""

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to undo."""
