"""``python -m engines`` (``deeplab-engines``): look at models, fetch, time, train and export them."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import build_command
from engines.base import EngineError, EngineOptions
from engines.stragglers import leave

Run = Callable[[argparse.Namespace], int]

EXAMPLES = """\
examples:
  %(prog)s list
  %(prog)s fetch voc
  %(prog)s info mine.onnx
  %(prog)s export deeplabv3-resnet50-voc
  %(prog)s bench street --frame 640x360 --threads 2
  %(prog)s build street --engine tensorrt --precision fp16 --max-batch 4
  %(prog)s train --config camvid --root data/camvid --output runs/street
  %(prog)s train --config camvid --root data/camvid --output runs/street --init efficientnet-lite0.pth
  %(prog)s export --checkpoint runs/street/last.pt --output street.onnx
  %(prog)s export --model street --precision int8 --root data/camvid --output street-int8.onnx
  %(prog)s evaluate --model street --root data/camvid --split val --json val.json
  %(prog)s evaluate-video street.mp4 --model street --temporal
  %(prog)s tune-crf --model street --root data/camvid --split val --output tuned.yaml
"""

LIST_EXAMPLES = """\
examples:
  %(prog)s
"""

INFO_EXAMPLES = """\
examples:
  %(prog)s street
  %(prog)s deeplabv3-resnet50-voc
  %(prog)s mine.onnx
"""

FETCH_EXAMPLES = """\
examples:
  %(prog)s voc
  %(prog)s voc --weights-dir weights/
  DEEPLAB_STREAM_WEIGHTS=weights/ %(prog)s voc
"""

BENCH_EXAMPLES = """\
examples:
  %(prog)s street
  %(prog)s street --frame 1280x720 --size 512 --threads 2 --requests 2
  %(prog)s mine.onnx --engine onnxruntime --precision fp32 --json bench.json
