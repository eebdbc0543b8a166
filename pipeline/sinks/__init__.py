"""Where results go: `open_output` for pictures, `open_masks` for labels."""

from __future__ import annotations

from pipeline.sinks.base import Encoding, Live, OutputInfo, Sink
from pipeline.sinks.encoders import VideoOptions
from pipeline.sinks.opening import check_writable, is_watched, open_masks, open_output, wants_plain
from pipeline.sinks.segments import RecordOptions
from pipeline.sinks.serve.options import ServeOptions

__all__ = [
    "Encoding",
    "Live",
    "OutputInfo",
    "RecordOptions",
    "ServeOptions",
    "Sink",
    "VideoOptions",
    "check_writable",
    "is_watched",
    "open_masks",
    "open_output",
    "wants_plain",
]
