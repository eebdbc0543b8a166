"""Packets of the chosen streams of one container; damage is counted, not fatal."""

from __future__ import annotations

import errno
import io
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container import InputContainer
from av.container.core import Flags as ContainerFlags
from av.format import Flags
from av.stream import Discard, Disposition

from pipeline.errors import SourceError, SourceLostError
from pipeline.sources import libav_log
from pipeline.sources.pictures import MAX_SIDE
from pipeline.sources.target import DeadlinePipe, Target, Waiting, open_container

_log = logging.getLogger(__name__)

_NOMINAL_RATE = Fraction(25)

_MAX_RATE = 1000
"""Frames a second; above it, the tick of the container was taken for the rate."""

_WAITED_NS = 1_000_000
"""What is there already takes less."""

MAX_FAILURES = 100
"""Reads that may fail one after the other before a file counts as ended."""


class Demuxer:
    """Owns the container: choosing streams, reading packets, seeking, closing."""

    def __init__(self, target: Target, *, audio: bool, on_gpu: bool = False) -> None:
        """Open, and choose the best video stream and, if asked, the first audio stream; ``on_gpu`` as `open_container`.

        Sets `tick`, the resolution of the pictures' times in seconds, and `rate`, which is None
        except for containers that have no times at all (raw H.264 and the like).

        Raises:
            SourceError: cannot be opened, or holds no video that can be decoded.
        """
        self.target = target
        self.damaged = 0
        self.woken = False
        self._read = 0
        self._waiting: Waiting | None = None
        self.container: InputContainer = open_container(target, on_gpu=on_gpu)
        # What came while libav looked for the codec has waited for nobody's decoder.
        self.drained_ns = time.monotonic_ns()
        try:
            self.video = _video_stream(self.container, target)
        except BaseException:
            self.close()
            raise
        # PyAV asks libav to invent missing times, which it does wrongly where pictures are reordered.
        self.container.flags &= ~cast(int, ContainerFlags.gen_pts.value)
        self.audio = _audio_stream(self.container, target.shown) if audio else None
        self._camera = _camera_descriptor(target) if target.format == "v4l2" else None
        self._waiting = Waiting() if self._camera is not None else None
        self.tick = self.video.time_base or Fraction(1, 1_000_000)
        self.rate: Fraction | None = None
        if self.container.format.flags & cast(int, Flags.no_timestamps.value):
            # The average is a default here; the guess heeds what the codec itself tells.
            self.rate = self.video.guessed_rate or self.video.average_rate or _NOMINAL_RATE
            self.tick = 1 / self.rate
        for stream in self.container.streams:
            if stream not in (self.video, self.audio):
                stream.discard = Discard.all

    @property
    def live(self) -> bool:
        """Does not wait for its reader; a network stream without size or duration counts as such."""
        if self.target.live is None:
            # The size of a playlist tells nothing.
            return self.container.duration is None and (self.in_segments or self.container.size <= 0)
        return self.target.live

    @property
    def in_segments(self) -> bool:
        """Many pictures come at once, and then none for a while: HLS, DASH."""
        return not {"hls", "dash"}.isdisjoint(self.container.format.name.split(","))

    @property
    def start(self) -> Fraction:
        """Time of the first picture in seconds, as the container says."""
        return (self.video.start_time or 0) * self.tick

    @property
    def duration(self) -> Fraction | None:
        """Seconds, or None."""
        if self.live:
            return None
        if self.video.duration:
            return self.video.duration * self.tick
        if not self.container.duration or self.container.duration < 0:
            return None
        duration = Fraction(self.container.duration, 1_000_000)
        # Matroska tells when the last stream ends, not how long it is.
        late = "matroska" in self.container.format.name and 0 < self.start < duration
        return duration - self.start if late else duration

    @property
    def length(self) -> Fraction | None:
        """Seconds of the video itself, None where only that of the longest stream is known."""
        if self.live:
            return None
        if self.video.duration:
            return self.video.duration * self.tick
        # Matroska's muxers write down for people when each stream ends.
        end = _seconds_of(self.video.metadata.get("DURATION", ""))
        if end is not None and end > self.start:
            return end - self.start
        return self.duration if len(self.container.streams) == 1 else None

    @property
    def expected_frames(self) -> int | None:
        """Frames by length and rate, where the container does not count them: Matroska, transport streams."""
        duration, rate = self.duration, self.video.average_rate
        if not duration or not rate or self.rate or not 0 < rate <= _MAX_RATE:
            return None
        return max(round(duration * rate), 1)

    def cut_off(self) -> int:
        """Pictures whose bytes begin beyond the file's end, by its index; 0 where that does not tell (Matroska)."""
        missing, size, entries = 0, self.container.size, self.video.index_entries
        if not self.live and size > 0:
            while missing < len(entries) and entries[-1 - missing].pos >= size and entries[-1 - missing].size:
                missing += 1
        return missing

    @property
    def index_last(self) -> bool:
        """An MP4 of which nothing could be read, since its index comes last and a pipe does not go back to the rest."""
        pipe = isinstance(self.target.url, DeadlinePipe)
        return pipe and not self._read and self.damaged > 0 and "mp4" in self.container.format.name.split(",")

    def packets(self) -> Iterator[tuple[av.Packet[av.VideoStream] | av.Packet[av.AudioStream], int]]:
        """Packets in file order, each with the monotonic nanoseconds of its arrival.

        Sets `drained_ns`, when the input was empty last: whether packets come faster than they are taken.

        Raises:
            SourceLostError: a camera or network stream fell silent, was cut, or ended though it is live.
            SourceError: a pipe fell silent, or a web server's file cannot be read from where its pictures are.
        """
        failures = 0
        streams = (self.video, self.audio) if self.audio is not None else (self.video,)
        while failures < MAX_FAILURES:
            reader = self.container.demux(*streams)
            try:
                asked = time.monotonic_ns()
                while (packet := self._next(reader)) is not None:
                    arrived = time.monotonic_ns()
                    if arrived - asked > _WAITED_NS:
                        self.drained_ns = arrived
                    failures = 0
                    self._read += 1
                    libav_log.relay()
                    if self._camera is not None and packet.size:
                        packet = _copied(packet)
                    if packet.size or packet.dts is not None:  # else libav's signal to flush
                        yield packet, arrived
                    if self._silent(arrived - asked):
                        raise self._lost(av.TimeoutError(errno.ETIMEDOUT, "silent"))
                    asked = time.monotonic_ns()
                break
            except av.FFmpegError as error:
                if self.woken:
                    break
                if self.live or self.target.network or isinstance(error, av.ExitError):
                    raise self._lost(error) from error
                failures += 1
                self.damaged += 1
            finally:
                reader.close()  # type: ignore[attr-defined]
        if failures >= MAX_FAILURES:
            _log.warning("%s: %d reads failed one after the other; taken as the end", self.target.shown, failures)
        if self.live and self.target.endless and not self.woken:
            raise SourceLostError(f"{self.target.shown}: lost, the stream ended", cause="ended")

    def _next(self, reader: Iterator[av.Packet[Any]]) -> av.Packet[Any] | None:
        """A packet as soon as there is one; None at the end, and after `wake`."""
        if not self._ready():
            return None
        try:
            return next(reader, None)
        except IndexError:  # at the end PyAV flushes streams that began in mid-file, too, which it does not know
            return None

    def _ready(self) -> bool:
        """Wait until a camera has a picture: libav would wait for it without end; False after `wake`.

        Raises:
            SourceLostError: it gave nothing in time.
        """
        if self._camera is None or self._waiting is None:
            return not self.woken
        timeout = self.target.read_timeout
        if not self._waiting.until_ready(self._camera, timeout) and not self.woken:
            message = f"{self.target.shown}: lost, the camera gave no picture for {timeout or 0:g} s"
            raise SourceLostError(message, cause="silent")
        return not self.woken

    def _silent(self, waited_ns: int) -> bool:
        """Whether a packet came that libav's parser had held back when time was up: it hides the error."""
        timeout = self.target.read_timeout
        return self.target.network and self.live and timeout is not None and waited_ns >= timeout * 1e9

    def wake(self) -> None:
        """End `packets` soon, and a wait for a pipe or camera now; for any thread."""
        self.woken = True
        for each in (self._waiting, self.target.url):
            if isinstance(each, Waiting | DeadlinePipe):
                each.wake()

    def _lost(self, error: av.FFmpegError) -> SourceError:
        if isinstance(error, av.ExitError | av.TimeoutError):
            message = f"{self.target.shown}: lost, nothing came for {self.target.read_timeout or 0:g} s"
            return SourceLostError(message, cause="silent")
        if self.target.seekable and not self._read and error.errno == errno.EIO:
            return SourceError(
                f"{self.target.shown}: no picture can be read ({error.strerror}); if its index is at the end, the "
                "server must give ranges of it: download the file, or write it with -movflags +faststart"
            )
        return SourceLostError(f"{self.target.shown}: lost ({error.strerror})", cause="cut")

    def seek(self, moment: Fraction) -> bool:
        """Go to a keyframe at or before ``moment`` seconds; False where the input cannot."""
        if not self.target.seekable or self.live or self.rate:
            return False
        try:
            self.container.seek(int(moment / self.tick), stream=self.video)
        except (av.FFmpegError, OverflowError):
            return False
        return True

    def close(self) -> None:
        """Give everything back; harmless when repeated."""
        self.container.close()
        for each in (self._waiting, self.target.url):
            if isinstance(each, Waiting | DeadlinePipe):
                each.close()


