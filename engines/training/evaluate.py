"""`python -m engines evaluate`: how good a model is on labelled pictures.

A picture goes the stream's own way: scaled as every frame is, scored by the engine, labelled at its
own size by the functions that label frames.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from tqdm import tqdm

from engines import zoo
from engines.backends import CHOICES, ENGINE_HELP, open_engine
from engines.backends.common import PRECISION_HELP, PRECISIONS
from engines.base import Engine, EngineError, EngineOptions, Model
from engines.facts import SIZES
from engines.training.datasets import CHOICES as DATASETS
from engines.training.datasets import DATASET_HELP, Sample, UInt8, find_samples, read_sample
from engines.training.metrics import WIDTHS, Confusion, Trimap
from engines.training.refining import CRF_MODES, Labeller, Refinement, chosen_refinement
from pipeline.frame import Colour, Float32, Geometry
from pipeline.stages.prepare import geometry_for, prepare
from pipeline.stages.refine import KINDS

TIMEOUT = 600.0
"""Seconds that a single picture may take."""

PICTURE_COLOUR = Colour(space=6, full_range=True)
"""BT.601 at full range: what pictures are turned into on their way to the stream's own scaling."""


SHOWN = (1, 2, 4, 8, 16, 40)
"""Widths of the trimap that people are told of; programs get them all."""

EXAMPLES = """\
examples:
  python -m engines evaluate --model street --root data/camvid --split val
  python -m engines evaluate --model street --root data/camvid --split val --refine crf --json crf.json
  python -m engines evaluate --model voc --root data/voc --split val --refine crf --crf-mode exact --crf-iterations 5
  python -m engines evaluate --model street --root data/camvid --split val --config tuned.yaml
"""


@dataclass(frozen=True, slots=True)
class _Picture:
    """The shape of a labelled picture, whose pixels are square."""

    height: int
    width: int
    sample_aspect_ratio: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        names: class names.
        confusion: pixels by true and predicted class.
        trimap: the same within bands around the edges of the true labels.
        pictures: how many there were.
        refinement: what became of the scores.
        milliseconds: median time of a picture from the decoded pixels to its labels; NaN without pictures.
        labelling: the part of it between scores and labels, its median.
    """

    names: tuple[str, ...]
    confusion: Confusion
    trimap: Trimap
    pictures: int
    refinement: Refinement
    milliseconds: float
    labelling: float

    def to_json(self) -> dict[str, Any]:
        """``miou``, ``pixel_accuracy``, ``iou`` by class name and ``trimap`` by width, in 0–1; None for what never was.

        ``milliseconds`` a picture, those of them in ``labelling``, and how the labels were made: ``refine``.
        """
        iou = dict(zip(self.names, map(number, self.confusion.iou().tolist()), strict=True))
        refine: dict[str, Any] = {"kind": self.refinement.kind}
        if self.refinement.kind == "crf":
            refine |= {"mode": self.refinement.mode, "crf": asdict(self.refinement.crf)}
        return {
            "miou": number(self.confusion.mean_iou()),
            "pixel_accuracy": number(self.confusion.pixel_accuracy()),
            "iou": iou,
            "trimap": {str(width): number(self.trimap.band(width).mean_iou()) for width in WIDTHS},
            "milliseconds": number(self.milliseconds),
            "labelling_milliseconds": number(self.labelling),
            "pictures": self.pictures,
            "refine": refine,
        }

    def table(self) -> str:
        """The same for people, in percent."""
        figures = self.to_json()
        rows = [*figures["iou"].items(), ("mIoU", figures["miou"]), ("pixel accuracy", figures["pixel_accuracy"])]
        rows += [(f"trimap {width} px", figures["trimap"][str(width)]) for width in SHOWN]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"{name:{width}}  {'absent' if value is None else format(100 * value, '6.2f')}" for name, value in rows
        ]
        if self.pictures:
            lines.append(f"{self.milliseconds:.1f} ms a picture, {self.labelling:.1f} ms of them from scores to labels")
        return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data_arguments(parser)
    parser.add_argument("--refine", choices=KINDS, help="how labels are sharpened (default: none, or the preset's)")
    parser.add_argument("--crf-mode", choices=CRF_MODES, help="how near to the exact CRF (default: pruned)")
    parser.add_argument("--crf-iterations", type=int, metavar="N", help="mean-field iterations of the CRF")
    parser.add_argument("--config", metavar="PRESET|FILE", help="a preset of the stream: its section refine is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what says which model is measured on which pictures."""
    parser.add_argument("--model", required=True, help="name of a model, or an ONNX file")
    parser.add_argument("--root", type=Path, required=True, help="directory of the data set")
    parser.add_argument("--split", required=True, help="which of its lists or directories, as val")
    parser.add_argument("--dataset", default="auto", choices=DATASETS, help=DATASET_HELP)
    parser.add_argument("--size", type=int, help="short side of the network's picture (default: the model's)")
    parser.add_argument("--ignore", type=int, action="append", default=[], metavar="LABEL",
                        help="label that means none, besides 255 and the first beyond the classes")  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="take N pictures alone, evenly from the whole")
    parser.add_argument("--engine", default="auto", choices=CHOICES, help=ENGINE_HELP)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    check_data_arguments(args)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise EngineError(f"{args.json}: cannot be written: its directory does not exist")
    refinement = chosen_refinement(args.config, args.refine, args.crf_mode, args.crf_iterations)
    model = zoo.load_model(args.model, args.precision)
    samples = chosen_samples(args, model)
    engine = open_engine(model, args.engine, EngineOptions(args.precision, args.threads))
    try:
        result = evaluate(engine, samples, size=args.size, ignore=args.ignore, refinement=refinement)
    finally:
        engine.close()
    print(result.table())
    if args.json is not None:
        write_json(args.json, result.to_json())
    return 0


