"""What every source promises.

A source is opened by constructing it, read from one thread by iterating `read`, and closed
once.  It retries nothing and owns no thread: deadlines are the media library's, reconnection
is a wrapper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import av

from pipeline.frame import Colour, Frame, PixelFormat


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream when it is opened.

    Attributes:
        name: short name of the input, unique in a run, fit for a file name.
        uri: where it comes from, credentials masked.
        height, width: picture size after rotation, in pixels.
        format: layout of the planes that will come.
        colour: meaning of the samples, as tagged.
        sample_aspect_ratio: width : height of one pixel.
        time_base: tick of the container, in seconds.
        average_rate: frames a second as the container says (may lie), or None.
        duration: seconds, or None where unknown or endless.
        frames: number of frames expected (for progress only), or None.
        live: the source does not wait for its reader.
        audio: the audio stream to copy (its template for a muxer), or None.
    """

    name: str
    uri: str
    height: int
    width: int
    format: PixelFormat
    colour: Colour
    sample_aspect_ratio: Fraction
    time_base: Fraction
    average_rate: Fraction | None
    duration: Fraction | None
    frames: int | None
    live: bool
    audio: av.AudioStream | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture: the frame, and the same memory as libav sees it.

    Attributes:
        frame: planes are views of ``picture``; valid as long as it is held.
        picture: planar YUV of ``frame.format``, already rotated upright, for libswscale.
    """

    frame: Frame
    picture: av.VideoFrame


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """An encoded audio packet on its way to the muxer, times in the source's time base.

    Attributes:
        packet: libav's packet with its own time base.
    """

    packet: av.Packet


@runtime_checkable
class Source(Protocol):
    """A stream of pictures."""

    @property
    def info(self) -> StreamInfo:
        """What was known at opening."""

    @property
    def damaged(self) -> int:
        """Packets and frames that could not be decoded so far."""

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """Pictures in presentation order with the audio packets between them; one use.

        The frame size and format may change between pictures.  Frames' ``pts`` rise strictly.

        Raises:
            SourceError: the stream was lost, or nothing in it could be decoded.
        """

    def close(self) -> None:
        """Give everything back; harmless when repeated; never called while `read` is inside libav."""