def muxer_template(stream: av.AudioStream) -> av.AudioStream:
    """A stream like ``stream`` that outlives its container, for `OutputContainer.add_stream_from_template`.

    libav frees a container's streams when it is closed, and PyAV's objects would point at nothing.
    """
    # This muxer takes every codec; nothing is ever written.
    holder = av.open(io.BytesIO(), "w", format="framecrc")
    return holder.add_stream_from_template(stream)


def _copied(packet: av.Packet[Any]) -> av.Packet[Any]:
    """The same with memory of its own.

    A camera's packets, and the raw pictures decoded from them, lie in the driver's few buffers.  They are given
    back through libav's device, which must not be closed by then, and the camera stops while all of them are held.
    """
    own: av.Packet[Any] = av.Packet(packet.size)
    own.update(memoryview(packet))  # type: ignore[arg-type]  # takes every buffer
    own.stream, own.time_base = packet.stream, packet.time_base
    own.pts, own.dts, own.duration = packet.pts, packet.dts, packet.duration
    own.is_keyframe = packet.is_keyframe
    return own


def _camera_descriptor(target: Target) -> int | None:
    """The descriptor through which libav reads the device; PyAV does not tell it."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if link.readlink() == Path(str(target.url)):
                return int(link.name)
    return None


def _audio_stream(container: InputContainer, shown: str) -> av.AudioStream | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    others = len(container.streams.audio) - 1 + len(container.streams.subtitles)
    if others:
        _log.warning(
            "%s: of its sound the first track is kept; %d more tracks and subtitles are left out", shown, others
        )
    codec: object = stream.codec_context
    if codec is None:
        _log.warning("%s: its audio codec is unknown to this build of libav; the audio is left out", shown)
        return None
    return stream


def _video_stream(container: InputContainer, target: Target) -> av.VideoStream:
    shown = target.shown
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = sorted({s.type for s in container.streams})
        raise SourceError(f"{shown}: holds no video ({', '.join(kinds) or 'no stream at all'})")
    if stream.codec_context is None:
        raise SourceError(f"{shown}: its video codec is unknown to this build of libav; convert it first (ffmpeg -i …)")
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE or width * height > target.max_pixels:
        bound = f"{MAX_SIDE} a side and {target.max_pixels:,} pixels"
        raise SourceError(f"{shown}: pictures of {width}×{height} are above the bound of {bound}")
    return stream


def _seconds_of(clock: str) -> Fraction | None:
    """Of a time such as ``00:01:30.500000000``; None if it is none."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", clock.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) if found else None
