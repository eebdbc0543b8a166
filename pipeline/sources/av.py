"""Video through libav: files, pipes, network streams, cameras, filter graphs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av

from pipeline.errors import SourceError, SourceLostError
from pipeline.frame import Frame
from pipeline.hwaccel import HwAccel
from pipeline.sources.base import AudioPacket, Decoded, Outages, StreamInfo
from pipeline.sources.decoding import Decoding
from pipeline.sources.demux import muxer_template
from pipeline.sources.live import Watch
from pipeline.sources.pictures import Picture, Upright, pixel_aspect, plane_views
from pipeline.sources.target import Target
from pipeline.sources.timestamps import Timestamps

_log = logging.getLogger(__name__)

MAX_BROKEN = 1000
"""Packets of a file that may fail to decode one after the other before it is given up."""

_FULL_HD = 1920 * 1088
_SLACK = Fraction(1, 2)

_STEPS_BACK = (Fraction(0), Fraction(1, 2), Fraction(2), Fraction(20))


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What is known of a picture besides its pixels and its time."""

    captured_ns: int
    wall_ns: int
    gap: bool


@dataclass(frozen=True, slots=True)
class _Landing:
    """The first picture that was decoded from where the demuxer stood: its time, and whether it is its own."""

    pts: Fraction
    own: bool


