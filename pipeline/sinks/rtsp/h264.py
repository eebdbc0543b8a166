"""Pictures as H.264 in RTP packets (RFC 6184), and their description (RFC 4566)."""

from __future__ import annotations

import base64
import re
import secrets
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import av
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags
from av.video.frame import PictureType

from pipeline.errors import SinkError
from pipeline.frame import FORMATS, Frame
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import KEYFRAMES_ASKED_FOR, Encoder, VideoOptions
from pipeline.sinks.muxer import Coding, add_video
from pipeline.sinks.nvenc import h264_choice
from pipeline.sinks.picture import Painter, PictureFormat
from pipeline.sinks.target import cannot_write

CLOCK = 90_000
"""Ticks of RTP's clock for video in a second."""

PACKET_BYTES = 1400
"""Largest RTP packet: fits an Ethernet frame with IPv6 and some tunnel's headers."""

PAYLOAD_TYPE = 96
KEYFRAME_S = Fraction(2)
"""Longest time between two keyframes."""

RECENT_S = Fraction(1, 4)
"""Time after a keyframe in which nobody can ask for another, however many come and go."""

ASKED_S = Fraction(1)
ASKED_IN_A_ROW = 4
"""Keyframes that may be asked for at once; then it is one in `ASKED_S`, so that nobody spoils the picture of all."""

_HEADER = struct.Struct(">HII")


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One picture as it goes over the wire.

    Attributes:
        packets: RTP packets, the last one marked.
        picture: the same without RTP, as the encoder writes it (Annex B).
        tick: its time from the first picture on, in `CLOCK`.
        keyframe: a decoder can begin here.
        sequence: number of the first packet.
        timestamp: of all of them.
        wall_ns: ``time.time_ns()`` when the picture was captured.
    """

    packets: tuple[bytes, ...]
    picture: bytes
    tick: int
    keyframe: bool
    sequence: int
    timestamp: int
    wall_ns: int


class _Packets:
    """Takes what libav's packetiser writes: a packet a call."""

    def __init__(self) -> None:
        self.taken: list[bytearray] = []

    def write(self, data: bytes) -> int:
        self.taken.append(bytearray(data))
        return len(data)