def check_data_arguments(args: argparse.Namespace) -> None:
    """Refuse what `add_data_arguments` cannot.

    Raises:
        EngineError: with a message of one line.
    """
    if args.size is not None and not SIZES[0] <= args.size <= SIZES[1]:
        raise EngineError(f"--size {args.size} is out of range: {SIZES[0]} to {SIZES[1]} pixels")
    if not all(0 <= label <= 255 for label in args.ignore):
        raise EngineError("--ignore takes labels from 0 to 255")
    if args.limit is not None and args.limit < 1:
        raise EngineError(f"--limit {args.limit}: at least one picture is needed")


def chosen_samples(args: argparse.Namespace, model: Model) -> list[Sample]:
    """The pictures that the arguments of `add_data_arguments` name, their labels being the model's classes.

    Raises:
        EngineError: the data set is not there, incomplete, or of other classes.
    """
    samples = find_samples(args.root, args.split, args.dataset, model.labels.names)
    return spread_over(samples, args.limit)


def spread_over(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """``limit`` of the samples at even distances, or all of them."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[number * len(samples) // limit] for number in range(limit)]


def evaluate(
    engine: Engine,
    samples: Sequence[Sample],
    *,
    size: int | None = None,
    ignore: Sequence[int] = (),
    refinement: Refinement | None = None,
) -> Evaluation:
    """Label pictures and count.

    Args:
        engine: the network.
        samples: pictures and their true labels.
        size: short side of the network's picture in pixels; the model's own where None.
        ignore: labels that mean none, besides 255 and the first beyond the classes.
        refinement: how the labels are sharpened; not at all where None.

    Raises:
        EngineError: a file cannot be used, or the network failed.
    """
    names = engine.model.labels.names
    confusion, trimap = Confusion(len(names)), Trimap(len(names))
    refinement = refinement or Refinement()
    labeller = Labeller(refinement)
    scoring, labelling = [], []
    pairs = labelled_pictures(samples, len(names), ignore)
    progress = tqdm(pairs, total=len(samples), desc="evaluating", unit="picture", mininterval=0.5)
    for image, truth in progress:
        began = time.perf_counter()
        scores, geometry = score(engine, image, size or engine.model.size)
        scored = time.perf_counter()
        labels = labeller.labels(image, scores, geometry)
        labelling.append(time.perf_counter() - scored)
        scoring.append(scored - began)
        confusion.add(truth, labels)
        trimap.add(truth, labels)
        progress.set_postfix(mIoU=f"{confusion.mean_iou():.3f}", refresh=False)
    return Evaluation(
        names,
        confusion,
        trimap,
        len(samples),
        refinement,
        milliseconds=_milliseconds([sum(both) for both in zip(scoring, labelling, strict=True)]),
        labelling=_milliseconds(labelling),
    )


def labelled_pictures(
    samples: Sequence[Sample], classes: int, ignore: Sequence[int] = ()
) -> Iterator[tuple[UInt8, UInt8]]:
    """RGB pictures, H×W×3, and their labels, H×W with 255 for none; the next is read while one is in use.

    Raises:
        EngineError: a file cannot be used.
    """
    none = sorted({classes, *ignore} - {255})
    return _ahead(lambda sample: read_sample(sample, classes, none), samples)


def score(engine: Engine, image: UInt8, size: int) -> tuple[Float32, Geometry]:
    """Scores of one picture, as the stream would get them.

    Args:
        engine: the network.
        image: RGB, H×W×3.
        size: short side of the network's picture, in pixels.

    Returns:
        C×h×w logits, and where they lie in the picture.

    Raises:
        EngineError: the network failed.
    """
    geometry = picture_geometry(engine.model, image, size)
    session = engine.session(geometry.input_height, geometry.input_width)
    scores = np.empty(session.score_shape, np.float32)
    session.start(network_picture(image, geometry), scores).wait(TIMEOUT)
    return scores, geometry


def network_picture(image: UInt8, geometry: Geometry) -> UInt8:
    """A picture, RGB, H×W×3, scaled as the stream does: input_height×input_width×3."""
    given = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG
    )
    prepare(frame, geometry, given, PICTURE_COLOUR)
    return given


def picture_geometry(model: Model, image: UInt8, size: int) -> Geometry:
    """Where a model's input and scores lie in a picture of H×W×3 square pixels."""
    return geometry_for(_Picture(*image.shape[:2]), model, size)


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all.

    Raises:
        EngineError: the file cannot be written.
    """
    write_text(path, json.dumps(figures, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, whole or not at all.

    Raises:
        EngineError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error


def _ahead(read: Callable[[Sample], tuple[UInt8, UInt8]], samples: Sequence[Sample]) -> Iterator[tuple[UInt8, UInt8]]:
    """Pictures in order, the next one being read while one is in use."""
    with ThreadPoolExecutor(1, "read") as pool:
        ready = None
        for sample in samples:
            following = pool.submit(read, sample)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds) if seconds else float("nan")


def number(value: float) -> float | None:
    """A figure for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
