"""The report of a run, gathered from its lanes."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from engines.base import Engine
from pipeline.cpu import CpuPlan
from pipeline.flow import Buffer, PoolStats
from pipeline.reports import DropReport, InputReport, ModelReport, OutageReport, Report, SinkReport, StageReport
from pipeline.runner.lane import Lane
from pipeline.runner.outlet import Outlet
from pipeline.sinks import Encoding, Live
from pipeline.telemetry import BatchMeter, LatencyHistogram, StageMeter, awaited_shares

_NOBODY = "none"
"""The bottleneck of a live input that is dealt with as fast as it comes."""

_SHARED = ("infer", "refine", _NOBODY)
"""Stages that all inputs have in common."""


def make_report(
    lanes: Sequence[Lane],
    engine: Engine,
    plan: CpuPlan,
    seconds: float,
    *,
    batches: BatchMeter,
    pool: PoolStats | None,
    interrupted: bool,
    error: str | None,
) -> Report:
    """What a run did in ``seconds`` of wall time.

    Args:
        lanes: the inputs.
        engine, plan: what ran them.
        seconds: since the first picture was asked for.
        batches: how frames went into the engine.
        pool: what the refining workers did, None without any.
        interrupted: the run was asked to stop.
        error: why it failed, None if it did not.
    """
    shares = [_awaited(lane, seconds, pool) for lane in lanes]
    inputs = tuple(
        _input(lane, seconds, awaited, {"infer": engine.info.requests, "refine": plan.crf_workers})
        for lane, awaited in zip(lanes, shares, strict=True)
    )
    frames = sum(one.written for one in inputs)
    model = engine.model
    return Report(
        seconds=round(seconds, 3),
        frames=frames,
        fps=round(frames / seconds, 2) if seconds > 0 else 0.0,
        bottleneck=_bottleneck([lane.source.info.name for lane in lanes], shares),
        interrupted=interrupted,
        error=error,
        worker_deaths=pool.deaths if pool else 0,
        model=ModelReport(model.name, model.sha256, model.licence, model.labels.names),
        engine=engine.info,
        batches=batches.report(sum(lane.meters.infer.frames > 0 for lane in lanes)),
        versions=_versions(),
        cpus=plan.cpus,
        inputs=inputs,
    )


def failed_report(cpus: float, error: str) -> Report:
    """Of a run that failed before any frame could flow."""
    return Report(
        seconds=0.0,
        frames=0,
        fps=0.0,
        bottleneck=_NOBODY,
        interrupted=False,
        error=error,
        worker_deaths=0,
        model=None,
        engine=None,
        batches=None,
        versions=_versions(),
        cpus=cpus,
        inputs=(),
    )


def _input(lane: Lane, seconds: float, awaited: Mapping[str, float], places: Mapping[str, int]) -> InputReport:
    meters, latency = lane.meters, LatencyHistogram()
    for outlet in lane.outlets:
        latency.merge(outlet.latency)
    met: dict[str, tuple[StageMeter, Buffer[Any] | None]] = {
        "decode": (meters.decode, None),
        "prepare": (meters.prepare, lane.decoded),
        "infer": (meters.infer, lane.ready),
        "propagate": (meters.propagate, lane.looked),
        "upsample": (meters.upsample, lane.scored),
        "refine": (meters.refine, None),
        "render": (meters.render, None),
    }
    met |= {outlet.sink.name: (outlet.meter, outlet.buffer) for outlet in lane.outlets}
    stages = {
        name: _stage(meter, seconds * places.get(name, 1), awaited.get(name, 0.0), queue)
        for name, (meter, queue) in met.items()
    }
    info = lane.source.info
    return InputReport(
        name=info.name,
        uri=info.uri,
        decoder=lane.source.decoder,
        read=lane.read_frames,
        written=max((outlet.meter.frames for outlet in lane.outlets), default=0),
        damaged=lane.source.damaged,
        repaired=lane.source.repaired,
        unrefined=lane.labelling.unrefined,
        dropped=lane.dropped,
        drops=tuple(drop for drop in drops_of(lane) if drop.frames),
        outages=_outages(lane),
        sinks=tuple(map(_sink, lane.outlets)),
        latency_ms=latency.percentiles(),
        crf=meters.crf.report(),
        propagation=meters.propagation.report(),
        stages={name: stage for name, stage in stages.items() if stage.frames},
    )


def _sink(outlet: Outlet) -> SinkReport:
    lost = outlet.sink.lost if isinstance(outlet.sink, Live) else 0
    encoder = outlet.sink.encoder if isinstance(outlet.sink, Encoding) else ""
    return SinkReport(
        outlet.sink.name, outlet.meter.frames, outlet.dropped, lost, encoder, outlet.failures, outlet.missed
    )


def drops_of(lane: Lane) -> tuple[DropReport, ...]:
    """Frames that were lost on purpose, by place and cause, also those that are 0."""
    return (
        DropReport("decode", "late", lane.source.skipped),
        DropReport("prepare", "overtaken", lane.overtaken),
        DropReport("prepare", "late", lane.late_unprepared),
        DropReport("infer", "late", lane.late_prepared),
        *(DropReport(outlet.sink.name, "slow", outlet.dropped) for outlet in lane.outlets),
        *(DropReport(outlet.sink.name, "failed", outlet.missed) for outlet in lane.outlets),
    )


def _outages(lane: Lane) -> OutageReport | None:
    if not lane.source.info.live:
        return None
    away = lane.source.outages
    return OutageReport(away.count, away.seconds, dict(away.causes))


def _stage(meter: StageMeter, seconds: float, awaited: float, queue: Buffer[Any] | None) -> StageReport:
    """One stage that could have worked for ``seconds``, in all of its places together."""
    stats = queue.stats() if queue is not None else None
    return StageReport(
        frames=meter.frames,
        busy=round(meter.busy_ns / 1e9 / seconds, 4) if seconds > 0 else 0.0,
        awaited=round(awaited, 4),
        milliseconds=round(meter.busy_ns / 1e6 / meter.frames, 3) if meter.frames else 0.0,
        queue_mean=round(stats.mean_depth, 2) if stats else None,
        queue_max=stats.max_depth if stats else None,
        queue_size=stats.capacity if stats else None,
    )


def _awaited(lane: Lane, seconds: float, pool: PoolStats | None) -> dict[str, float]:
    """By stage the share of the time in which this input's others waited for it, see `awaited_shares`."""
    if seconds <= 0:
        return {}
    meters, live = lane.meters, lane.source.info.live
    # Nobody waits in front of a source: a file could always be read on, a live one takes what comes,
    # and only where decoding uses up its thread does it come too slowly.
    reading = meters.decode.busy_ns / 1e9 if live else lane.reading_s
    # One thread labels and renders.  Where workers refine, what lies before it may still be with them.
    labelling = lane.scored.stats().waited_s - meters.for_refined.busy_ns / 1e9
    # Followers of a key frame wait behind it for the engine, which may have nothing else to do by then.
    for_scores = meters.propagation.waiting.busy_ns / 1e9
    # A picture that waits and is not prepared waits for the engine to be done with an earlier one.
    chosen = lane.decoded.stats().waited_s - meters.prepare.busy_ns / 1e9 if lane.places.bounded else 0.0
    sinks = {outlet.sink.name: outlet.buffer.stats().waited_s for outlet in lane.outlets}
    slowest = max(sinks, key=lambda name: sinks[name], default="")
    line = [
        ("decode", reading),
        ("prepare", lane.decoded.stats().waited_s),
        ("infer", max(lane.ready.stats().waited_s, for_scores, chosen)),
        ("propagate", lane.looked.stats().waited_s - for_scores),
        ("refine", pool.waited_s if pool is not None else 0.0),
        ("upsample" if meters.upsample.busy_ns > meters.render.busy_ns else "render", labelling),
        (slowest, sinks.get(slowest, 0.0)),
    ]
    shares = awaited_shares([(name, min(1.0, max(0.0, waited / seconds))) for name, waited in line])
    return shares | {_NOBODY: max(0.0, 1 - sum(shares.values()))} if live else shares


def _bottleneck(names: Sequence[str], shares: Sequence[Mapping[str, float]]) -> str:
    """The stage that was awaited most, over all inputs; those of one input alone bear its name too."""
    total: dict[str, float] = {}
    for name, awaited in zip(names, shares, strict=True):
        for stage, share in awaited.items():
            key = stage if stage in _SHARED else f"{name} {stage}"
            total[key] = total.get(key, 0.0) + share
    return max(total, key=lambda key: total[key], default=_NOBODY)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("deeplab-stream", "numpy", "av", "openvino", "onnxruntime"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
