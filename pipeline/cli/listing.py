"""What ``--list-inputs``, ``--list-models`` and ``--dry-run`` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engines import zoo
from pipeline.options import RunOptions
from pipeline.runner import Runner
from pipeline.runner.metrics import MetricsServer
from pipeline.sinks.places import check_place
from pipeline.sources import list_inputs
from pipeline.sources.devices import is_camera


def inputs() -> str:
    """Cameras with their modes, and other inputs that this machine has."""
    rows: list[tuple[str, ...]] = []
    found = list_inputs()
    if not any(is_camera(each.uri) for each in found):
        rows.append(("-", "no camera is here"))
    for each in found:
        rows += [(each.uri, each.description), *(("", mode) for mode in each.modes)]
    return _table(rows)


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
    if options.serve.metrics is not None:
        MetricsServer(str(options.serve.metrics), options.serve)  # refuses what cannot be served
    with Runner(_at_once(options)) as runner:
        return _table(list(_rows(runner)))


def _at_once(options: RunOptions) -> RunOptions:
    """The same run, which does not wait for inputs that are not there."""
    inputs = tuple(
        one if one.source is None else replace(one, source=replace(one.source, reconnect=0)) for one in options.inputs
    )
    return replace(options, inputs=inputs, source=replace(options.source, reconnect=0))


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
