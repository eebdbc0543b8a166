"""What the stream says of itself: counters, busy time and latency by stage, and the report.

Each counter is written by one thread alone, so nothing here is locked; a reader may see
a value that is one frame old.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from engines.base import EngineInfo

_GROWTH = math.log(1.02)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations in milliseconds, within 1 %."""

    p50: float
    p95: float
    p99: float


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
        self._count = self._sum = self._max = 0
        self._min: int | None = None

    def add(self, value: int) -> None:
        self._count += 1
        self._sum += value
        self._max = max(self._max, value)
        self._min = value if self._min is None else min(self._min, value)

    def spread(self) -> Spread:
        return Spread(self._min or 0, round(self._sum / max(1, self._count), 2), self._max)


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


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, mean and largest of what was counted once a frame."""

    min: int
    mean: float
    max: int


@dataclass(frozen=True, slots=True)
class CRFReport:
    """The fully connected CRF in the report.

    Attributes:
        milliseconds: what a frame took in its worker.
        classes: classes that took part.
        iterations: mean-field iterations; where the input is live, as many as its pace allowed.
    """

    milliseconds: Percentiles
    classes: Spread
    iterations: Spread


@dataclass(frozen=True, slots=True)
class PropagationReport:
    """Motion in the report.

    Attributes:
        key_share: share of the frames that passed the network.
        late: key frames that had to be labelled by the motion, since the network was not done in time (live only).
        cuts: frames that have nothing to do with the one before.
        flow_ms: processor time of the motion a frame.
        trust: mean trust in it, 0 to 1; None where no frame followed another.
    """

    key_share: float
    late: int
    cuts: int
    flow_ms: float
    trust: float | None


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage in the report.

    Attributes:
        frames: frames that passed it.
        busy: share of the wall time that it worked, of what it could: a stage of several places (requests
            in the engine, refining workers) is at 1 when all are taken.  Prepare, upsample and render count the
            processor time of their thread, the others the time that passed.
        awaited: share of the wall time in which the others waited for it, see `awaited_shares`.
        milliseconds: mean work on a frame, counted as ``busy`` is.
        queue_mean, queue_max, queue_size: depth of the buffer in front of it, or None without one.
    """

    frames: int
    busy: float
    awaited: float
    milliseconds: float
    queue_mean: float | None = None
    queue_max: int | None = None
    queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class SinkReport:
    """One output in the report.

    Attributes:
        name: the output, credentials masked.
        written: frames written.
        dropped: frames that it lost because it was too slow (live mode only).
        undelivered: frames that a client which was late, or a server that was away, did not get.
    """

    name: str
    written: int
    dropped: int
    undelivered: int = 0


@dataclass(frozen=True, slots=True)
class DropReport:
    """Frames of a live input that were lost at one place for one cause.

    Attributes:
        place: the stage in front of which they waited, or the output.
        cause: ``"overtaken"`` (a newer one came), ``"late"`` (older than the latency that is allowed) or
            ``"slow"`` (the output could not keep up).
        frames: how many.
    """

    place: str
    cause: str
    frames: int


@dataclass(frozen=True, slots=True)
class OutageReport:
    """When a live input was away.

    Attributes:
        count: how often.
        seconds: how long, all in all.
        causes: how often by cause: ``"unreachable"``, ``"silent"``, ``"ended"``, ``"cut"``, ``"undecodable"``,
            ``"refused"``.
    """

    count: int
    seconds: float
    causes: dict[str, int]


