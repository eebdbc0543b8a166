"""`python -m engines evaluate`: how good a model is on labelled pictures.

A picture goes the stream's own way: scaled as every frame is, scored by the engine, labelled at its
own size by the functions that label frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from engines import zoo
from engines.backends import CHOICES, ENGINE_HELP, open_engine
from engines.backends.common import PRECISION_HELP, PRECISIONS
from engines.base import Engine, EngineError, EngineOptions, Model
from engines.facts import demand_size
from engines.training.datasets import CHOICES as DATASETS
from engines.training.datasets import DATASET_HELP, Sample, find_samples
from engines.training.evaluation import Evaluation, Method, evaluate
from engines.training.files import demand_directory_of, write_json, write_text
from engines.training.refining import CRF_MODES, chosen_refinement
from engines.training.report.charts import demand_matplotlib
from engines.training.report.frames import worst_frames
from engines.training.report.page import html_report
from engines.training.scoring import Size, Views
from pipeline.stages.refine import KINDS

EXAMPLES = """\
examples:
  python -m engines evaluate --model street --root data/camvid --split val
  python -m engines evaluate --model street --root data/camvid --split val --refine crf --json crf.json
  python -m engines evaluate --model voc --root data/voc --split val --refine crf --crf-mode exact --crf-iterations 5
  python -m engines evaluate --model street --root data/camvid --split val --config tuned.yaml
  python -m engines evaluate --model voc --root data/voc --split val --scales 0.5,0.75,1,1.25,1.5,1.75 --flip
  python -m engines evaluate --model cityscapes.onnx --root data/cityscapes --split val --resume val.work
  python -m engines evaluate --model street --root data/camvid --split val --html report.html
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
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report for people: one file, with "
                        "charts and the worst pictures")  # fmt: skip
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep what was counted here every few seconds, and "
                        "go on from it if it is there")  # fmt: skip


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what says which model is measured on which pictures."""
    parser.add_argument("--model", required=True, help="name of a model, or an ONNX file")
    parser.add_argument("--root", type=Path, required=True, help="directory of the data set")
    parser.add_argument("--split", required=True, help="which of its lists or directories, as val")
    parser.add_argument("--dataset", default="auto", choices=DATASETS, help=DATASET_HELP)
    parser.add_argument("--size", type=_size, metavar="N|own", help="short side of the network's picture, or own: "
                        "every picture at its own size (default: the model's)")  # fmt: skip
    parser.add_argument("--ignore", type=int, action="append", default=[], metavar="LABEL",
                        help="label that means none, besides 255 and the first beyond the classes")  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="take N pictures alone, evenly from the whole")
    parser.add_argument("--engine", default="auto", choices=CHOICES, help=ENGINE_HELP)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")


def _size(text: str) -> Size:
    """A number of pixels, or ``own``."""
    if text == "own":
        return "own"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write a number of pixels, or own") from None


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
    for path in (args.json, args.html, args.resume):
        demand_directory_of(path)
    if args.html is not None:
        demand_matplotlib()
    refinement = chosen_refinement(args.config, args.refine, args.crf_mode, args.crf_iterations)
    model = zoo.load_model(args.model, args.precision)
    views = Views(args.scales, args.flip)
    views.sizes(model, args.size if isinstance(args.size, int) else model.size)
    samples = chosen_samples(args, model)
    engine = open_engine(model, args.engine, EngineOptions(args.precision, args.threads, cache=zoo.compiled_cache()))
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
        facts = _facts(args, engine, result.method)
        report = _report(args, engine, samples, result, facts) if args.html is not None else None
    finally:
        engine.close()
    print(result.table())
    if report is not None:
        write_text(args.html, report)
    if args.json is not None:
        write_json(args.json, result.to_json() | {"measured": dict(facts)})
    return 0


def _report(
    args: argparse.Namespace,
    engine: Engine,
    samples: Sequence[Sample],
    result: Evaluation,
    facts: list[tuple[str, str]],
) -> str:
    """The report for people, as HTML."""
    title = f"{engine.model.name} on {args.split} of {args.root.resolve().name}"
    return html_report(result, title, facts, worst_frames(engine, samples, result))


def _facts(args: argparse.Namespace, engine: Engine, method: Method) -> list[tuple[str, str]]:
    """What an evaluation depends on, for people."""
    model, info, refinement = engine.model, engine.info, method.refinement
    scales = ", ".join(f"{scale:g}" for scale in method.views.scales)
    seen = "their own size" if method.size == "own" else f"a short side of {method.size} pixels"
    made = {"none": "best of the scores, bilinear", "guided": "guided filter", "crf": "fully connected CRF"}
    parameters = ", ".join(f"{name} {value}" for name, value in asdict(refinement.crf).items())
    return [
        ("model", f"{model.name} ({model.path.name})"),
        ("SHA-256", model.sha256),
        ("engine", f"{info.backend} {info.version}, {info.arithmetic}, on {info.device}"),
        ("data", f"{args.split} of {args.root}" + (f", {args.limit} pictures at most" if args.limit else "")),
        ("pictures are seen at", f"{seen}, times {scales}" + (", each mirrored, too" if method.views.flip else "")),
        ("labels", made[refinement.kind] + (f", {refinement.mode}: {parameters}" if refinement.kind == "crf" else "")),
    ]


def check_data_arguments(args: argparse.Namespace) -> None:
    """Refuse what `add_data_arguments` cannot.

    Raises:
        EngineError: with a message of one line.
    """
    if isinstance(args.size, int):
        demand_size(args.size)
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
