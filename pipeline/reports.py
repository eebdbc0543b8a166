"""What a run has done, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from engines.base import EngineInfo
from engines.masking import hide


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations in milliseconds, within 1 %."""

    p50: float
    p95: float
    p99: float


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
class BatchReport:
    """How the inputs shared the engine.

    Attributes:
        streams: inputs that it served.
        frames: in one request.
        waited_ms: mean time in which the first frame of a request waited for the others.
    """

    streams: int
    frames: Spread
    waited_ms: float


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
        milliseconds: mean work on a frame, counted as ``busy`` is; of a request of several frames each has its share.
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
        encoder: libav's name of what encoded its video, such as ``"libx264"``; empty where it makes none.
        failures: how often it failed, beside a live input.
        missed: frames that were lost to it because it had failed.
    """

    name: str
    written: int
    dropped: int
    undelivered: int = 0
    encoder: str = ""
    failures: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class DropReport:
    """Frames of a live input that were lost at one place for one cause.

    Attributes:
        place: the stage in front of which they waited, or the output.
        cause: ``"overtaken"`` (a newer one came), ``"late"`` (older than the latency that is allowed),
            ``"slow"`` (the output could not keep up) or ``"failed"`` (the output had failed).
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
        causes: how often by cause: ``"absent"``, ``"unreachable"``, ``"silent"``, ``"ended"``, ``"cut"``,
            ``"undecodable"``, ``"refused"``.
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
        decoder: what decoded the pictures that came last, such as ``"h264"`` or ``"h264 by NVDEC"``.
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
    decoder: str = ""


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
        error: why the run failed, or lost an input or output; None where all went well.
        worker_deaths: refining workers that died and were replaced.
        model, engine: what ran; None where the run failed before they were ready.
        batches: how the inputs shared the engine; None where no frame came that far.
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
    batches: BatchReport | None
    versions: dict[str, str]
    cpus: float
    inputs: tuple[InputReport, ...]

    def as_json(self) -> str:
        """The whole report."""
        return json.dumps(_masked(asdict(self)), indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """The short report that people read."""
        lines = [f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS; bottleneck: {self.bottleneck}"]
        if self.model is not None and self.engine is not None:
            engine = self.engine
            on = f"{engine.backend} {engine.version} ({engine.device}, {engine.arithmetic})"
            lines.append(f"model {self.model.name} on {on}")
        if self.batches is not None and self.batches.streams > 1:
            lines.append(_batch_line(self.batches))
        if self.worker_deaths:
            lines.append(f"{self.worker_deaths} refining workers died and were replaced")
        for one in self.inputs:
            lines.append(_input_line(one))
            if coders := _coders(one):
                lines.append(f"  {coders}")
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
        return hide("\n".join(lines))


def _masked(tree: object) -> object:
    if isinstance(tree, str):
        return hide(tree)
    if isinstance(tree, dict):
        return {_masked(key): _masked(value) for key, value in tree.items()}
    return [_masked(each) for each in tree] if isinstance(tree, list | tuple) else tree


def _short(name: str) -> str:
    name = hide(name)  # of which less may be left than can be told
    return name if len(name) < 24 else f"…{name[-21:]}"


def _input_line(one: InputReport) -> str:
    parts = [f"{one.name}: {one.read} read", f"{one.written} written"]
    if one.dropped:
        late = sum(drop.frames for drop in one.drops if drop.cause == "late")
        parts.append(f"{one.dropped} dropped" + (f" ({late} as too old)" if late else ""))
    parts += [f"{sink.dropped} lost by {sink.name}" for sink in one.sinks if sink.dropped]
    parts += [
        f"{sink.missed} missed by {sink.name}, which failed" if sink.missed else f"{sink.name} failed"
        for sink in one.sinks
        if sink.failures
    ]
    parts += [f"{sink.undelivered} not delivered by {sink.name}" for sink in one.sinks if sink.undelivered]
    if one.damaged:
        parts.append(f"{one.damaged} damaged")
    if one.repaired:
        parts.append(f"{one.repaired} restamped")
    if one.unrefined:
        parts.append(f"{one.unrefined} unrefined")
    return ", ".join(parts)


def _batch_line(batches: BatchReport) -> str:
    line = f"{batches.streams} streams on one engine"
    if batches.frames.max == 1:
        return line
    return (
        f"{line}, {batches.frames.mean:.1f} frames a request (at most {batches.frames.max}), "
        f"which waited {batches.waited_ms:.1f} ms for one another"
    )


def _coders(one: InputReport) -> str:
    encoders = dict.fromkeys(sink.encoder for sink in one.sinks if sink.encoder)
    parts = [f"decoder {one.decoder}"] if one.decoder else []
    return ", ".join([*parts, *(f"encoder {name}" for name in encoders)])


def _outage_line(away: OutageReport) -> str:
    causes = ", ".join(f"{count} {cause}" for cause, count in away.causes.items())
    often = "once" if away.count == 1 else f"{away.count} times"
    return f"away {often}, {away.seconds:.1f} s in all: {causes}"


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
