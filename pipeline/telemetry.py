"""What the stream says of itself: counters, busy time and latency by stage, and the report.

Each counter is written by one thread alone, so nothing here is locked; a reader may see
a value that is one frame old.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

_GROWTH = math.log(1.02)


class LatencyHistogram:
    """Durations in bins that grow by 2 %: flat memory for streams that run for weeks."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        index = int(math.log(max(1, nanoseconds)) / _GROWTH)
        self._bins[index] = self._bins.get(index, 0) + 1
        self._count += 1

    def percentile(self, share: float) -> float | None:
        """The duration, in milliseconds, that ``share`` (0–1) of all stay below; None if there is none."""
        left = share * self._count
        for index in sorted(self._bins):
            left -= self._bins[index]
            if left <= 0:
                return round(math.exp((index + 0.5) * _GROWTH) / 1e6, 3)
        return None


class StageMeter:
    """How busy one stage of one input is; used as a context around its work on a frame."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames = 0
        self.busy_ns = 0
        self._started = 0

    def __enter__(self) -> StageMeter:
        self._started = time.perf_counter_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.busy_ns += time.perf_counter_ns() - self._started
        self.frames += 1

    def add(self, busy_s: float) -> None:
        """Count a frame whose work was timed elsewhere, in a worker process for one."""
        self.busy_ns += int(busy_s * 1e9)
        self.frames += 1


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage in the report.

    Attributes:
        frames: frames that passed it.
        busy: share of the wall time that it worked (above 1 where several work at once).
        milliseconds: mean work on a frame.
        queue_mean, queue_max, queue_size: depth of the buffer in front of it, or None without one.
    """

    frames: int
    busy: float
    milliseconds: float
    queue_mean: float | None = None
    queue_max: int | None = None
    queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class InputReport:
    """One input in the report.

    Attributes:
        name, uri: of the input, credentials masked.
        read: pictures decoded.
        written: pictures that reached every sink that keeps up, by sink in ``sinks``.
        damaged: packets and frames that could not be decoded.
        unrefined: frames that passed the refinement unrefined.
        dropped: frames dropped, by place.
        sinks: frames written, by output.
        latency_ms: percentiles of arrival to written (p50, p95, p99).
        stages: by stage.
    """

    name: str
    uri: str
    read: int
    written: int
    damaged: int
    unrefined: int
    dropped: dict[str, int]
    sinks: dict[str, int]
    latency_ms: dict[str, float | None]
    stages: dict[str, StageReport]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        seconds: wall time from the first picture asked for to the last file closed.
        frames: frames written over all inputs.
        fps: ``frames / seconds``.
        bottleneck: the stage that was busiest for the workers it has.
        interrupted: the run was asked to stop early.
        model, engine, versions, cpus: what ran.
        inputs: by input.
    """

    seconds: float
    frames: int
    fps: float
    bottleneck: str
    interrupted: bool
    model: dict[str, Any]
    engine: dict[str, Any]
    versions: dict[str, str]
    cpus: float
    inputs: tuple[InputReport, ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """The short report that people read."""
        lines = [
            f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS; bottleneck: {self.bottleneck}",
            f"model {self.model['name']} on {self.engine['backend']} {self.engine['version']} ({self.engine['precision']})",
        ]
        for one in self.inputs:
            lines.append(_input_line(one))
            lines += [f"  {name:<9}{_stage_line(stage)}" for name, stage in one.stages.items()]
        return "\n".join(lines)


def _input_line(one: InputReport) -> str:
    losses = [f"{count} dropped at {place}" for place, count in one.dropped.items() if count]
    if one.damaged:
        losses.append(f"{one.damaged} damaged")
    if one.unrefined:
        losses.append(f"{one.unrefined} unrefined")
    latency = one.latency_ms.get("p50")
    tail = f"; latency {latency:.0f}/{one.latency_ms['p95']:.0f}/{one.latency_ms['p99']:.0f} ms (p50/p95/p99)" if latency else ""
    return f"{one.name}: {one.read} read, {one.written} written{''.join(', ' + loss for loss in losses)}{tail}"


def _stage_line(stage: StageReport) -> str:
    queue = "" if stage.queue_size is None else f"  queue {stage.queue_mean:.1f} of {stage.queue_size}"
    return f"{stage.busy:>6.0%} busy {stage.milliseconds:>8.2f} ms a frame{queue}"
