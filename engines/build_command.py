"""`python -m engines build`: a model compiled for this machine's GPU, before a run needs it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from engines.base import EngineError, EngineOptions

ENGINES = ("tensorrt",)
"""Those that compile for minutes; the others do it as they open."""

PRECISIONS = ("auto", "fp32", "fp16", "int8")

EXAMPLES = """\
examples:
  %(prog)s street --engine tensorrt --precision fp16 --max-batch 4
  %(prog)s mine.onnx --engine tensorrt --frame 1920x1080 --size 512
"""


def add_arguments(parser: argparse.ArgumentParser, frame: Callable[[str], tuple[int, int]]) -> None:
    """Declare the command's arguments; ``frame`` reads WxH."""
    parser.add_argument("model", help="a name, or an ONNX file")
    parser.add_argument("--engine", default=ENGINES[0], choices=ENGINES, help="library to build for (tensorrt)")
    parser.add_argument(
        "--precision", default="auto", choices=PRECISIONS, help="auto: fp16 where the model keeps its labels in it"
    )
    parser.add_argument("--max-batch", type=int, default=1, metavar="N", help="pictures of the largest batch (1)")
    parser.add_argument("--frame", type=frame, default=(360, 640), metavar="WxH", help="the video (640x360)")
    parser.add_argument("--size", type=int, help="short side of the network's input (the model's own)")
    parser.add_argument(
        "--half-scores", action="store_true",
        help="leave the scores in half precision, as runs with --refine crf take them from a network in fp16",
    )  # fmt: skip
    parser.add_argument(
        "--portable", action="store_true",
        help="for every GPU from Ampere on and later releases of the same major version; somewhat slower",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    from engines.backends.tensorrt import TensorRTEngine
    from engines.bench import input_size
    from engines.facts import demand_size
    from engines.zoo import compiled_cache, load_model

    if args.max_batch < 1:
        raise EngineError(f"--max-batch {args.max_batch}: at least one picture is needed")
    model = load_model(args.model, args.precision, weights_dir=args.weights_dir)
    short = args.size or model.size
    demand_size(short)
    size = input_size(model, args.frame, short)
    cache: Path = compiled_cache()
    options = EngineOptions(args.precision, cache=cache, batch=args.max_batch, half_scores=args.half_scores)
    began = time.monotonic()
    engine = TensorRTEngine(model, options, portable=args.portable)
    try:
        session = engine.session(*size)
    finally:
        engine.close()
    info = engine.info
    print(
        f"{model.name}: {info.arithmetic}, {session.input_size[1]}×{session.input_size[0]}, batches of up to "
        f"{args.max_batch} on {info.device} by TensorRT {info.version}, in {cache} ({time.monotonic() - began:.0f} s)"
    )
    return 0
