"""Everything that is to be known of an NVIDIA GPU in one go, within ten minutes: conformance, engines, the stream.

    python -m benchmarks.gpu --json out/gpu.json

Networks have fresh weights, since what they cost depends on their shape alone, and compute in half precision;
copies of the pictures in and of the scores out are part of every figure.  Each contender is timed with one batch at a
time, and with three in flight, torch too having a stream, memory and a CUDA graph for each.
Floors: the network's products at the rate of a large product of matrices, and its weights, pictures and scores
at the rate of a large copy, both measured on this card in the same run.  What has no runtime here, fails, or hangs
reads "not measured" with the reason: each part runs in processes of its own and is ended when its time is up.  Plans
that TensorRT has built are kept, so a second run has time for more.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_contenders import CONTENDERS, Rates
from benchmarks.gpu_networks import Exported
from benchmarks.gpu_parts import PartError, findings
from benchmarks.gpu_rows import FIRST, Row, blank_rows, compared, measured, table, targets
from benchmarks.machine import describe
from engines.backends import has_nvidia_driver
from engines.whole_file import whole_file

MARKS = {
    "DeepLab v2 paper, Titan X": "8 FPS",
    "mmdeploy, DeepLabV3-R50-D8 512×1024, T4, TensorRT 7.2 int8": "19.9 ms",
}
"""Published figures, to hold these against."""

PARTS = {
    "card": "benchmarks.gpu_contenders:card",
    "conformance": "benchmarks.gpu_stream:conformance",
    "networks": "benchmarks.gpu_networks:export_all",
    "pipeline": "benchmarks.gpu_stream:pipeline_fps",
    "streams": "benchmarks.gpu_stream:streams_at_30",
    "other engines": "benchmarks.gpu_stream:other_engines",
}
"""What runs by itself, beside the contenders."""

SHARES = {
    "card": 4, "conformance": 18, "networks": 11, "first": 42, "pipeline": 6, "streams": 10, "others": 6,
    "other engines": 3,
}  # fmt: skip
"""Of the time, in the order in which they run; what one leaves, those after it have."""

KEPT = 0.03
"""Share of the time that is kept for ending what hangs."""

NO_DRIVER = "no NVIDIA driver is loaded"


class Clock:
    """Time that is left.

    Args:
        minutes: for everything.
    """

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes * (1 - KEPT)
        self._shares = dict(SHARES)

    def begin(self, part: str) -> float:
        """Seconds that a part may take."""
        all_that_come = sum(self._shares.values())
        return max(0.0, self._end - time.monotonic()) * self._shares.pop(part) / all_that_come


@dataclass(slots=True)
class Figures:
    """What has been measured, written down whenever there is more.

    Attributes:
        path: of the JSON, or None.
        told: what it says.
    """

    path: Path | None
    told: dict[str, Any] = field(default_factory=dict)

    def note(self, **found: object) -> None:
        """Keep it, whatever comes of the rest."""
        self.told.update(found)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as path:
                path.write_text(json.dumps(self.told, indent=2) + "\n", encoding="utf-8")


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
    figures, clock = Figures(flags.json), Clock(flags.minutes)
    figures.note(machine=describe(), libnvinfer=ctypes.util.find_library("nvinfer"), marks=MARKS)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs is ended then, too
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            measure_all(figures, clock, flags.contenders.split(","), flags.seconds, folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    for name in ("conformance", "other engines", "pipeline", "streams", "targets"):
        print(f"{name}: {figures.told[name]}")


def measure_all(figures: Figures, clock: Clock, contenders: list[str], seconds: float, folder: str) -> None:
    """Run the parts in turn."""
    card = run_part(figures, clock, "card")
    rates = Rates(**card["rates"]) if card.get("rates") else None
    run_part(figures, clock, "conformance")
    rows = Rows(figures, contenders, *export_networks(clock.begin("networks"), folder), rates)
    rows.measure([name for name in FIRST if name in contenders], clock.begin("first"), seconds)
    run_part(figures, clock, "pipeline", folder=folder)
    run_part(figures, clock, "streams", folder=folder)
    rows.measure([name for name in contenders if name not in FIRST], clock.begin("others"), seconds)
    print(table(rows.all), flush=True)
    run_part(figures, clock, "other engines")


def run_part(figures: Figures, clock: Clock, name: str, **given: object) -> dict[str, Any]:
    """What a part finds: its last finding, the earlier ones being that of less, and why there is no more."""
    found: dict[str, Any] = {}
    try:
        for found in found_by(PARTS[name], given, clock.begin(name)):
            figures.note(**{name: found})
    except PartError as error:
        found = {**found, "rest" if found else "measured": f"not measured: {error}"}
        figures.note(**{name: found})
    return found


def found_by(function: str, given: dict[str, Any], seconds: float) -> Iterator[Any]:
    """As `findings`, where there is a GPU to ask.

    Raises:
        PartError: there is none, or as from `findings`.
    """
    if not has_nvidia_driver():
        raise PartError(NO_DRIVER)
    yield from findings(function, given, seconds)


def export_networks(seconds: float, folder: str) -> tuple[dict[str, Exported], str]:
    """As many as can be, by name, and why there are no more."""
    exported = {}
    try:
        for found in found_by(PARTS["networks"], {"folder": folder}, seconds):
            exported[found["name"]] = Exported(**found)
    except PartError as error:
        return exported, str(error)
    return exported, ""


class Rows:
    """The contenders' rows.

    Args:
        figures: where they are noted.
        contenders: by name.
        exported: what they run, by name.
        why: there is no more.
        rates: of the card, or None.
    """

    def __init__(
        self, figures: Figures, contenders: list[str], exported: dict[str, Exported], why: str, rates: Rates | None
    ) -> None:
        self._figures = figures
        self._exported = exported
        self._rates = rates
        self._rows = [
            replace(row, why="no time was left" if row.network in exported else why) for row in blank_rows(contenders)
        ]
        self._note()

    @property
    def all(self) -> list[Row]:
        """Every row, with its ratios as far as they are known."""
        return compared(self._rows, self._exported, self._rates)

    def measure(self, contenders: list[str], seconds: float, each: float) -> None:
        """Measure some contenders' rows, ``each`` seconds a row; what one contender leaves, those after it have."""
        end = time.monotonic() + seconds
        for index, name in enumerate(contenders):
            places = [place for place, row in enumerate(self._rows) if row.contender == name]
            parts = [FIRST.get(other, 1) for other in contenders[index:]]
            left = max(0.0, end - time.monotonic()) * parts[0] / sum(parts)
            for number, row in measured([self._rows[place] for place in places], self._exported, each, left):
                self._rows[places[number]] = row
                self._note()

    def _note(self) -> None:
        self._figures.note(rows=[asdict(row) for row in self.all], targets=targets(self.all))


if __name__ == "__main__":
    main()