class AvSource:
    """A stream that libav demultiplexes and decodes; see `Source` for what it promises."""

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        start: Fraction = Fraction(0),
        audio: bool = True,
        threads: int = 0,
        hwaccel: HwAccel = "none",
        deinterlace: bool = True,
        keep_up: bool = True,
    ) -> None:
        """Open and decode the first picture.

        Args:
            target: what to open.
            name: of the input.
            start: seconds after the first picture; earlier ones are decoded at most, not given out.
            audio: also read the first audio stream.
            threads: decoder threads, 0 to choose.  More than one decode whole frames side by side,
                which may lose the last few of a damaged file.
            hwaccel: as `SourceOptions`.
            deinterlace: deinterlace pictures that are flagged interlaced.
            keep_up: leave out parts of a live stream that comes faster than it can be decoded.

        Raises:
            SourceError: cannot be opened, holds no video, or nothing in it can be decoded.
            HardwareError: NVDEC was demanded, and is missing.
        """
        self.outages = Outages()
        self.own_thread_s = 0.0
        self._name = name
        self._target = target
        self._used = self._closed = self._told = False
        self._audio = audio
        self._threads = threads
        self._decoding = Decoding(target.shown, hwaccel)
        self._deinterlace = deinterlace
        self._keep_up = keep_up
        self._cut: Fraction | None = None
        self._size: tuple[int, int] | None = None
        self._open()
        try:
            self._begin(start)
            self._info = self._describe()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> StreamInfo:
        """What was known at opening."""
        return self._info

    @property
    def in_segments(self) -> bool:
        """A live source whose pictures come many at once, and then none for a while."""
        return self._info.live and self._demuxer.in_segments

    @property
    def damaged(self) -> int:
        """Packets and frames that were lost, broken or only concealed so far."""
        return self._damaged + self._demuxer.damaged

    @property
    def decoder(self) -> str:
        """As `Source`."""
        return self._decoding.name

    @property
    def skipped(self) -> int:
        """As `Source`."""
        return 0 if self._watch is None else self._watch.skipped

    @property
    def repaired(self) -> int:
        """Pictures so far whose missing or backward time was put right."""
        return self._stamps.repaired

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """Pictures in presentation order with the audio packets between them; one use.

        Raises:
            SourceError: the stream was lost, or the source is closed or was read before.
        """
        if self._closed or self._used:
            raise SourceError(f"{self._target.shown}: {'closed' if self._closed else 'read before'}; open it again")
        self._used = True
        return chain(self._primed, self._items)

    def wake(self) -> None:
        """As `Source`."""
        self._demuxer.wake()

    def close(self) -> None:
        """Give everything back; harmless when repeated; never called while `read` is inside libav."""
        if self._closed:
            return
        self._closed = True
        self._let_go()
        self._primed.clear()

    def _open(self) -> None:
        self._demuxer = self._decoding.open(self._target, audio=self._audio)
        self._codec = self._demuxer.video.codec_context
        threads = self._threads
        if threads == 0:
            large = self._codec.width * self._codec.height > _FULL_HD
            threads = min(4, os.cpu_count() or 1) if large else 1
        self._codec.thread_count = threads
        self._codec.thread_type = "SLICE" if self._demuxer.live or threads == 1 else "FRAME"
        self._codec.options = {"max_pixels": str(self._target.max_pixels)}
        self._sample_aspect_ratio = pixel_aspect(self._demuxer.video.sample_aspect_ratio)
        self._restart()

    def _let_go(self) -> None:
        self._items.close()
        # Parks decoder threads without Python's lock; freeing the decoder would wait for them
        # while holding it, and one of them may be waiting for it to log a line.
        self._codec.flush_buffers()
        self._demuxer.close()

    def _restart(self) -> None:
        """Play from where the demuxer stands."""
        self._damaged = self._demuxer.damaged = self._broken = self._index = 0
        self._gap = True
        self._landed: _Landing | None = None
        self._last: Fraction | None = None
        self._before: Fraction | None = None
        self._ticks: int | None = None  # for which the last one is shown
        self._upright: Upright[tuple[_Arrival, Fraction]] = Upright(deinterlace=self._deinterlace)
        live, target = self._demuxer.live, self._target
        # What a filter graph gives is not told to be keyframes.
        keep_up = self._keep_up and target.endless and not self._demuxer.in_segments
        watch = Watch(target.shown, target.read_timeout, from_keyframe=target.endless, keep_up=keep_up)
        self._watch = watch if live else None
        self._stamps: Timestamps[tuple[av.VideoFrame, _Arrival]] = Timestamps(
            self._demuxer.tick, rate=self._demuxer.rate, patient=not live
        )
        self._items: Generator[Decoded | AudioPacket] = self._play()
        self._primed: list[Decoded | AudioPacket] = []

    def _begin(self, start: Fraction) -> None:
        """Stand before the first picture at or after ``start``, which is decoded already for `info`."""
        shown = self._target.shown
        if not self._prime_first():
            if self._demuxer.index_last:
                raise SourceError(
                    f"{shown}: cannot be played from a pipe, its index is at the end: "
                    "give the file, or remux it with -movflags faststart"
                )
            raise SourceError(
                f"{shown}: nothing in it could be decoded "
                f"({self._codec.name}, {self.damaged} broken packets); is the file damaged?"
            )
        self._origin = next(item.frame.pts for item in self._primed if isinstance(item, Decoded))
        if start:
            self._cut = self._origin + start
            if not self._skip(start):
                raise SourceError(f"{shown}: has no picture at or after {float(start):g} s; choose an earlier start")

    def _prime(self) -> bool:
        """Play up to the first picture that counts; False where there is none."""
        self._primed = [item for item in self._primed if self._counts(item)]
        self._index = 0
        for item in self._items:
            self._primed.append(item)
            if isinstance(item, Decoded):
                return True
        return False

    def _prime_first(self) -> bool:
        """As `_prime`; where NVDEC fails at the first pictures, once more in software."""
        found, lost = False, None
        try:
            found = self._prime()
        except SourceLostError as error:
            lost = error
        if not found and self._target.seekable and self._decoding.give_up():
            self._let_go()
            self._open()
            return self._prime()
        if lost is not None:
            raise lost
        return found

    def _skip(self, start: Fraction) -> bool:
        """Go to the first picture at or after ``start``; False where there is none."""
        assert self._cut is not None
        moved = False
        timed = self._landed is not None and self._landed.own
        # Many seek by decoding time or have no index, and land behind the keyframe that is needed.
        for back in _STEPS_BACK:
            if back >= start or not self._demuxer.seek(self._cut - back):
                break
            moved = True
            self._items.close()
            self._restart()
            found = self._prime()
            # Where the pictures have times of their own, one without may be counted from anywhere.
            if self._landed is not None and self._landed.pts <= self._cut and self._landed.own >= timed:
                return found
        if moved:
            self._let_go()
            self._open()
        return self._prime()

    def _counts(self, item: Decoded | AudioPacket) -> bool:
        moment = item.time if isinstance(item, AudioPacket) else item.frame.pts
        return self._cut is None or moment >= self._cut

    def _play(self) -> Generator[Decoded | AudioPacket]:
        shown = self._target.shown
        for packet, arrived in self._demuxer.packets():
            if packet.stream_index == self._demuxer.video.index:
                if self._watch is None or self._watch.wants(packet, arrived, self._demuxer.drained_ns):
                    yield from self._decode(packet, arrived)  # type: ignore[arg-type]
                else:
                    self._gap = True
            elif packet.dts is not None:
                audio = AudioPacket(packet)  # type: ignore[arg-type]
                if self._counts(audio):
                    yield audio
            if self._watch is not None:
                self._watch.check(self._broken)
            elif self._broken >= MAX_BROKEN:
                _log.warning("%s: %d packets in a row could not be decoded; taken as the end", shown, self._broken)
                break
        yield from self._decode(None, time.monotonic_ns())
        yield from self._settled(self._stamps.flush())
        yield from self._decoded(self._upright.flush())
        self._look_for_cut()

    def _decode(self, packet: av.Packet[av.VideoStream] | None, arrived: int) -> Iterator[Decoded]:
        try:
            frames = self._codec.decode(packet)
        except av.EOFError:
            return
        except av.BlockingIOError:
            # An error left the decoder with a packet that it never took: only flushing frees it.
            self._codec.flush_buffers()
            return self._harm(packet)
        except av.FFmpegError as error:
            _log.debug("%s: %s", self._target.shown, error)
            self._decoding.blame(error)
            return self._harm(packet)
        if packet is not None and packet.is_corrupt:
            self._harm(packet)
        if frames:
            self._decoding.look(self._codec)
        for frame in frames:
            self._broken = 0
            if frame.is_corrupt:
                self._harm(packet)
            captured = arrived
            if self._watch is not None:
                captured = self._watch.arrival(frame.pts, arrived)
                self._gap |= self._watch.paused(captured)
            arrival = _Arrival(captured, time.time_ns() - (time.monotonic_ns() - captured), self._gap)
            self._gap = False
            yield from self._settled(self._stamps.push((frame, arrival), *self._times(frame)))

    def _times(self, frame: av.VideoFrame) -> tuple[Fraction | None, Fraction | None]:
        ticks = frame.pts if frame.pts is not None else frame.dts
        tick = self._demuxer.tick
        return None if ticks is None else ticks * tick, frame.duration * tick if frame.duration else None

    def _settled(self, ready: list[tuple[tuple[av.VideoFrame, _Arrival], Fraction]]) -> Iterator[Decoded]:
        for (frame, arrival), pts in ready:
            if self._landed is None:
                self._landed = _Landing(pts, frame.pts is not None)
            if self._stamps.repaired and not self._told:
                self._told = True
                _log.info("%s: times that were missing or did not rise are put right", self._target.shown)
            self._ticks, self._before, self._last = frame.duration, self._last, pts
            if self._cut is None or pts >= self._cut:
                yield from self._decoded(self._upright.push(frame, (arrival, pts)))

    def _decoded(self, ready: list[tuple[Picture, tuple[_Arrival, Fraction]]]) -> Iterator[Decoded]:
        for picture, (arrival, pts) in ready:
            if self._cut is not None and pts < self._cut:
                continue
            yield Decoded(self._frame(picture, arrival, pts), picture.picture)

    def _frame(self, picture: Picture, arrival: _Arrival, pts: Fraction) -> Frame:
        size = (picture.picture.width, picture.picture.height)
        if self._size is not None and size != self._size:
            self._sample_aspect_ratio = pixel_aspect(self._codec.sample_aspect_ratio)
        self._size = size
        ratio = self._sample_aspect_ratio
        index, self._index = self._index, self._index + 1
        return Frame(
            planes=plane_views(picture.picture, picture.format),
            format=picture.format,
            colour=picture.colour,
            index=index,
            pts=pts,
            time_base=self._demuxer.tick,
            captured_ns=arrival.captured_ns,
            wall_ns=arrival.wall_ns,
            source=self._name,
            sample_aspect_ratio=1 / ratio if picture.turned else ratio,
            discontinuity=arrival.gap or index == 0,
        )

    def _harm(self, packet: av.Packet[av.VideoStream] | None) -> None:
        self._damaged += 1
        self._broken += 1
        self._gap = True
        if self._damaged == 1:
            ticks = None if packet is None else packet.pts
            where = "" if ticks is None else f" at {float(ticks * self._demuxer.tick):.3f} s"
            _log.warning("%s: damaged%s; going on with what can be decoded", self._target.shown, where)

    def _look_for_cut(self) -> None:
        """Warn of a file that ends well before the end that it announces."""
        duration = self._demuxer.length
        if duration is None or self._last is None or self._demuxer.rate or self._demuxer.woken:
            return
        interval = self._last - self._before if self._before is not None else Fraction(0)
        shown = self._ticks * self._demuxer.tick if self._ticks else interval
        end, announced = self._last + shown, self._demuxer.start + duration
        if end + _SLACK < announced and end + duration / 20 < announced:
            self._damaged += 1
            _log.warning(
                "%s: ends at %.2f s of %.2f s; the file is cut off", self._target.shown, float(end), float(announced)
            )

    def _describe(self) -> StreamInfo:
        first = next(item for item in self._primed if isinstance(item, Decoded)).frame
        video = self._demuxer.video
        return StreamInfo(
            name=self._name,
            uri=self._target.shown,
            height=first.height,
            width=first.width,
            format=first.format,
            colour=first.colour,
            sample_aspect_ratio=first.sample_aspect_ratio,
            time_base=self._demuxer.tick,
            average_rate=self._demuxer.rate or video.average_rate or None,
            start=self._origin,
            duration=self._demuxer.duration,
            frames=video.frames or self._demuxer.expected_frames,
            live=self._demuxer.live,
            audio=muxer_template(self._demuxer.audio) if self._demuxer.audio is not None else None,
        )