"""

log = logging.getLogger("engines")


@dataclass(frozen=True, slots=True)
class Offline:
    """A command that needs the training libraries, in a module of its own.

    Attributes:
        module: has ``add_arguments(parser)``, ``run(args) -> int`` and ``EXAMPLES`` for its help.
        about: for the list of commands.
    """

    module: str
    about: str


OFFLINE = {
    "export": Offline("engines.export_command", "a published or trained network as one ONNX file, or one in int8"),
    "train": Offline("engines.training.train", "train a network on pictures and label maps"),
    "evaluate": Offline("engines.training.evaluate", "mIoU of a model on labelled pictures"),
    "evaluate-video": Offline("engines.training.evaluate_video", "how right and how steady a model is on a video"),
    "tune-crf": Offline("engines.training.tune_crf", "the CRF's parameters that suit a model best"),
}


def entry() -> None:
    """Console script: run and exit with its status."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbose = bool({"-v", "--verbose"} & set(words))
    _set_up_logging(verbose)
    try:
        args = _parser(words).parse_args(words)
        run: Run = args.run
        status = run(args)
        sys.stdout.flush()
        return status
    except EngineError as error:
        if verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `list | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say more; show where an error comes from")
    parser = argparse.ArgumentParser(
        prog="python -m engines",
        description="Look at models, fetch, time, train and export them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        allow_abbrev=False,  # an abbreviation would break when an option is added
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, about: str, run: Run, examples: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=about, description=about, epilog=examples, parents=[common], allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(run=run)
        return added

    listing = command("list", "the named models and where they are", _list, LIST_EXAMPLES)
    info = command("info", "what a model says of itself", _info, INFO_EXAMPLES)
    info.add_argument("model", help="a name, or an ONNX file")
    fetch = command("fetch", "download and convert a named model", _fetch, FETCH_EXAMPLES)
    fetch.add_argument("model", help="a name, as list shows it")
    bench = command("bench", "how long a picture takes", _bench, BENCH_EXAMPLES)
    _bench_arguments(bench)
    build = command("build", "compile a model for this machine's GPU", build_command.run, build_command.EXAMPLES)
    build_command.add_arguments(build, _frame)
    for reader in (listing, info, fetch, bench, build):
        reader.add_argument(
            "--weights-dir", type=Path, metavar="DIR",
            help="published or converted files, looked for here first (the variable DEEPLAB_STREAM_WEIGHTS)",
        )  # fmt: skip
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, offline in OFFLINE.items():
        # Their options are known only to modules that import torch: load the one that is asked for.
        if name == wanted:
            module = _load(name, offline)
            module.add_arguments(command(name, offline.about, module.run, module.EXAMPLES))
        else:
            commands.add_parser(name, help=offline.about)
    return parser


def _load(name: str, offline: Offline) -> Any:
    """The module of an offline command.

    Raises:
        EngineError: what it needs is not installed.
    """
    try:
        return importlib.import_module(offline.module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("engines", "pipeline")):
            raise  # ours: a broken installation, which no library mends
        raise EngineError(
            f"{name} needs the training libraries ({error}): pip install 'deeplab-stream[train]'"
        ) from error


def _list(args: argparse.Namespace) -> int:
    from engines.zoo import list_models

    rows = [("NAME", "CLASSES", "FILE", "WHERE", "LICENCE", "WHAT")]
    for model in list_models(weights_dir=args.weights_dir):
        entry = model.entry
        size = f"{model.size / 1e6:.1f} MB" if model.size else "-"
        rows.append((entry.name, str(len(entry.labels)), size, model.place, entry.licence, entry.about))
    print(_table(rows))
    print("\nAnybody's network: --model FILE.onnx, with FILE.yaml beside it where it must be explained.")
    return 0


def _info(args: argparse.Namespace) -> int:
    from engines.catalogue import ZOO
    from engines.describe import describe_entry, describe_model
    from engines.zoo import is_ready, load_model

    entry = ZOO.get(args.model)
    if entry is not None and not is_ready(entry, weights_dir=args.weights_dir):
        print(_table(describe_entry(entry)))
        done, command = ("fetched", "fetch") if entry.recipe is None else ("exported", "export")
        print(f"\nNot {done} yet: python -m engines {command} {entry.name}")
        return 0
    model = load_model(args.model, weights_dir=args.weights_dir)
    known = ZOO.get(model.name) if args.model in ("auto", model.name) else None
    print(_table(describe_model(model, known)))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from engines.zoo import fetch_model, fetch_published, find_entry, is_ready

    entry = find_entry(args.model)
    if entry.recipe is not None:
        path = fetch_published(entry, weights_dir=args.weights_dir)
        print(f"{entry.name}: {path} ({path.stat().st_size / 1e6:.1f} MB, {entry.licence})")
        if not is_ready(entry, weights_dir=args.weights_dir):
            print(f"make it ready to run: python -m engines export {entry.name}")
        return 0
    model = fetch_model(entry.name, weights_dir=args.weights_dir)
    print(f"{model.name}: {model.path} ({model.path.stat().st_size / 1e6:.1f} MB, {model.licence})")
    return 0


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from engines.backends import CHOICES, ENGINE_HELP
    from engines.backends.common import PRECISION_HELP, PRECISIONS

    parser.add_argument("model", help="a name, or an ONNX file")
    parser.add_argument("--engine", default="auto", choices=CHOICES, help=ENGINE_HELP)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--frame", type=_frame, default=(360, 640), metavar="WxH", help="the video (640x360)")
    parser.add_argument("--size", type=int, help="short side of the network's input (the model's own)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (all)")
    parser.add_argument("--requests", type=int, default=1, help="pictures in flight at once (1)")
    parser.add_argument("--pictures", type=int, default=50, help="how many to time (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def _frame(text: str) -> tuple[int, int]:
    """WxH as (height, width)."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write width x height as 640x360")
    return int(height), int(width)


def _bench(args: argparse.Namespace) -> int:
    from engines.backends import open_engine
    from engines.bench import input_size, measure
    from engines.facts import demand_size
    from engines.zoo import compiled_cache, load_model

    model = load_model(args.model, args.precision, weights_dir=args.weights_dir)
    size = args.size or model.size
    demand_size(size)
    engine = open_engine(
        model, args.engine, EngineOptions(args.precision, args.threads, args.requests, compiled_cache())
    )
    try:
        timing = measure(engine, input_size(model, args.frame, size), pictures=args.pictures, progress=True)
    finally:
        engine.close()
    info = timing.engine
    rows = [
        ("model", timing.model),
        ("engine", f"{info.backend} {info.version}, {info.arithmetic}, {info.threads} threads on {info.device}"),
        ("input", "{1}×{0}".format(*timing.input_size)),
        ("scores", "×".join(map(str, timing.score_shape))),
        ("median", f"{timing.median_ms:.1f} ms ({info.requests} in flight)"),
        ("p95", f"{timing.p95_ms:.1f} ms"),
        ("throughput", f"{timing.per_second:.1f} pictures/s"),
        ("processor", f"{timing.cpu_ms:.1f} ms a picture"),
    ]
    print(_table(rows))
    if args.json is not None:
        _write_json(args.json, timing.to_json())
    return 0


def _write_json(path: Path, values: object) -> None:
    try:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror or error}") from error


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns wide enough for their longest cell; the last is left ragged."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


class _Lines(logging.Formatter):
    """Plain lines; only what is worse than information says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _set_up_logging(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(
        level=logging.WARNING, handlers=[handler]
    )  # what libraries tell of themselves is nobody's concern
    for ours in ("engines", "pipeline"):
        logging.getLogger(ours).setLevel(logging.DEBUG if verbose else logging.INFO)
