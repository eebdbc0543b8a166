"""What accuracy costs: mIoU and trimap mIoU against milliseconds, for every way from scores to labels.

    python -m benchmarks.pareto --root data/camvid --split val --output docs/crf.svg --json docs/benchmarks/pareto.json
    python -m benchmarks.pareto --root data/camvid --split val --limit 5 --output out/trial.svg

Measured by `python -m engines evaluate`'s own function, one way after the other on the same pictures: bilinear
labels at the model's size, at larger ones and with the same weights at output stride 8, the guided filter, and the
fully connected CRF in each of its modes.  The model must be one that this program exported.  A picture's time is what
its network and its labels take of all processors together, whatever else these do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from engines import zoo
from engines.backends import open_engine
from engines.backends.common import PRECISIONS
from engines.base import Engine, EngineOptions, Model
from engines.model_file import read_model
from engines.training.datasets import Sample, find_samples
from engines.training.evaluate import spread_over
from engines.training.evaluation import Method, evaluate, label_picture
from engines.training.refining import CRF_MODES, Labeller, Refinement, chosen_refinement
from engines.training.scoring import labelled_pictures

WIDTH = 4
"""Of the trimap, in pixels."""

LARGER = (1.25, 1.5, 2.0)
"""Inputs, by the model's own size."""

ITERATIONS = (2, 5, 10)

TIMED = 16
"""Pictures whose time is taken."""

FINER = 8
"""Output stride that the network is tried at, too."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to labels.

    Attributes:
        family: what it is joined with in the plot.
        name: beside its point.
        size: short side of the network's input, in pixels.
        refinement: what becomes of the scores.
        output_stride: of the network; None for the model's own.
    """

    family: str
    name: str
    size: int
    refinement: Refinement
    output_stride: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """What a way costs and gives: milliseconds of processor time a picture; mIoU and trimap mIoU in 0–1."""

    family: str
    name: str
    milliseconds: float
    miou: float
    trimap: float


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="street", help="a name, or an ONNX file (default: street)")
    parser.add_argument("--root", type=Path, required=True, help="directory of the splits")
    parser.add_argument("--split", default="val", help="directory under it, with images/ and labels/ (default: val)")
    parser.add_argument("--limit", type=int, metavar="N", help="take N pictures alone, evenly from the whole")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of the network (default: fp32)")
    parser.add_argument("--config", metavar="PRESET|FILE", help="where the CRF's parameters are, as tune-crf writes it")
    parser.add_argument("--output", type=Path, default=Path("out/pareto.svg"), help=".svg or .png")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, plot, print the table, write the JSON."""
    flags = make_parser().parse_args()
    samples = spread_over(find_samples(flags.root, flags.split), flags.limit)
    model = zoo.load_model(flags.model)
    options = EngineOptions(flags.precision)
    chosen = ways(model.size, chosen_refinement(flags.config, None, None, None))
    points = []
    with tempfile.TemporaryDirectory(prefix="deeplab-stream-") as folder:
        for stride, those in groupby(chosen, lambda way: way.output_stride):
            with closing(open_engine(at_stride(model, stride, Path(folder)), "auto", options)) as engine:
                points += [measure(way, engine, samples) for way in those]
    title = f"{model.name} on {len(samples)} pictures of {flags.root.name}/{flags.split}"
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    plot(points, title, flags.output)
    print(table(points))
    if flags.json:
        figures: dict[str, Any] = {"machine": describe(), "title": title, "points": [_json(point) for point in points]}
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(figures, indent=2) + "\n")


def at_stride(model: Model, stride: int | None, folder: Path) -> Model:
    """The model, or the same weights exported at another output stride into a folder."""
    if stride is None:
        return model
    from engines.export import export, read_export  # here, since it needs torch

    path = folder / f"{stride}.onnx"
    export(replace(read_export(model), output_stride=stride), path, name=model.name)
    return read_model(path)


def ways(size: int, crf: Refinement) -> Iterator[Way]:
    """All that is compared; ``crf`` gives the CRF's parameters."""
    for factor in (1.0, *LARGER):
        side = round(size * factor / 32) * 32
        yield Way("bilinear", f"{side} px", side, Refinement())
    yield Way("guided filter", "guided", size, Refinement("guided"))
    for mode in CRF_MODES:
        for iterations in ITERATIONS:
            refinement = Refinement("crf", mode, replace(crf.crf, iterations=iterations))
            yield Way(f"CRF, {mode}", str(iterations), size, refinement)
    yield Way(f"output stride {FINER}", f"{size} px", size, Refinement(), FINER)


def measure(way: Way, engine: Engine, samples: Sequence[Sample]) -> Point:
    """Label all pictures one way."""
    found = evaluate(engine, samples, size=way.size, refinement=way.refinement)
    band = found.trimap.band(WIDTH).mean_iou()
    milliseconds = processor_time(found.method, engine, spread_over(samples, TIMED))
    return Point(way.family, way.name, milliseconds, found.confusion.mean_iou(), band)


def processor_time(method: Method, engine: Engine, samples: Sequence[Sample]) -> float:
    """Milliseconds that a picture takes of the processors, the median of all but the first, which also allocates."""
    labeller = Labeller(method.refinement)
    pictures = [image for image, _ in labelled_pictures(samples, len(engine.model.labels), method.ignore)]
    taken = []
    for image in pictures:
        began = time.process_time()
        label_picture(engine, image, method, labeller)
        taken.append(time.process_time() - began)
    return 1e3 * statistics.median(taken[1:] or taken)


def plot(points: Sequence[Point], title: str, path: Path) -> None:
    """Two panels: mIoU and trimap mIoU against milliseconds; a family's points are joined."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    mpl.rcParams |= {"svg.hashsalt": "pareto", "font.size": 9}  # equal figures give an equal file
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for panel, what, said in zip(panels, ("miou", "trimap"), ("mIoU, %", f"mIoU within {WIDTH} px of an edge, %"),
                                 strict=True):  # fmt: skip
        for family in dict.fromkeys(point.family for point in points):
            own = [point for point in points if point.family == family]
            times, values = [point.milliseconds for point in own], [100 * getattr(point, what) for point in own]
            panel.plot(times, values, "o-", markersize=4, linewidth=1, label=family)
            for point, *place in zip(own, times, values, strict=True):
                panel.annotate(point.name, place, xytext=(3, 3), textcoords="offset points", fontsize=7)
        panel.set(xscale="log", xlabel="milliseconds of processor time a picture", ylabel=said)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def table(points: Sequence[Point]) -> str:
    """The figures for people."""
    lines = [f"{'labels by':<16}{'':<10}{'ms':>8}{'mIoU':>8}{f'{WIDTH} px':>8}"]
    lines += [
        f"{one.family:<16}{one.name:<10}{one.milliseconds:>8.1f}{100 * one.miou:>8.2f}{100 * one.trimap:>8.2f}"
        for one in points
    ]
    return "\n".join(lines)


def _json(point: Point) -> dict[str, object]:
    return {
        "family": point.family,
        "name": point.name,
        "milliseconds": round(point.milliseconds, 2),
        "miou": round(point.miou, 5),
        f"trimap_{WIDTH}": round(point.trimap, 5),
    }


if __name__ == "__main__":
    main()
