"""Playing a part of a source, several times, or at its own pace: thin layers over any source."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from pipeline.sources.base import AudioPacket, Decoded, Outages, Source, StreamInfo, shift_times

_AUDIO_LAG = Fraction(1)
"""Seconds past the end to look for the last audio packets: muxers interleave no worse."""

_NOMINAL_STEP = Fraction(1, 25)


class _Around(ABC):
    """A source over another one, which it closes; what a part does not change is passed on."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def info(self) -> StreamInfo:
        """What was known at opening, as far as it holds of this part."""
        return self._source.info

    @property
    def damaged(self) -> int:
        """As `Source`."""
        return self._source.damaged

    @property
    def repaired(self) -> int:
        """As `Source`."""
        return self._source.repaired

    @property
    def skipped(self) -> int:
        """As `Source`."""
        return self._source.skipped

    @property
    def decoder(self) -> str:
        """As `Source`."""
        return self._source.decoder

    @property
    def own_thread_s(self) -> float:
        """As `Source`."""
        return self._source.own_thread_s

    @property
    def outages(self) -> Outages:
        """As `Source`."""
        return self._source.outages

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """As `Source`."""
        return self._play(self._source.read())

    @abstractmethod
    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        """What becomes of what the source gives."""

    def wake(self) -> None:
        """As `Source`."""
        self._source.wake()

    def close(self) -> None:
        """As `Source`."""
        self._source.close()


class Trim(_Around):
    """The part of a source from ``start`` seconds on, exact to the frame; audio is cut alike."""

    def __init__(
        self,
        source: Source,
        *,
        start: Fraction = Fraction(0),
        duration: Fraction | None = None,
        max_frames: int | None = None,
    ) -> None:
        """Cut.

        Args:
            source: the whole; closed by this one's `close`.
            start: seconds after the first picture of the whole.
            duration: seconds to keep, None to the end.
            max_frames: pictures to keep at most.
        """
        super().__init__(source)
        self._start = start
        self._duration = duration
        self._max_frames = max_frames

    @property
    def info(self) -> StreamInfo:
        """As `Source`, of the part alone."""
        return _trimmed(self._source.info, self._start, self._duration, self._max_frames)

    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        count, begin, end = 0, None, None
        pictures_over = audio_over = whole_known = False
        for item in items:
            if not whole_known:  # a live source may not have been there before
                whole_known, whole = True, self._source.info
                # Sound may begin a little before the first picture: nothing is cut there unless asked for.
                begin = whole.start + self._start if self._start else None
                end = None if self._duration is None else whole.start + self._start + self._duration
                audio_over = whole.audio is None or whole.live
            moment = item.time if isinstance(item, AudioPacket) else item.frame.pts
            if begin is not None and moment < begin:
                continue
            is_picture = isinstance(item, Decoded)
            if is_picture and count == self._max_frames:
                end = moment if end is None else min(end, moment)
            if end is None or moment < end:
                yield _numbered(item, count) if isinstance(item, Decoded) else item
                count += is_picture
                pictures_over = count == self._max_frames and audio_over
            else:
                pictures_over |= is_picture
                audio_over |= not is_picture or moment >= end + _AUDIO_LAG
            if pictures_over and audio_over:
                return


def _numbered(item: Decoded, index: int) -> Decoded:
    frame = item.frame
    if frame.index == index and (frame.discontinuity or index > 0):
        return item
    return Decoded(replace(frame, index=index, discontinuity=frame.discontinuity or index == 0), item.picture)


def _trimmed(info: StreamInfo, start: Fraction, duration: Fraction | None, max_frames: int | None) -> StreamInfo:
    """What is left of a stream; the number of frames is a guess unless it is bounded from outside."""
    whole = info.duration
    left = None if whole is None else max(whole - start, Fraction(0))
    kept = left if duration is None else duration if left is None else min(left, duration)
    frames = info.frames
    if frames is not None and whole and kept is not None:
        frames = round(frames * kept / whole)
    elif frames is None and kept is not None and info.average_rate:
        frames = round(kept * info.average_rate)
    if max_frames is not None:
        if frames is not None and frames > max_frames and kept is not None:
            kept = kept * max_frames / frames
        frames = max_frames if frames is None else min(frames, max_frames)
    return replace(info, duration=kept, frames=frames, skipped=info.skipped + start)


