"""One container being written: an encoded picture stream, and the source's audio copied beside it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, cast

import av
from av.filter import Graph
from av.format import Flags

from pipeline.errors import SinkError
from pipeline.scheduling import scheduling_kept
from pipeline.sinks.encoders import Encoder, plausible_rate
from pipeline.sinks.picture import PictureFormat, range_code
from pipeline.sinks.target import Target, cannot_write
from pipeline.sources.base import shift_times

_LOG = logging.getLogger(__name__)
_WRITE_BYTES = 1 << 17
_ENDLESS = 1 << 62
_ASSUMED_RATE = Fraction(25)

LASTING = ("matroska", "webm")
"""Containers that play as far as they were written."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How pictures become a stream.

    Attributes:
        encoder: the video encoder.
        options: its options.
        picture: what the pictures look like.
        time_base: tick of the source, in seconds.
        rate: frames a second as the source says, for headers, rate control and the last frame's
            duration only.
        threads: threads of the encoder, 0 for its own choice.
        zero: time of the source that is 0 in the container, in seconds; for pictures and audio.
    """

    encoder: Encoder
    options: dict[str, str]
    picture: PictureFormat
    time_base: Fraction
    rate: Fraction | None
    threads: int = 0
    zero: Fraction = Fraction(0)


class Muxer:
    """Encodes pictures and writes them with their own times.

    The encoder counts in the source's ticks, so that a variable frame rate comes through as it is;
    the container rounds to its own tick (1 ms in Matroska, exact in MP4 and MOV).

    Args:
        target: takes the bytes; finished or discarded by the caller.
        container: libav's name of the container.
        coding: how pictures become a stream.
        audio: stream to copy, or None; left out with a warning where the container cannot hold it.
        prompt: hand on every packet at once (somebody watches), instead of in large writes.
        lasting: hand on what was made every second, so that a crash loses no more (Matroska and WebM alone).
        tags: metadata of the container.

    Raises:
        SinkError: the encoder or the container refuses.
    """

    def __init__(
        self,
        target: Target,
        container: str,
        coding: Coding,
        *,
        audio: av.AudioStream | None = None,
        prompt: bool = False,
        lasting: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._time_base, self._zero = coding.time_base, coding.zero
        rate = plausible_rate(coding.rate)
        self._nominal = _ticks(1 / rate, coding.time_base) if rate else None
        self._length = self._nominal or _ticks(1 / _ASSUMED_RATE, coding.time_base)
        self._last = -_ENDLESS
        self._last_audio = -_ENDLESS
        self._warned_of_audio = False
        self._audio: av.AudioStream | None = None
        encoder, picture = coding.encoder, coding.picture
        encoder.quiet()
        with self._translated(f"{encoder.name} at {picture.width}×{picture.height}"):
            self._container = av.open(
                target,
                "w",
                format=container,
                buffer_size=_WRITE_BYTES,
                container_options=_options(container, prompt, lasting),
            )
            self._container.metadata.update(tags or {})
            self._video = add_video(self._container, coding)
            if container in encoder.tags:
                self._video.codec_context.codec_tag = encoder.tags[container]
            if audio is not None and _holds(container, audio):
                self._audio = self._container.add_stream_from_template(audio)
            elif audio is not None:
                _LOG.warning("%s: %s cannot hold %s audio; it is left out", target.name, container, audio.codec.name)
            with scheduling_kept():
                self._container.start_encoding()
        # FFV1 takes the pixel aspect from the pictures, which only a filter can put there.
        stamp = encoder.name == "ffv1" and picture.sample_aspect_ratio != 1
        self._aspect = _aspect_filter(picture, coding.time_base) if stamp else None

    def write(self, picture: av.VideoFrame, pts: Fraction) -> None:
        """Encode one picture that is shown at ``pts`` seconds.

        Raises:
            SinkError: the encoder failed, or bytes could not be written.
        """
        tick = round((pts - self._zero) / self._time_base)
        if tick <= self._last:  # one bad time must not end the run; muxers refuse any that does not rise
            tick = self._last + 1
        if self._nominal is not None:
            self._length = self._nominal
        elif self._last > -_ENDLESS:
            self._length = tick - self._last
        self._last = tick
        picture.pts = tick
        picture.time_base = self._time_base
        with self._translated("the encoder"):
            if self._aspect is not None:
                self._aspect.vpush(picture)
                picture = self._aspect.vpull()
            self._encode(picture)

    def _encode(self, picture: av.VideoFrame | None) -> None:
        for packet in self._video.encode(picture):
            # Containers end a frame where the next begins; this tells the end of the last one.
            packet.duration = self._length
            self._container.mux(packet)

    def write_audio(self, packet: av.Packet[Any]) -> None:
        """Copy one packet; ignored where the container has no audio stream.

        Raises:
            SinkError: bytes could not be written.
        """
        if self._audio is None or packet.dts is None:
            return
        copy = _copied(packet)
        shift_times(copy, -self._zero)
        dts = self._audio_tick(copy)
        if dts <= self._last_audio:
            if not self._warned_of_audio:
                _LOG.warning("%s: audio whose time does not rise is left out", self._target.name)
                self._warned_of_audio = True
            return
        self._last_audio = dts
        copy.stream = self._audio
        with self._translated("the audio copy"):
            self._container.mux(copy)

    def _audio_tick(self, packet: av.Packet[Any]) -> int:
        """A packet's decoding time in ticks that have to rise: the container's, which may be coarser, or its own."""
        assert self._audio is not None and packet.dts is not None and packet.time_base is not None
        if self._container.format.flags & cast(int, Flags.ts_nonstrict.value):
            return packet.dts
        exact = packet.dts * packet.time_base / (self._audio.time_base or packet.time_base)
        return floor(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)  # as libav rounds

    def finish(self) -> None:
        """Write what the encoder still holds, and the container's index.

        Raises:
            SinkError: as `write`.
        """
        with self._translated("the encoder"):
            self._encode(None)
            self._container.close()

    def abandon(self) -> None:
        """Let go of encoder and container; the target should be discarded before."""
        # An encoder's threads may wait for Python's lock to log a line, and freeing the encoder
        # waits for them with that lock held: so let them come to rest first.
        with suppress(av.FFmpegError, OSError, ValueError):
            self._video.encode(None)
        with suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    @contextmanager
    def _translated(self, who: str) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, ValueError, OSError) as error:
            self._target.check()  # the true reason, if it was bytes that could not be written
            raise SinkError(f"{cannot_write(self._target.name, error)} ({who})") from error
        self._target.check()


def _ticks(seconds: Fraction, time_base: Fraction) -> int:
    return max(1, round(seconds / time_base))


def add_video(container: av.container.OutputContainer, coding: Coding) -> av.VideoStream:
    """A container's picture stream, with its encoder not opened yet.

    Raises:
        av.FFmpegError, ValueError: the container or the encoder refuses.
    """
    rate = plausible_rate(coding.rate) or _ASSUMED_RATE
    stream = container.add_stream(coding.encoder.name, rate, options=coding.options)
    assert isinstance(stream, av.VideoStream)
    picture = coding.picture
    stream.time_base = coding.time_base
    context = stream.codec_context
    context.time_base = coding.time_base
    context.width = picture.width
    context.height = picture.height
    context.pix_fmt = picture.layout
    context.sample_aspect_ratio = picture.sample_aspect_ratio
    context.thread_count = coding.threads
    context.colorspace = picture.colour.space
    context.color_range = range_code(picture.colour)
    context.color_primaries = picture.colour.primaries
    context.color_trc = picture.colour.transfer
    return stream


def _options(container: str, prompt: bool, lasting: bool) -> dict[str, str]:
    # Audio may begin before zero (encoder priming).  MP4 and MOV keep that; Matroska would shift
    # both streams instead, although its blocks can lie before their cluster.
    #
    # No `movflags=faststart`: it writes the whole file twice at the end, for the sake of players
    # on the web that cannot ask for a part of a file.
    if container not in LASTING:
        return {"flush_packets": "1"} if prompt else {}
    options = {"avoid_negative_ts": "disabled"}
    # Matroska would collect five seconds of packets in a cluster; a cluster for each is 13 bytes more.
    milliseconds = "0" if prompt else "1000"
    return options | ({"flush_packets": "1", "cluster_time_limit": milliseconds} if prompt or lasting else {})


def plays(path: Path) -> bool:
    """Whether there is a picture in a file, whole or not."""
    try:
        with av.open(str(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.FFmpegError, OSError, IndexError, ValueError):
        return False


def _holds(container: str, audio: av.AudioStream) -> bool:
    """Whether a container takes this audio: asked by writing its header into memory."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as probe:
            probe.add_stream_from_template(audio)
            probe.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _copied(packet: av.Packet[Any]) -> av.Packet[Any]:
    """A packet of one's own: muxing changes it, and other sinks get the same one."""
    copy: av.Packet[Any] = av.Packet(bytes(packet))
    copy.time_base = packet.time_base
    copy.pts = packet.pts
    copy.dts = packet.dts
    copy.duration = packet.duration
    copy.is_keyframe = packet.is_keyframe
    for side_data in packet.iter_sidedata():
        side_data.to_packet(copy)
    return copy


def _aspect_filter(picture: PictureFormat, time_base: Fraction) -> Graph:
    graph = Graph()
    aspect = picture.sample_aspect_ratio
    layout = av.VideoFormat(picture.layout, picture.width, picture.height)
    entry = graph.add_buffer(width=picture.width, height=picture.height, format=layout, time_base=time_base)
    graph.link_nodes(entry, graph.add("setsar", f"{aspect.numerator}/{aspect.denominator}"), graph.add("buffersink"))
    graph.configure()
    return graph
