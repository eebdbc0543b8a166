"""What is played from where a demuxer stands: decoded, timed, upright."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av

from pipeline.frame import Frame
from pipeline.sources.base import AudioPacket, Decoded
from pipeline.sources.decoding import Decoding
from pipeline.sources.demux import Demuxer
from pipeline.sources.live import Watch
from pipeline.sources.pictures import Picture, Upright, pixel_aspect, plane_views
from pipeline.sources.target import Target
from pipeline.sources.timestamps import Timestamps

_log = logging.getLogger(__name__)

MAX_BROKEN = 1000
"""Packets of a file that may fail to decode one after the other before it is given up."""

_SLACK = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What is known of a picture besides its pixels and its time."""

    captured_ns: int
    wall_ns: int
    gap: bool


@dataclass(frozen=True, slots=True)
class Landing:
    """The first picture that was decoded from where the demuxer stood: its time, and whether it is its own."""

    pts: Fraction
    own: bool


class Playback:
    """Makes frames of what a demuxer reads, and counts what is wrong with it.

    Args:
        target: what is played.
        name: of the input.
        decoding: who decodes.
        deinterlace: deinterlace pictures that are flagged interlaced.
        keep_up: leave out parts of a live stream that comes faster than it can be decoded.

    Attributes:
        landed: where the demuxer stood, once a picture has come.
    """

    def __init__(self, target: Target, name: str, decoding: Decoding, *, deinterlace: bool, keep_up: bool) -> None:
        self._cut: Fraction | None = None
        self._target = target
        self._name = name
        self._decoding = decoding
        self._deinterlace = deinterlace
        self._keep_up = keep_up
        self._told = False
        self._size: tuple[int, int] | None = None

    def start(self, demuxer: Demuxer) -> Generator[Decoded | AudioPacket]:
        """Everything from where it stands, in presentation order; all counts begin anew.

        Raises:
            SourceError: while it is iterated: the stream was lost.
        """
        self._demuxer = demuxer
        self._codec = demuxer.video.codec_context
        self._sample_aspect_ratio = pixel_aspect(demuxer.video.sample_aspect_ratio)
        self._damaged = self._demuxer.damaged = self._broken = self._index = 0
        self._gap = True
        self.landed: Landing | None = None
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
        return self._play()

    @property
    def damaged(self) -> int:
        """Packets and frames that were lost, broken or only concealed so far."""
        return self._damaged + self._demuxer.damaged

    @property
    def skipped(self) -> int:
        """As `Source`."""
        return 0 if self._watch is None else self._watch.skipped

    @property
    def repaired(self) -> int:
        """Pictures so far whose missing or backward time was put right."""
        return self._stamps.repaired

    def leave_out(self, before: Fraction) -> None:
        """Give nothing out that is earlier, and count pictures from the first that is given."""
        self._cut, self._index = before, 0

    def counts(self, item: Decoded | AudioPacket) -> bool:
        """Whether something is given out."""
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
                if self.counts(audio):
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
            if self.landed is None:
                self.landed = Landing(pts, frame.pts is not None)
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
        """Warn of a file that lacks pictures of its index, or ends well before the end that it announces."""
        duration = self._demuxer.length
        if duration is None or self._last is None or self._demuxer.rate or self._demuxer.woken:
            return
        missing = self._demuxer.cut_off()
        if missing:
            self._damaged += missing
            _log.warning("%s: the file is cut off; its last pictures (%d) are missing", self._target.shown, missing)
            return
        interval = self._last - self._before if self._before is not None else Fraction(0)
        shown = self._ticks * self._demuxer.tick if self._ticks else interval
        end, announced = self._last + shown, self._demuxer.start + duration
        if end + _SLACK < announced and end + duration / 20 < announced:
            self._damaged += 1
            _log.warning(
                "%s: ends at %.2f s of %.2f s; the file is cut off", self._target.shown, float(end), float(announced)
            )