class Loop(_Around):
    """A source played several times on one rising time line.

    Each pass begins where the pictures of the last one ended.  Audio is shifted by the same
    seconds; where it is longer than the pictures, the overlapping packets of the next pass
    are left out.
    """

    def __init__(self, reopen: Callable[[], Source], times: int) -> None:
        """Open the first pass.

        Args:
            reopen: opens the source anew.
            times: passes, 0 for endless ones.
        """
        super().__init__(reopen())
        self._first = self._source.info
        self._reopen = reopen
        self._times = times
        self._damaged = self._repaired = 0
        self._closed = False

    @property
    def info(self) -> StreamInfo:
        """As `Source`, of all passes."""
        first, times = self._first, self._times
        return replace(
            first,
            duration=first.duration * times if first.duration and times else None,
            frames=first.frames * times if first.frames and times else None,
        )

    @property
    def damaged(self) -> int:
        """As `Source`, over all passes."""
        return self._damaged + super().damaged

    @property
    def repaired(self) -> int:
        """As `Source`, over all passes."""
        return self._repaired + super().repaired

    def wake(self) -> None:
        """As `Source`."""
        self._closed = True
        super().wake()

    def close(self) -> None:
        """As `Source`."""
        self._closed = True
        super().close()

    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        shift, index, passes = Fraction(0), 0, 1
        audio_end: int | None = None
        step = 1 / (self.info.average_rate or 1 / _NOMINAL_STEP)
        while True:
            first = last = None
            for item in items:
                if isinstance(item, AudioPacket):
                    shift_times(item.packet, shift)
                    dts = item.packet.dts or 0
                    if audio_end is None or dts > audio_end:
                        audio_end = dts
                        yield item
                    continue
                pts = item.frame.pts
                step = step if last is None else pts - last
                first, last = pts if first is None else first, pts
                yield Decoded(replace(item.frame, pts=pts + shift, index=index), item.picture)
                index += 1
            if passes == self._times or first is None or last is None or self._closed:
                return
            passes += 1
            shift += last - first + step
            items = self._again()

    def _again(self) -> Iterator[Decoded | AudioPacket]:
        self._source.close()
        self._damaged, self._repaired = self.damaged, self.repaired
        self._source = self._reopen()
        return self._source.read()


class Pace(_Around):
    """A source given out at the pace of its pictures' times, on the monotonic clock: a file as a camera.

    The clock starts with the first picture that is asked for.
    """

    def __init__(self, source: Source, *, leap: Fraction | None = None) -> None:
        """Pace.

        Args:
            source: closed by this one's `close`.
            leap: seconds between two pictures from which on the clock starts anew, None for never.
        """
        super().__init__(source)
        self._leap = leap
        self._closing = threading.Event()

    @property
    def info(self) -> StreamInfo:
        """As `Source`; live."""
        return replace(self._source.info, live=True)

    def wake(self) -> None:
        """As `Source`; ends a wait for the next picture's time."""
        self._closing.set()
        super().wake()

    def close(self) -> None:
        """As `Source`."""
        self._closing.set()
        super().close()

    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        zero = last = None
        for item in items:
            if isinstance(item, AudioPacket):
                yield item
                continue
            pts = item.frame.pts
            leapt = self._leap is not None and last is not None and pts - last > self._leap
            last = pts
            if zero is None or leapt:
                zero = Fraction(time.monotonic_ns(), 1_000_000_000) - pts
            wait = float(zero + pts) - time.monotonic()
            if wait > 0 and self._closing.wait(wait):
                return
            yield Decoded(replace(item.frame, captured_ns=time.monotonic_ns(), wall_ns=time.time_ns()), item.picture)
