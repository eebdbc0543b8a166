"""What ``--list-inputs``, ``--list-models`` and ``--dry-run`` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engines import zoo
from pipeline.options import RunOptions
from pipeline.runner import Runner
from pipeline.sinks.files import check_place
from pipeline.sources import list_inputs


def inputs() -> str:
    """Cameras and other inputs that this machine has, a line each."""
    return _table([(each.uri, each.description) for each in list_inputs()])


def models() -> str:
    """Models that can be named, a line each."""
    rows = [
        (one.entry.name, f"{len(one.entry.labels)} classes", one.place, one.entry.licence, one.entry.about)
        for one in zoo.list_models()
    ]
    return _table(rows)


def plan(options: RunOptions, report: str | None) -> str:
    """What a run would do; everything is opened or, where that would make a file, looked at; nothing flows.

    Args:
        options: the run.
        report: file for the report, or None.

    Raises:
        PipelineError, EngineError: as the run would.
    """
    if report is not None:
        check_place(Path(report), f"report {report}")
    with Runner(options) as runner:
        return _table(list(_rows(runner)))


def _rows(runner: Runner) -> Iterator[tuple[str, str]]:
    engine, model = runner.engine.info, runner.engine.model
    yield "model", f"{model.name}, {len(model.labels)} classes, short side {runner.size} px"
    yield "engine", f"{engine.backend} {engine.version} on {engine.device}, {engine.arithmetic}"
    yield "processors", f"{runner.plan.cpus:g}: {engine.threads} for the engine, {engine.requests} requests in flight"
    for lane in runner.lanes:
        info = lane.source.info
        length = f", {info.frames} frames" if info.frames else ""
        rate = f", {float(info.average_rate):.3g} FPS" if info.average_rate else ""
        yield "input", f"{info.uri}: {info.width}×{info.height} {info.format.name}{rate}{length}"
        yield from (("output", outlet.sink.name) for outlet in lane.outlets)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)
