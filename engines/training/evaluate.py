"""`python -m engines evaluate`: how good a model is on labelled pictures.

A picture goes the stream's own way: scaled as every frame is, scored by the engine, labelled at its
own size by the function that labels frames.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from tqdm import tqdm

from engines import zoo
from engines.backends import CHOICES, open_engine
from engines.base import Engine, EngineError, EngineOptions
from engines.facts import SIZES
from engines.training.dataset import Sample, UInt8, find_samples, read_sample
from engines.training.metrics import Confusion
from pipeline.frame import Colour
from pipeline.stages.prepare import geometry_for, prepare
from pipeline.stages.upsample import upsample_argmax

TIMEOUT = 600.0
"""Seconds that a single picture may take."""

PICTURE_COLOUR = Colour(space=6, full_range=True)
"""BT.601 at full range: what pictures are turned into on their way to the stream's own scaling."""


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
        pictures: how many there were.
    """

    names: tuple[str, ...]
    confusion: Confusion
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """``miou``, ``pixel_accuracy`` and ``iou`` by class name, in 0–1; None where nothing was seen."""
        iou = dict(zip(self.names, map(_number, self.confusion.iou().tolist()), strict=True))
        return {
            "miou": _number(self.confusion.mean_iou()),
            "pixel_accuracy": _number(self.confusion.pixel_accuracy()),
            "iou": iou,
        }

    def table(self) -> str:
        """The same for people, in percent."""
        figures = self.to_json()
        rows = [*figures["iou"].items(), ("mIoU", figures["miou"]), ("pixel accuracy", figures["pixel_accuracy"])]
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            f"{name:{width}}  {'absent' if value is None else format(100 * value, '6.2f')}" for name, value in rows
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", required=True, help="name of a model, or an ONNX file")
    parser.add_argument("--root", type=Path, required=True, help="directory of the splits")
    parser.add_argument("--split", required=True, help="directory under it, with images/ and labels/")
    parser.add_argument("--size", type=int, help="short side of the network's picture (default: the model's)")
    parser.add_argument("--ignore", type=int, action="append", default=[], metavar="LABEL",
                        help="label that means none, besides 255 and the first beyond the classes")  # fmt: skip
    parser.add_argument("--engine", default="auto", choices=CHOICES)
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    if args.size is not None and not SIZES[0] <= args.size <= SIZES[1]:
        raise EngineError(f"--size {args.size} is out of range: {SIZES[0]} to {SIZES[1]} pixels")
    if not all(0 <= label <= 255 for label in args.ignore):
        raise EngineError("--ignore takes labels from 0 to 255")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise EngineError(f"{args.json}: cannot be written: its directory does not exist")
    samples = find_samples(args.root, args.split)
    engine = open_engine(zoo.load_model(args.model), args.engine, EngineOptions(args.precision, args.threads))
    try:
        result = evaluate(engine, samples, size=args.size, ignore=args.ignore)
    finally:
        engine.close()
    print(result.table())
    if args.json is not None:
        write_json(args.json, result.to_json())
    return 0


def evaluate(
    engine: Engine, samples: Sequence[Sample], *, size: int | None = None, ignore: Sequence[int] = ()
) -> Evaluation:
    """Label pictures and count.

    Args:
        engine: the network.
        samples: pictures and their true labels.
        size: short side of the network's picture in pixels; the model's own where None.
        ignore: labels that mean none, besides 255 and the first beyond the classes.

    Raises:
        EngineError: a file cannot be used, or the network failed.
    """
    names = engine.model.labels.names
    none = {len(names), *ignore} - {255}
    confusion = Confusion(len(names))

    def read(sample: Sample) -> tuple[UInt8, UInt8]:
        return read_sample(sample, len(names), sorted(none))

    progress = tqdm(_ahead(read, samples), total=len(samples), desc="evaluating", unit="picture", mininterval=0.5)
    for image, truth in progress:
        confusion.add(truth, predict(engine, image, size or engine.model.size))
        progress.set_postfix(mIoU=f"{confusion.mean_iou():.3f}", refresh=False)
    return Evaluation(names, confusion, len(samples))


def predict(engine: Engine, image: UInt8, size: int) -> UInt8:
    """Labels of one picture, as the stream would give them.

    Args:
        engine: the network.
        image: RGB, H×W×3.
        size: short side of the network's picture, in pixels.

    Returns:
        H×W class indices.

    Raises:
        EngineError: the network failed.
    """
    model = engine.model
    height, width = image.shape[:2]
    geometry = geometry_for(_Picture(height, width), model, size)
    session = engine.session(geometry.input_height, geometry.input_width)
    given = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG
    )
    prepare(frame, geometry, given, PICTURE_COLOUR)
    scores = np.empty(session.score_shape, np.float32)
    session.start(given, scores).wait(TIMEOUT)
    return upsample_argmax(scores, geometry)[0]


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all.

    Raises:
        EngineError: the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
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


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
