"""Where frames come from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from pipeline.sources.av import AvSource
from pipeline.sources.base import AudioPacket, Decoded, Source, SourceOptions, StreamInfo
from pipeline.sources.target import Target
from pipeline.sources.uri import mask_uri, short_name

__all__ = [
    "AudioPacket",
    "Decoded",
    "Source",
    "SourceOptions",
    "StreamInfo",
    "mask_uri",
    "open_source",
]

_DEFAULTS = SourceOptions()


def open_source(uri: str, options: SourceOptions = _DEFAULTS, name: str | None = None) -> Source:
    """Open an input.

    Args:
        uri: a file.
        options: which part of it, and how.
        name: of the input; by default made from the URI.

    Raises:
        SourceError: it cannot be opened or holds no pictures.
    """
    target = Target(f"file:{Path(uri)}", mask_uri(uri))
    return AvSource(
        target,
        name=name or short_name(uri),
        start=Fraction(options.start).limit_denominator(1_000_000),
        audio=options.audio,
        threads=options.threads,
        deinterlace=options.deinterlace == "auto",
    )
