"""What every source promises.

A source is opened by constructing it, read from one thread by iterating `read`, and closed
once.  It retries nothing and owns no thread: deadlines are the media library's, and `reconnect`
alone makes one source of several connections.  Opening decodes the first picture, so that
`StreamInfo` tells what really comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, runtime_checkable

import av

from pipeline.errors import ConfigError
from pipeline.frame import Colour, Frame, PixelFormat
from pipeline.hwaccel import HwAccel, check_choice

_MOST = 1e9
"""Of seconds and of pictures a second: thirty years, in which exact fractions keep small."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How an input is opened and which part of it is played.

    Attributes:
        start: seconds after the first picture at which to begin, exact to the frame.
        duration: seconds to play from there, None for everything.
        max_frames: pictures to play at most, None for all.
        loop: how many times the part is played, 0 for ever; times continue rising.
        realtime: give the pictures out at the pace of their own times, as a live source does.
        rate: pictures a second of an image sequence, which has no times of its own.
        threads: decoder threads; 0 chooses (one up to 1080p, a few above).
        hwaccel: where video is decoded: "auto" by an NVIDIA GPU that is there and takes the stream, else in software;
            "none" in software; "cuda" by the GPU, or not at all; None: as the run says, else "auto".
        keep_up: leave out parts of a live stream that comes faster than it can be decoded, instead of falling behind.
        open_timeout: seconds that opening a pipe, camera or network stream may take.
        read_timeout: seconds of silence after which a pipe, camera or network stream counts as lost.
        reconnect: how often in a row a lost camera or network stream is tried again, None for ever, 0 never.
        rtsp_transport: how RTSP carries pictures: "tcp", "udp", or "auto" for TCP where the server has it.
        tls_verify: connect only to servers whose certificate the system's authorities stand for (https, rtsps, rtmps).
        video_size: width and height asked of a camera, as ``"1280x720"``; None for its own choice.
        framerate: pictures a second asked of a camera, None for its own choice.
        pixel_format: what a camera is asked to send, by libav's name (``"mjpeg"``, ``"yuyv422"`` …), None for its own
            choice.
        audio: also yield the packets of the first audio stream.
        deinterlace: "auto" deinterlaces pictures that are flagged interlaced, "off" leaves them.

    Raises:
        ConfigError: a value that makes no sense.
    """

    start: float | Fraction = 0
    duration: float | Fraction | None = None
    max_frames: int | None = None
    loop: int = 1
    realtime: bool = False
    rate: float | Fraction = 25
    threads: int = 0
    hwaccel: HwAccel | None = None
    keep_up: bool = True
    open_timeout: float = 10.0
    read_timeout: float = 10.0
    reconnect: int | None = None
    rtsp_transport: Literal["auto", "tcp", "udp"] = "auto"
    tls_verify: bool = True
    video_size: str | None = None
    framerate: float | None = None
    pixel_format: str | None = None
    audio: bool = True
    deinterlace: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        for name in ("start", "loop", "threads", "reconnect"):
            if not (getattr(self, name) or 0) >= 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("duration", "max_frames", "rate", "open_timeout", "read_timeout", "framerate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value}")
        for name in ("start", "duration", "rate", "open_timeout", "read_timeout", "framerate"):
            value = getattr(self, name)
            if value is not None and value > _MOST:
                raise ConfigError(f"{name} must be at most {_MOST:g}")
        if self.video_size is not None and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", self.video_size):
            raise ConfigError(f"video_size is width and height in pixels, such as 1280x720, not {self.video_size!r}")
        if self.rtsp_transport not in ("auto", "tcp", "udp"):
            raise ConfigError(f"rtsp_transport is auto, tcp or udp, not {self.rtsp_transport!r}")
        check_choice(self.hwaccel or "auto")
        if self.deinterlace not in ("auto", "off"):
            raise ConfigError(f"deinterlace is auto or off, not {self.deinterlace!r}")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream when it is opened.

    Attributes:
        name: short name of the input, unique in a run, fit for a file name.
        uri: where it comes from, credentials masked.
        height, width: picture size after rotation, in pixels; 0 where a live source is not there yet.
        format: layout of the planes that will come.
        colour: meaning of the samples, as tagged.
        sample_aspect_ratio: width : height of one pixel.
        time_base: tick of the container, in seconds.
        average_rate: frames a second as the container says (may lie), or None.
        start: time of the first picture of the whole stream, in seconds (often, not always, 0).
        duration: seconds, or None where unknown or endless.
        frames: number of frames expected (for progress only), or None.
        live: the source does not wait for its reader.
        audio: a template of the audio stream for a muxer, which outlives the source, or None.
        skipped: seconds after ``start`` at which the part begins that is played, as asked for.
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
    start: Fraction
    duration: Fraction | None
    frames: int | None
    live: bool
    audio: av.AudioStream | None = None
    skipped: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Outages:
    """How often and how long a live source was away.

    Attributes:
        seconds: without a connection, all in all; an outage that goes on is counted up to now.
        causes: (`pipeline.errors.SourceLostError.cause`, or ``"refused"``, outages that began so).
        now: it is away now.
    """

    seconds: float = 0.0
    causes: tuple[tuple[str, int], ...] = ()
    now: bool = False

    @property
    def count(self) -> int:
        """Outages, whatever their cause."""
        return sum(count for _, count in self.causes)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture: the frame, and the same memory as libav sees it.

    Attributes:
        frame: planes are read-only views of ``picture``, which they keep alive.
        picture: planar YUV of ``frame.format``, already rotated upright, for libswscale.  A full
            range one may bear libav's older name for the same layout (``yuvj420p``).
    """

    frame: Frame
    picture: av.VideoFrame


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """An encoded audio packet on its way to the muxer.

    Its times count from the same zero as the pictures' ``pts``: both are the container's own
    clock, and whoever shifts one must shift the other by the same seconds.

    Attributes:
        packet: libav's packet; pts and dts in ``packet.time_base``, dts never None.
    """

    packet: av.Packet[av.AudioStream]

    @property
    def time(self) -> Fraction:
        """Presentation time of its first sample, in seconds."""
        ticks = self.packet.pts if self.packet.pts is not None else self.packet.dts
        return (ticks or 0) * self.packet.time_base