class H264Stream:
    """Encodes one stream's pictures without delay; numbers and times go on over a change of size.

    Every keyframe carries the parameter sets, so that whoever is connected while the size changes can
    follow.  Layouts other than 8-bit 4:2:0, which players over RTSP seldom decode, are converted.

    Args:
        name: the output, for messages.
        options: quality and threads of the encoder.
        profile: of H.264, where players take but one; None for the encoder's choice.

    Attributes:
        ssrc: RTP's number of the stream.
        encoder: libav's name of the encoder; empty before `configure`.
        parameter_sets: SPS and PPS of the current size.
    """

    def __init__(self, name: str, options: VideoOptions, profile: str | None = None) -> None:
        self._name = name
        self._profile = {} if profile is None else {"profile": profile}
        self._options = options
        self._encoders = h264_choice(options)
        self.ssrc = secrets.randbits(32)
        self.parameter_sets: tuple[bytes, ...] = ()
        self._sequence = secrets.randbits(16)
        self._base = secrets.randbits(32)
        self._tick = -1
        self._zero: Fraction | None = None
        self._last_key: Fraction | None = None
        self._asked = Fraction(0)
        self._packets = _Packets()
        self.encoder = ""
        self._container: av.container.OutputContainer | None = None

    def configure(self, info: OutputInfo) -> None:
        """Make ready for pictures of this size and format.

        Raises:
            SinkError: the encoder refuses.
            HardwareError: a GPU was demanded that encodes nothing here.
        """
        width, height = info.width + info.width % 2, info.height + info.height % 2
        self._encoders.begin(width, height, FORMATS["yuv420p"], lambda encoder: self._start(encoder, info))

    def _start(self, encoder: Encoder, info: OutputInfo) -> None:
        self.close()
        stream = info.stream
        aspect = stream.sample_aspect_ratio if stream.sample_aspect_ratio > 0 else Fraction(1)
        width, height = info.width + info.width % 2, info.height + info.height % 2
        picture = PictureFormat(width, height, "yuv420p", stream.colour, aspect)
        self._painter = Painter(picture, info.width, info.height)
        self.encoder = encoder.name
        options = encoder.options(self._options.quality, prompt=True) | self._profile | KEYFRAMES_ASKED_FOR
        tick = Fraction(1, CLOCK)
        coding = Coding(encoder, options, picture, tick, stream.average_rate, self._options.threads)
        try:
            container = av.open(
                self._packets,
                "w",
                format="rtp",
                buffer_size=PACKET_BYTES,
                container_options={"rtpflags": "skip_rtcp", "payload_type": str(PAYLOAD_TYPE)},
            )
            self._container = container
            self._video = add_video(container, coding)
            context = self._video.codec_context
            context.flags |= Flags.global_header  # tells the parameter sets at once
            container.start_encoding()
            self._headers = BitStreamFilterContext("dump_extra", self._video)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise SinkError(f"{cannot_write(self._name, error)} (the encoder at {width}×{height})") from error
        self.parameter_sets = _units(context.extradata or b"")
        self._last_key = None

    def encode(self, frame: Frame, *, key: bool) -> AccessUnit | None:
        """One picture's packets; None where the encoder gave none.

        Args:
            frame: the picture.
            key: make it a keyframe if the last one is not quite recent and not too many were asked for; where the
                last one is `KEYFRAME_S` ago it becomes one anyway.

        Raises:
            SinkError: the encoder failed.
        """
        assert self._container is not None
        pts = frame.pts
        if self._zero is None:
            self._zero = pts
        tick = max(self._tick + 1, round((pts - self._zero) * CLOCK))
        self._tick = tick
        picture = self._painter.paint(frame)
        if self._key_due(pts, asked=key):
            picture.pict_type = PictureType.I
            self._last_key = pts
        else:
            picture.pict_type = PictureType.NONE
        picture.pts = tick
        picture.time_base = Fraction(1, CLOCK)
        keyframe, written = False, b""
        self._packets.taken.clear()
        try:
            for packet in self._with_headers(self._video.encode(picture)):
                keyframe = keyframe or packet.is_keyframe
                written += bytes(packet)
                self._container.mux(packet)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise SinkError(f"{cannot_write(self._name, error)} (the encoder)") from error
        return self._numbered(written, tick, keyframe, frame.wall_ns)

    def _key_due(self, pts: Fraction, *, asked: bool) -> bool:
        if self._last_key is None or pts < self._last_key:
            self._asked = pts
            return True
        since = pts - self._last_key
        if since >= KEYFRAME_S or not asked or since < RECENT_S:
            return since >= KEYFRAME_S
        spent = max(self._asked, pts)  # the generic cell rate algorithm (ITU-T I.371)
        if spent - pts > (ASKED_IN_A_ROW - 1) * ASKED_S:
            return False
        self._asked = spent + ASKED_S
        return True

    def _with_headers(self, packets: list[av.Packet[av.VideoStream]]) -> Iterator[av.Packet[av.VideoStream]]:
        """Parameter sets in front of every keyframe; encoders that tell them beforehand leave them out."""
        for packet in packets:
            for each in self._headers.filter(packet):
                each.stream = self._video
                yield each

    def _numbered(self, written: bytes, tick: int, keyframe: bool, wall_ns: int) -> AccessUnit | None:
        packets = self._packets.taken
        if not packets:
            return None
        first, timestamp = self._sequence, (self._base + tick) & 0xFFFFFFFF
        for packet in packets:
            _HEADER.pack_into(packet, 2, self._sequence, timestamp, self.ssrc)
            self._sequence = (self._sequence + 1) & 0xFFFF
        return AccessUnit(tuple(map(bytes, packets)), written, tick, keyframe, first, timestamp, wall_ns)

    def close(self) -> None:
        """Let go of the encoder; harmless when repeated."""
        if self._container is None:
            return
        # An encoder's threads must come to rest before it is freed, see `Muxer.abandon`.
        with suppress(av.FFmpegError, OSError, ValueError):
            self._video.encode(None)
        with suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()
        self._container = None
        self._packets.taken.clear()


def description(parameter_sets: tuple[bytes, ...], name: str, *, version: int, ipv6: bool) -> str:
    """The session's description (SDP).

    Args:
        parameter_sets: SPS and PPS.
        name: of the stream.
        version: rises when the description changes.
        ipv6: the client has come over IPv6.
    """
    family, host, anywhere = ("IP6", "::1", "::") if ipv6 else ("IP4", "127.0.0.1", "0.0.0.0")
    sets = ",".join(base64.b64encode(each).decode() for each in parameter_sets)
    profile = next((each[1:4].hex() for each in parameter_sets if each[0] & 31 == 7), "42e01f")
    lines = (
        "v=0",
        f"o=- 1 {version} IN {family} {host}",
        f"s={name or '-'}",
        f"c=IN {family} {anywhere}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1; profile-level-id={profile}; sprop-parameter-sets={sets}",
        f"a=control:{TRACK}",
    )
    return "".join(f"{line}\r\n" for line in lines)


TRACK = "trackID=0"


def _units(annex_b: bytes) -> tuple[bytes, ...]:
    """NAL units between start codes."""
    return tuple(unit.rstrip(b"\0") for unit in re.split(rb"\x00\x00\x00?\x01", annex_b) if unit)
