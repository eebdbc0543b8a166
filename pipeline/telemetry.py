"""What the stream counts while it runs: frames, busy time and latency by stage.

Each counter is written by one thread alone, so nothing here is locked; a reader may see
a value that is one frame old.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from pipeline.reports import BatchReport, CRFReport, Percentiles, PropagationReport, Spread

_GROWTH = math.log(1.02)


class LatencyHistogram:
    """Durations in bins that grow by 2 %: flat memory for streams that run for weeks."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0
        self._sum_ns = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        self._sum_ns += nanoseconds
        index = int(math.log(max(1, nanoseconds)) / _GROWTH)
        self._bins[index] = self._bins.get(index, 0) + 1
        self._count += 1

    def merge(self, other: LatencyHistogram) -> None:
        """Count all durations of another histogram too."""
        for index, count in other._bins.items():
            self._bins[index] = self._bins.get(index, 0) + count
        self._count += other._count
        self._sum_ns += other._sum_ns

    def cumulative(self, bounds_s: Sequence[float]) -> tuple[list[int], float]:
        """How many durations were at most each bound, then how many in all, and the sum in seconds.

        Args:
            bounds_s: rising, in seconds; each is met within 2 %.
        """
        limits = [int(math.log(bound * 1e9) / _GROWTH) for bound in bounds_s]
        bins = tuple(self._bins.items())
        counts = [sum(count for index, count in bins if index < limit) for limit in limits]
        return [*counts, sum(count for _, count in bins)], self._sum_ns / 1e9

    def percentiles(self) -> Percentiles | None:
        """The median and the tail, or None if nothing was counted."""
        if not self._count:
            return None
        return Percentiles(self._percentile(0.50), self._percentile(0.95), self._percentile(0.99))

    def _percentile(self, share: float) -> float:
        left = share * self._count
        index = 0
        for index in sorted(self._bins):
            left -= self._bins[index]
            if left <= 0:
                break
        return round(math.exp((index + 0.5) * _GROWTH) / 1e6, 3)


class StageMeter:
    """How busy one stage of one input is; used as a context around its work on a frame.

    Args:
        clock: nanoseconds.  `time.thread_time_ns` where the thread that enters does all of the work itself:
            then a machine that others load makes no stage look busier.  The time that passes where
            others work for it (an encoder's threads, a disk).
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.frames = 0
        self.busy_ns = 0
        self.times = LatencyHistogram()
        self._clock = clock
        self._started = 0

    def __enter__(self) -> StageMeter:
        self._started = self._clock()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        took = self._clock() - self._started
        self.busy_ns += took
        self.frames += error is None
        self.times.add(took)

    def add(self, busy_s: float) -> None:
        """Count a frame whose work was timed elsewhere, in a worker process for one."""
        took = int(busy_s * 1e9)
        self.busy_ns += took
        self.frames += 1
        self.times.add(took)


class BatchMeter:
    """How the frames of all inputs went into the engine together."""

    def __init__(self) -> None:
        self._frames = _Range()
        self._waited_s = 0.0

    def add(self, frames: int, waited_s: float) -> None:
        """Count a request, and the seconds that its first frame waited for the others."""
        self._frames.add(frames)
        self._waited_s += waited_s

    @property
    def totals(self) -> tuple[int, int, float]:
        """Requests, frames in them, and the seconds that their first frames waited."""
        return self._frames.count, self._frames.sum, self._waited_s

    def report(self, streams: int) -> BatchReport | None:
        """All of it, for so many inputs; None where no request was counted."""
        requests = self._frames.count
        if not requests:
            return None
        return BatchReport(streams, self._frames.spread(), round(self._waited_s * 1e3 / requests, 3))


class CRFMeter:
    """What the CRF did with the frames of one input."""

    def __init__(self) -> None:
        self._times = LatencyHistogram()
        self._classes = _Range()
        self._iterations = _Range()

    def add(self, seconds: float, classes: int, iterations: int) -> None:
        """Count a frame: the time it took, the classes that took part and the mean-field iterations."""
        self._times.add(int(seconds * 1e9))
        self._classes.add(classes)
        self._iterations.add(iterations)

    def report(self) -> CRFReport | None:
        """All of it; None where no frame was counted."""
        times = self._times.percentiles()
        return None if times is None else CRFReport(times, self._classes.spread(), self._iterations.spread())


class _Range:
    """Smallest, mean and largest of some numbers."""

    def __init__(self) -> None:
        self.count = self.sum = self._max = 0
        self._min: int | None = None

    def add(self, value: int) -> None:
        self.count += 1
        self.sum += value
        self._max = max(self._max, value)
        self._min = value if self._min is None else min(self._min, value)

    def spread(self) -> Spread:
        return Spread(self._min or 0, round(self.sum / max(1, self.count), 2), self._max)


class PropagationMeter:
    """What the frames of one input took over from those before them.

    Attributes:
        late: key frames that had to be labelled before the network was done with them.
        waiting: time in which labelling waited for the network.
    """

    def __init__(self) -> None:
        self.late = 0
        self.waiting = StageMeter()
        self._frames = self._keys = self._cuts = self._followed = 0
        self._flow_s = self._trust = 0.0

    def looked(self, seconds: float, confidence: float | None, *, key: bool, cut: bool) -> None:
        """Count a frame: processor time of its motion, mean trust in that (None: there is none), and what it is."""
        self._frames += 1
        self._keys += key
        self._cuts += cut
        self._flow_s += seconds
        if confidence is not None:
            self._followed += 1
            self._trust += confidence

    def report(self) -> PropagationReport | None:
        """All of it; None where no frame was counted."""
        if not self._frames:
            return None
        return PropagationReport(
            key_share=round(self._keys / self._frames, 4),
            late=self.late,
            cuts=self._cuts,
            flow_ms=round(1e3 * self._flow_s / self._frames, 3),
            trust=round(self._trust / self._followed, 4) if self._followed else None,
        )


def awaited_shares(waiting: Sequence[tuple[str, float]]) -> dict[str, float]:
    """For each stage of a line the share of the time in which it was the one that the others waited for.

    Frames pile up in front of the stage that sets the pace, since all before it are stopped by full
    buffers or used up slots, and none wait behind it, since all after it are starved.  So at any moment the pace
    is set by the *last* stage that has frames waiting.  How busy a stage is shows nothing of the kind:
    where processors are scarce, whoever asks for most of them is late with everything.  (It is how
    the slowest machine of a production line with finite buffers is found: Kuo, Lim and Meerkov,
    Bottlenecks in serial production lines, 1996.)

    Args:
        waiting: stages in the order in which frames meet them, each with the share of the time in
            which at least one frame waited in front of it, 0 to 1.

    Returns:
        By stage, 0 to 1: what its share exceeds that of every stage behind it.  They sum to the largest
        of ``waiting``.
    """
    shares: dict[str, float] = {}
    behind = 0.0
    for name, share in reversed(waiting):
        shares[name] = max(0.0, share - behind)
        behind = max(behind, share)
    return shares