def shift_times(packet: av.Packet[av.AudioStream], seconds: Fraction) -> None:
    """Move a packet's times, to the nearest tick."""
    ticks = round(seconds / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks


@runtime_checkable
class Source(Protocol):
    """A stream of pictures."""

    @property
    def info(self) -> StreamInfo:
        """What was known at opening."""

    @property
    def damaged(self) -> int:
        """Packets and frames that were lost, broken or only concealed so far."""

    @property
    def repaired(self) -> int:
        """Pictures so far whose missing or backward time was put right."""

    @property
    def skipped(self) -> int:
        """Packets of a live source so far that were not decoded, since the decoder could not keep up."""

    @property
    def decoder(self) -> str:
        """What decodes the pictures, such as ``"h264"`` or ``"h264 by NVDEC"``; empty while none has come."""

    @property
    def own_thread_s(self) -> float:
        """Processor seconds so far of a thread of its own; what it does in its reader's thread does not count."""

    @property
    def outages(self) -> Outages:
        """When a live source was away so far; none where it does not come back."""

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """Pictures in presentation order with the audio packets between them; one use.

        The frame size and format may change between pictures.  Frames' ``pts`` rise strictly.

        Raises:
            SourceError: the stream was lost, or the source is closed or was read before.
        """

    def wake(self) -> None:
        """Nobody wants more: `read` ends soon, and where it waits for time, a pipe or a camera, now.

        For any thread, at any time.
        """

    def close(self) -> None:
        """Give everything back; harmless when repeated; never called while `read` is inside libav."""
