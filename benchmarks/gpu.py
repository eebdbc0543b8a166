"""Everything that is to be known of an NVIDIA GPU in one go, within ten minutes: conformance, engines, the stream.

    python -m benchmarks.gpu --json out/gpu.json

Networks have fresh weights, since what they cost depends on their shape alone, and compute in half precision;
copies of the pictures in and of the scores out are part of every figure, and up to three batches are in flight.
Floors: the network's products at the rate of a large product of matrices, and its weights, pictures and scores
at the rate of a large copy, both measured on this card in the same run.  What has no runtime here, or no time
left, reads "not measured" with the reason.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.gpu_contenders import CONTENDERS, Contender, Rates, Timing, card_rates, time_runner
from benchmarks.gpu_networks import NETWORKS, Exported, Network, export_network
from benchmarks.gpu_stream import OTHERS, conformance, pipeline_fps, streams_at_30
from benchmarks.machine import describe
from engines.doctor import examine_gpu

BATCHES = (1, 8)
FIRST = ("tensorrt", "torch-eager", "torch-graph", "torch-compile")
"""Contenders that the targets speak of; those that stand in for TensorRT get the time that is left."""

BASE = "torch-eager"
"""What ratios are told against."""

MARKS = {
    "DeepLab v2 paper, Titan X": "8 FPS",
    "mmdeploy, DeepLabV3-R50-D8 512×1024, T4, TensorRT 7.2 int8": "19.9 ms",
}
"""Published figures, to hold these against."""


@dataclass(frozen=True, slots=True)
class Row:
    """A network in a contender.

    Attributes:
        network, size, batch, contender: what ran; size is (height, width) in pixels.
        timing: None where it was not measured.
        why: it was not.
        ratio: times as many pictures a second as `BASE`, in the same run.
        of_flops, of_bytes: share of what the floors allow.
    """

    network: str
    size: tuple[int, int]
    batch: int
    contender: str
    timing: Timing | None = None
    why: str = ""
    ratio: float | None = None
    of_flops: float | None = None
    of_bytes: float | None = None


class Clock:
    """Time that is left.

    Args:
        minutes: for everything.
    """

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds, not below 0."""
        return max(0.0, self._end - time.monotonic())


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for everything: what is left is not measured (10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each row, after it has warmed up (1)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated (all)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args(arguments)
    clock = Clock(flags.minutes)
    names = flags.contenders.split(",")
    contenders = {name: CONTENDERS[name]() for name in names}
    rates = card_rates()
    figures: dict[str, object] = {
        "machine": describe(),
        "gpu": [asdict(finding) for finding in examine_gpu()],
        "libnvinfer": ctypes.util.find_library("nvinfer"),
        "rates": None if rates is None else asdict(rates),
        "marks": MARKS,
    }

    def note(**found: object) -> None:
        """Keep what has been measured, whatever comes of the rest."""
        figures.update(found)
        if flags.json:
            flags.json.parent.mkdir(parents=True, exist_ok=True)
            flags.json.write_text(json.dumps(figures, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        note(conformance=conformance(clock.left()))
        rows = measure_networks(NETWORKS, contenders, Path(folder), clock, flags.seconds, rates=rates)
        note(rows=[asdict(row) for row in rows], targets=targets(rows))
        print(table(rows), flush=True)
        note(pipeline=tried(lambda: pipeline_fps(Path(folder), clock.left())))
        note(streams=tried(lambda: streams_at_30(Path(folder), clock.left())))
        note(**{"other engines": conformance(clock.left(), OTHERS)})
    for name in ("conformance", "other engines", "pipeline", "streams", "targets"):
        print(f"{name}: {figures[name]}")


def tried(measure: Callable[[], object]) -> object:
    """What is measured, or why it could not be."""
    try:
        return measure()
    except Exception as error:  # of anybody's runtime: the other figures are worth no less
        return {"why": f"it failed: {' '.join(str(error).split())[:300]}"}


def measure_networks(
    networks: Sequence[Network],
    contenders: dict[str, Contender],
    folder: Path,
    clock: Clock,
    seconds: float,
    *,
    rates: Rates | None,
) -> list[Row]:
    """A row for each network, size, batch and contender; those of `FIRST` have the time before the others."""
    missing = {name: contender.why_not() for name, contender in contenders.items()}
    cases = [(network, size, batch) for network in networks for size in network.sizes for batch in BATCHES]
    exported: dict[str, Exported] = {}
    rows: dict[tuple[str, tuple[int, int], int, str], Row] = {}
    for first in (True, False):
        for network, size, batch in cases:
            for name in (name for name in contenders if (name in FIRST) == first):
                row = Row(network.name, size, batch, name, why=missing[name])
                if not row.why:
                    if network.name not in exported:
                        exported[network.name] = export_network(network, folder)
                    row = _measured(row, contenders[name], exported[network.name], clock, seconds)
                rows[network.name, size, batch, name] = row
    compared = []
    for network, size, batch in cases:
        group = [rows[network.name, size, batch, name] for name in contenders]
        compared += _compared(group, exported.get(network.name), rates)
    return compared


def _measured(row: Row, contender: Contender, exported: Exported, clock: Clock, seconds: float) -> Row:
    if clock.left() < 2 * seconds:
        return replace(row, why="no time was left")
    try:
        runner = contender.prepare(exported, row.size, row.batch)
        try:
            return replace(row, timing=time_runner(runner, row.batch, seconds))
        finally:
            runner.close()
    except Exception as error:  # of anybody's runtime: the other rows are worth no less
        return replace(row, why=" ".join(f"it failed: {error}".split())[:300])


def _compared(group: list[Row], exported: Exported | None, rates: Rates | None) -> list[Row]:
    """The rows of one network, size and batch with their ratios and shares."""
    base = next((row.timing for row in group if row.contender == BASE), None)
    compared = []
    for row in group:
        if row.timing is None:
            compared.append(row)
            continue
        a_second = row.timing.per_second
        ratio = a_second / base.per_second if base else None
        flops = moved = None
        if rates is not None and exported is not None:
            flops = exported.flops(row.size) * a_second / rates.flops
            moved = exported.least_bytes(row.size, row.batch) / row.batch * a_second / rates.bytes_a_second
        compared.append(replace(row, ratio=ratio, of_flops=flops, of_bytes=moved))
    return compared


def targets(rows: Sequence[Row]) -> dict[str, object]:
    """What is aimed at, and whether it is reached; None where it was not measured."""

    def of(contender: str) -> dict[tuple[object, ...], Row]:
        found = [row for row in rows if row.contender == contender and row.timing is not None]
        return {(row.network, row.size, row.batch): row for row in found}

    ours, compiled = of("tensorrt"), of("torch-compile")
    both = [_per_second(row) / _per_second(compiled[key]) for key, row in ours.items() if key in compiled]
    large = [row.of_flops for key, row in ours.items() if key == ("deeplabv2-resnet101-aspp", (513, 513), 8)]
    share = next((share for share in large if share is not None), None)
    return {
        "TensorRT at least 1.3 times torch.compile, fp16": None if not both else min(both) >= 1.3,
        "ResNet-101 513×513 batch 8 at 40 % of the FLOP floor": None if share is None else share >= 0.4,
    }


def _per_second(row: Row) -> float:
    return row.timing.per_second if row.timing else 0.0


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    columns = f"{'ms':>8} {'p95':>8} {'pict./s':>8} {'ratio':>6} {'FLOP':>6}"
    head = f"{'network':28} {'input':>9} {'batch':>5} {'engine':20} {columns}"
    lines = [head]
    for row in rows:
        start = f"{row.network:28} {row.size[1]:>4}×{row.size[0]:<4} {row.batch:>5} {row.contender:20}"
        if row.timing is None:
            lines.append(f"{start} not measured: {row.why}")
            continue
        timing = row.timing
        told = f"{timing.median_ms:8.2f} {timing.p95_ms:8.2f} {timing.per_second:8.1f}"
        lines.append(f"{start} {told} {_or_dash(row.ratio, '.2f'):>6} {_or_dash(row.of_flops, '.0%'):>6}")
    return "\n".join(lines)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
