"""The rows of `benchmarks.gpu`: each network at each size, in batches, by each contender, in a process for each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.gpu_contenders import CONTENDERS, Rates, Timing, time_runner
from benchmarks.gpu_networks import NETWORKS, Exported
from benchmarks.gpu_parts import PartError, findings
from engines.backends.common import IN_FLIGHT

BATCHES = (1, 8)

FIRST = {"torch-eager": 1, "torch-graph": 1, "tensorrt": 3, "torch-compile": 2}
"""Contenders that the targets speak of, in their order, with their parts of the time: two compile for long.

Those that stand in for TensorRT get the time that is left.
"""

LONGEST = 0.75
"""Share of a contender's time that a row may take, so that one that hangs leaves some for the next."""

BASE = "torch-eager"
"""What ratios are told against."""

MEASURE = "benchmarks.gpu_rows:measure"
"""The part that measures a contender."""

SHORTEST_S = 5.0
"""With less time left no contender is begun."""


@dataclass(frozen=True, slots=True)
class Row:
    """A network in a contender.

    Attributes:
        network, size, batch, contender: what ran; size is (height, width) in pixels.
        timing: None where it was not measured.
        why: it was not.
        ratio: times as many pictures a second as `BASE`, with as many batches in flight, in the same run.
        ratio_alone: the same of one batch at a time.
        of_flops, of_bytes: share of what the floors allow.
    """

    network: str
    size: tuple[int, int]
    batch: int
    contender: str
    timing: Timing | None = None
    why: str = ""
    ratio: float | None = None
    ratio_alone: float | None = None
    of_flops: float | None = None
    of_bytes: float | None = None


def blank_rows(contenders: Sequence[str]) -> list[Row]:
    """A row for each network, size, batch and contender, none measured yet."""
    return [
        Row(network.name, size, batch, contender)
        for network in NETWORKS
        for size in network.sizes
        for batch in BATCHES
        for contender in contenders
    ]


def measure(contender: str, cases: Sequence[Any], exported: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
    """The part that measures one contender; finds a timing or why there is none for each case.

    Args:
        contender: key of `CONTENDERS`.
        cases: (network's name, (height, width), batch) of each.
        exported: each network's `Exported`, as JSON has it.
        seconds: to time each case.
    """
    runs = CONTENDERS[contender]()
    why = runs.why_not()
    for network, size, batch in cases:
        if why:
            yield {"why": why}
            continue
        try:
            runner = runs.prepare(Exported(**exported[network]), (size[0], size[1]), batch)
            try:
                timing = time_runner(runner, batch, seconds)
            finally:
                runner.close()
        except Exception as error:  # of anybody's runtime: the other rows are worth no less
            yield {"why": f"it failed: {' '.join(str(error).split())[:300]}"}
        else:
            yield {"timing": asdict(timing)}


def measured(
    rows: Sequence[Row], exported: dict[str, Exported], seconds: float, left: float
) -> Iterator[tuple[int, Row]]:
    """One contender's rows as they are known, each with its place; one that hangs is ended, and the next ones go on.

    Args:
        rows: of one contender.
        exported: networks by name; rows of others are left as they are.
        seconds: to time each.
        left: seconds for all of them.
    """
    waiting = deque((place, row) for place, row in enumerate(rows) if row.network in exported)
    end = time.monotonic() + left
    while waiting and (remaining := end - time.monotonic()) >= SHORTEST_S:
        given = {
            "contender": rows[0].contender,
            "cases": [(row.network, row.size, row.batch) for _, row in waiting],
            "exported": {name: asdict(each) for name, each in exported.items()},
            "seconds": seconds,
        }
        try:
            for found in findings(MEASURE, given, remaining, lambda left: left * LONGEST):
                place, row = waiting.popleft()
                timing = Timing(**found["timing"]) if "timing" in found else None
                yield place, replace(row, timing=timing, why=found.get("why", ""))
        except PartError as error:
            place, row = waiting.popleft()
            yield place, replace(row, why=str(error))


def compared(rows: Sequence[Row], exported: dict[str, Exported], rates: Rates | None) -> list[Row]:
    """The rows with their ratios and shares."""
    base = {(row.network, row.size, row.batch): row.timing for row in rows if row.contender == BASE}
    return [_compared(row, base.get((row.network, row.size, row.batch)), exported, rates) for row in rows]


def _compared(row: Row, base: Timing | None, exported: dict[str, Exported], rates: Rates | None) -> Row:
    if row.timing is None:
        return row
    a_second = row.timing.per_second
    if base is not None:
        alone = row.timing.alone_per_second / base.alone_per_second
        row = replace(row, ratio=a_second / base.per_second, ratio_alone=alone)
    if rates is None or row.network not in exported:
        return row
    network = exported[row.network]
    sizes = next(each.sizes for each in NETWORKS if each.name == row.network)
    flops = network.flops[sizes.index(row.size)] * a_second / rates.flops
    moved = network.least_bytes(row.size, row.batch) / row.batch * a_second / rates.bytes_a_second
    return replace(row, of_flops=flops, of_bytes=moved)


def targets(rows: Sequence[Row]) -> dict[str, object]:
    """What is aimed at, and whether it is reached; None where it was not measured."""

    def of(contender: str) -> dict[tuple[object, ...], tuple[Row, Timing]]:
        found = [(row, row.timing) for row in rows if row.contender == contender and row.timing is not None]
        return {(row.network, row.size, row.batch): (row, timing) for row, timing in found}

    ours, compiled = of("tensorrt"), of("torch-compile")
    both = [(timing, compiled[key][1]) for key, (_, timing) in ours.items() if key in compiled]
    flying = [first.per_second / second.per_second for first, second in both]
    alone = [first.alone_per_second / second.alone_per_second for first, second in both]
    large = [row.of_flops for key, (row, _) in ours.items() if key == ("deeplabv2-resnet101-aspp", (513, 513), 8)]
    share = next((share for share in large if share is not None), None)
    on = f"on {len(both)} of {len(ours.keys() | compiled.keys())} rows"
    return {
        f"TensorRT at least 1.3 times torch.compile, fp16, both with {IN_FLIGHT} batches in flight ({on})":
            min(flying) >= 1.3 if both else None,
        f"TensorRT at least 1.3 times torch.compile, fp16, both with one batch at a time ({on})":
            min(alone) >= 1.3 if both else None,
        "ResNet-101 513×513 batch 8 at 40 % of the FLOP floor": None if share is None else share >= 0.4,
    }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows for people: one batch at a time, then several in flight."""
    columns = f"{'ms':>8} {'p95':>8} {'alone/s':>8} {'ratio':>6} {'flying/s':>8} {'ratio':>6} {'FLOP':>6}"
    head = f"{'network':28} {'input':>9} {'batch':>5} {'engine':20} {columns}"
    lines = [head]
    for row in rows:
        start = f"{row.network:28} {row.size[1]:>4}×{row.size[0]:<4} {row.batch:>5} {row.contender:20}"
        if row.timing is None:
            lines.append(f"{start} not measured: {row.why}")
            continue
        timing = row.timing
        alone = f"{timing.alone_per_second:8.1f} {_or_dash(row.ratio_alone, '.2f'):>6}"
        flying = f"{timing.per_second:8.1f} {_or_dash(row.ratio, '.2f'):>6} {_or_dash(row.of_flops, '.0%'):>6}"
        lines.append(f"{start} {timing.median_ms:8.2f} {timing.p95_ms:8.2f} {alone} {flying}")
    return "\n".join(lines)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
