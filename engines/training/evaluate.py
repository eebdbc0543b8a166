"""`python -m engines evaluate`: how good a model is on labelled pictures.

A picture goes the stream's own way: scaled as every frame is, scored by the engine, labelled at its
own size by the functions that label frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engines import zoo
from engines.backends import CHOICES, ENGINE_HELP, open_engine
from engines.backends.common import PRECISION_HELP, PRECISIONS
from engines.base import EngineError, EngineOptions, Model
from engines.facts import SIZES
from engines.training.datasets import CHOICES as DATASETS
from engines.training.datasets import DATASET_HELP, Sample, find_samples
from engines.training.evaluation import evaluate
from engines.training.files import demand_directory_of, write_json
from engines.training.refining import CRF_MODES, chosen_refinement
from engines.training.scoring import Views
from pipeline.stages.refine import KINDS

EXAMPLES = """\
examples:
  python -m engines evaluate --model street --root data/camvid --split val
  python -m engines evaluate --model street --root data/camvid --split val --refine crf --json crf.json
  python -m engines evaluate --model voc --root data/voc --split val --refine crf --crf-mode exact --crf-iterations 5
  python -m engines evaluate --model street --root data/camvid --split val --config tuned.yaml
  python -m engines evaluate --model voc --root data/voc --split val --scales 0.5,0.75,1,1.25,1.5,1.75 --flip
  python -m engines evaluate --model cityscapes.onnx --root data/cityscapes --split val --resume val.work
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data_arguments(parser)
    parser.add_argument("--refine", choices=KINDS, help="how labels are sharpened (default: none, or the preset's)")
    parser.add_argument("--crf-mode", choices=CRF_MODES, help="how near to the exact CRF (default: pruned)")
    parser.add_argument("--crf-iterations", type=int, metavar="N", help="mean-field iterations of the CRF")
    parser.add_argument("--config", metavar="PRESET|FILE", help="a preset of the stream: its section refine is taken")
    parser.add_argument("--scales", type=_scales, default=(1.0,), metavar="S,S,…", help="see each picture in these "
                        "sizes, times the network's own, and average the probabilities (default: 1)")  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="see each mirrored, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep what was counted here every few seconds, and "
                        "go on from it if it is there")  # fmt: skip


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


def _scales(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    try:
        return Views(tuple(float(word) for word in text.split(","))).scales
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no scales: write different numbers above 0 and up to 8 between commas, as 0.5,1,1.5"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    check_data_arguments(args)
    for path in (args.json, args.resume):
        demand_directory_of(path)
    refinement = chosen_refinement(args.config, args.refine, args.crf_mode, args.crf_iterations)
    model = zoo.load_model(args.model, args.precision)
    views = Views(args.scales, args.flip)
    views.sizes(model, args.size or model.size)
    samples = chosen_samples(args, model)
    engine = open_engine(model, args.engine, EngineOptions(args.precision, args.threads))
    try:
        result = evaluate(
            engine,
            samples,
            size=args.size,
            ignore=args.ignore,
            refinement=refinement,
            views=views,
            work=args.resume,
        )
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
