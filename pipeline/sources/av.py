"""Video through libav: files, pipes, network streams, cameras, filter graphs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

from pipeline.errors import SourceError, SourceLostError
from pipeline.hwaccel import HwAccel
from pipeline.sources.base import AudioPacket, Decoded, Outages, StreamInfo
from pipeline.sources.decoding import Decoding
from pipeline.sources.demux import muxer_template
from pipeline.sources.playing import Playback
from pipeline.sources.target import Target

_FULL_HD = 1920 * 1088
_STEPS_BACK = (Fraction(0), Fraction(1, 2), Fraction(2), Fraction(20))


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
        self._used = self._closed = False
        self._audio = audio
        self._threads = threads
        self._decoding = Decoding(target.shown, hwaccel)
        self._playback = Playback(target, name, self._decoding, deinterlace=deinterlace, keep_up=keep_up)
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
        return self._playback.damaged

    @property
    def decoder(self) -> str:
        """As `Source`."""
        return self._decoding.name

    @property
    def skipped(self) -> int:
        """As `Source`."""
        return self._playback.skipped

    @property
    def repaired(self) -> int:
        """Pictures so far whose missing or backward time was put right."""
        return self._playback.repaired

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
        self._restart()

    def _restart(self) -> None:
        """Play from where the demuxer stands."""
        self._items = self._playback.start(self._demuxer)
        self._primed: list[Decoded | AudioPacket] = []

    def _let_go(self) -> None:
        self._items.close()
        # Parks decoder threads without Python's lock; freeing the decoder would wait for them
        # while holding it, and one of them may be waiting for it to log a line.
        self._codec.flush_buffers()
        self._demuxer.close()

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
        if start and not self._skip(start):
            raise SourceError(f"{shown}: has no picture at or after {float(start):g} s; choose an earlier start")

    def _prime(self) -> bool:
        """Play up to the first picture that counts; False where there is none."""
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
        cut, landed = self._origin + start, self._playback.landed
        self._playback.leave_out(cut)
        self._primed = [item for item in self._primed if self._playback.counts(item)]
        moved = False
        timed = landed is not None and landed.own
        # Many seek by decoding time or have no index, and land behind the keyframe that is needed.
        for back in _STEPS_BACK:
            if back >= start or not self._demuxer.seek(cut - back):
                break
            moved = True
            self._items.close()
            self._restart()
            found = self._prime()
            # Where the pictures have times of their own, one without may be counted from anywhere.
            landed = self._playback.landed
            if landed is not None and landed.pts <= cut and landed.own >= timed:
                return found
        if moved:
            self._let_go()
            self._open()
        return self._prime()

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
