"""The report of a run, gathered from its lanes."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from engines.base import Engine
from pipeline.cpu import CpuPlan
from pipeline.flow import Buffer
from pipeline.runner.lane import Lane
from pipeline.telemetry import (
    EngineReport,
    InputReport,
    LatencyHistogram,
    ModelReport,
    Report,
    SinkReport,
    StageMeter,
    StageReport,
)


def make_report(lanes: Sequence[Lane], engine: Engine, plan: CpuPlan, seconds: float, *, interrupted: bool) -> Report:
    """What a run did in ``seconds`` of wall time."""
    inputs = tuple(_input(lane, seconds) for lane in lanes)
    frames = sum(one.written for one in inputs)
    workers = {"infer": engine.info.requests, "refine": plan.crf_workers}
    info, model = engine.info, engine.model
    return Report(
        seconds=round(seconds, 3),
        frames=frames,
        fps=round(frames / seconds, 2) if seconds > 0 else 0.0,
        bottleneck=_bottleneck(inputs, workers),
        interrupted=interrupted,
        model=ModelReport(model.name, model.sha256, model.licence, model.labels.names),
        engine=EngineReport(info.backend, info.version, info.device, info.precision, info.threads, info.requests),
        versions=_versions(),
        cpus=plan.cpus,
        inputs=inputs,
    )


def _input(lane: Lane, seconds: float) -> InputReport:
    meters, latency = lane.meters, LatencyHistogram()
    for outlet in lane.outlets:
        latency.merge(outlet.latency)
    stages = {
        "decode": _stage(meters.decode, seconds),
        "prepare": _stage(meters.prepare, seconds, lane.decoded),
        "infer": _stage(meters.infer, seconds, lane.ready),
        "upsample": _stage(meters.upsample, seconds, lane.scored),
        "refine": _stage(meters.refine, seconds),
        "render": _stage(meters.render, seconds),
    }
    stages |= {outlet.sink.name: _stage(outlet.meter, seconds, outlet.buffer) for outlet in lane.outlets}
    info = lane.source.info
    return InputReport(
        name=info.name,
        uri=info.uri,
        read=lane.read_frames,
        written=max((outlet.meter.frames for outlet in lane.outlets), default=0),
        damaged=lane.source.damaged,
        unrefined=lane.unrefined,
        dropped=lane.dropped,
        sinks=tuple(SinkReport(outlet.sink.name, outlet.meter.frames, outlet.dropped) for outlet in lane.outlets),
        latency_ms=latency.percentiles(),
        stages={name: stage for name, stage in stages.items() if stage.frames},
    )


def _stage(meter: StageMeter, seconds: float, queue: Buffer[Any] | None = None) -> StageReport:
    stats = queue.stats() if queue is not None else None
    return StageReport(
        frames=meter.frames,
        busy=round(meter.busy_ns / 1e9 / seconds, 4) if seconds > 0 else 0.0,
        milliseconds=round(meter.busy_ns / 1e6 / meter.frames, 3) if meter.frames else 0.0,
        queue_mean=round(stats.mean_depth, 2) if stats else None,
        queue_max=stats.max_depth if stats else None,
        queue_size=stats.capacity if stats else None,
    )


def _bottleneck(inputs: Iterable[InputReport], workers: dict[str, int]) -> str:
    """The stage whose workers were busiest; a stage shared by all inputs counts for all of them."""
    busy: dict[str, float] = {}
    for one in inputs:
        for name, stage in one.stages.items():
            key = name if name in workers else f"{one.name} {name}"
            busy[key] = busy.get(key, 0.0) + stage.busy / max(1, workers.get(name, 1))
    return max(busy, key=lambda name: busy[name], default="none")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("deeplab-stream", "numpy", "av", "openvino", "onnxruntime"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