@dataclass(frozen=True, slots=True)
class InputReport:
    """One input in the report.

    Attributes:
        name, uri: of the input, credentials masked.
        read: pictures decoded.
        written: pictures that reached the output that got most.
        damaged: packets and frames that could not be decoded.
        repaired: pictures whose missing or backward time was put right.
        unrefined: frames that passed the refinement unrefined.
        dropped: pictures dropped between decoder and engine (live mode only).
        drops: every picture that was dropped on purpose, by place and cause; without those that are 0.
        outages: when it was away; None where it is not live.
        sinks: by output.
        latency_ms: arrival to written.
        crf: what the CRF did; None without it.
        stages: by stage, in the order in which a frame meets them.
        propagation: what frames took over from those before them; None if nothing.
    """

    name: str
    uri: str
    read: int
    written: int
    damaged: int
    repaired: int
    unrefined: int
    dropped: int
    drops: tuple[DropReport, ...]
    outages: OutageReport | None
    sinks: tuple[SinkReport, ...]
    latency_ms: Percentiles | None
    crf: CRFReport | None
    stages: dict[str, StageReport]
    propagation: PropagationReport | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The network that ran."""

    name: str
    sha256: str
    licence: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        seconds: wall time from the first picture asked for to the last file closed.
        frames: frames written over all inputs.
        fps: ``frames / seconds``.
        bottleneck: the stage with the largest ``awaited``, which is summed where several inputs share it;
            ``"none"`` where live inputs came no faster than they were dealt with.
        interrupted: the run was asked to stop early.
        error: why the run failed, or lost an input; None where all went well.
        worker_deaths: refining workers that died and were replaced.
        model, engine: what ran; None where the run failed before they were ready.
        versions: of what ran.
        cpus: processors that the run might use.
        inputs: by input.
    """

    seconds: float
    frames: int
    fps: float
    bottleneck: str
    interrupted: bool
    error: str | None
    worker_deaths: int
    model: ModelReport | None
    engine: EngineInfo | None
    versions: dict[str, str]
    cpus: float
    inputs: tuple[InputReport, ...]

    def as_json(self) -> str:
        """The whole report."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """The short report that people read."""
        lines = [f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS; bottleneck: {self.bottleneck}"]
        if self.model is not None and self.engine is not None:
            engine = self.engine
            on = f"{engine.backend} {engine.version} ({engine.device}, {engine.arithmetic})"
            lines.append(f"model {self.model.name} on {on}")
        if self.worker_deaths:
            lines.append(f"{self.worker_deaths} refining workers died and were replaced")
        for one in self.inputs:
            lines.append(_input_line(one))
            if one.outages is not None and one.outages.count:
                lines.append(f"  {_outage_line(one.outages)}")
            if one.latency_ms is not None:
                times = one.latency_ms
                lines.append(f"  latency p50 {times.p50:.0f}, p95 {times.p95:.0f}, p99 {times.p99:.0f} ms")
            if one.crf is not None:
                lines.append(f"  {_crf_line(one.crf)}")
            if one.propagation is not None:
                lines.append(f"  {_propagation_line(one.propagation)}")
            lines += [f"  {_short(name):<24}{_stage_line(stage)}" for name, stage in one.stages.items()]
        return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) < 24 else f"…{name[-21:]}"


def _input_line(one: InputReport) -> str:
    parts = [f"{one.name}: {one.read} read", f"{one.written} written"]
    if one.dropped:
        late = sum(drop.frames for drop in one.drops if drop.cause == "late")
        parts.append(f"{one.dropped} dropped" + (f" ({late} as too old)" if late else ""))
    parts += [f"{sink.dropped} lost by {sink.name}" for sink in one.sinks if sink.dropped]
    parts += [f"{sink.undelivered} not delivered by {sink.name}" for sink in one.sinks if sink.undelivered]
    if one.damaged:
        parts.append(f"{one.damaged} damaged")
    if one.repaired:
        parts.append(f"{one.repaired} restamped")
    if one.unrefined:
        parts.append(f"{one.unrefined} unrefined")
    return ", ".join(parts)


def _outage_line(away: OutageReport) -> str:
    causes = ", ".join(f"{count} {cause}" for cause, count in away.causes.items())
    return f"away {away.count} times, {away.seconds:.1f} s in all: {causes}"


def _crf_line(crf: CRFReport) -> str:
    times, classes, iterations = crf.milliseconds, crf.classes, crf.iterations
    return (
        f"CRF p50 {times.p50:.0f}, p95 {times.p95:.0f} ms a frame; classes {classes.mean:.1f} (at most {classes.max}), "
        f"iterations {iterations.mean:.1f} (at least {iterations.min})"
    )


def _propagation_line(propagation: PropagationReport) -> str:
    trust = "-" if propagation.trust is None else f"{propagation.trust:.2f}"
    late = f" ({propagation.late} late)" if propagation.late else ""
    return (
        f"motion {propagation.flow_ms:.1f} ms a frame, trust {trust}, cuts {propagation.cuts}; "
        f"key frames {propagation.key_share:.0%}{late}"
    )


def _stage_line(stage: StageReport) -> str:
    queue = "" if stage.queue_size is None else f"  queue {stage.queue_mean:.1f} of {stage.queue_size}"
    return f"{stage.busy:>6.0%} busy {stage.awaited:>5.0%} awaited {stage.milliseconds:>8.2f} ms a frame{queue}"
