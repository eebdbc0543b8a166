"""Playing a part of a source, several times, or at its own pace: thin layers over any source."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from pipeline.sources.base import AudioPacket, Decoded, Source, StreamInfo, shift_times

_AUDIO_LAG = Fraction(1)
"""Seconds past the end to look for the last audio packets: muxers interleave no worse."""

_NOMINAL_STEP = Fraction(1, 25)


class _Around(ABC):
    """A source over another one, which it closes; what a part does not change is passed on."""

    def __init__(self, source: Source, info: StreamInfo) -> None:
        self._source = source
        self.info = info

    @property
    def damaged(self) -> int:
        """As `Source`."""
        return self._source.damaged

    @property
    def repaired(self) -> int:
        """As `Source`."""
        return self._source.repaired

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
        super().__init__(source, _trimmed(source.info, start, duration, max_frames))
        # Sound may begin a little before the first picture: nothing is cut there unless asked for.
        self._begin = source.info.start + start if start else None
        self._end = None if duration is None else source.info.start + start + duration
        self._max_frames = max_frames

    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        count, end = 0, self._end
        pictures_over = False
        audio_over = self.info.audio is None or self.info.live
        for item in items:
            moment = item.time if isinstance(item, AudioPacket) else item.frame.pts
            if self._begin is not None and moment < self._begin:
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
        source = reopen()
        duration, frames = source.info.duration, source.info.frames
        looped = replace(
            source.info,
            duration=duration * times if duration and times else None,
            frames=frames * times if frames and times else None,
        )
        super().__init__(source, looped)
        self._reopen = reopen
        self._times = times
        self._damaged = self._repaired = 0
        self._closed = False

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

    def __init__(self, source: Source) -> None:
        """Pace ``source``, which `close` closes."""
        super().__init__(source, replace(source.info, live=True))
        self._closing = threading.Event()

    def wake(self) -> None:
        """As `Source`; ends a wait for the next picture's time."""
        self._closing.set()
        super().wake()

    def close(self) -> None:
        """As `Source`."""
        self._closing.set()
        super().close()

    def _play(self, items: Iterator[Decoded | AudioPacket]) -> Iterator[Decoded | AudioPacket]:
        zero: Fraction | None = None
        for item in items:
            if isinstance(item, AudioPacket):
                yield item
                continue
            pts = item.frame.pts
            if zero is None:
                zero = Fraction(time.monotonic_ns(), 1_000_000_000) - pts
            wait = float(zero + pts) - time.monotonic()
            if wait > 0 and self._closing.wait(wait):
                return
            yield Decoded(replace(item.frame, captured_ns=time.monotonic_ns(), wall_ns=time.time_ns()), item.picture)
