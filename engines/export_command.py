"""`python -m engines export`: a trained network, or an ONNX file in another precision, as one ONNX file.

Quantising an ONNX file needs no torch.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import EngineError
from engines.zoo import load_model

if TYPE_CHECKING:
    from engines.networks import Segmenter
    from engines.networks.trained import TrainedNetwork

PRECISIONS = ("fp32", "fp16", "int8")

EXAMPLES = """\
examples:
  %(prog)s --checkpoint runs/street/last.pt --output street.onnx
  %(prog)s --checkpoint runs/street/last.pt --output small.onnx --name small --licence CC-BY-4.0 --size 320
  %(prog)s --checkpoint runs/street/last.pt --output fast.onnx --precision fp16
  %(prog)s --checkpoint runs/third/last.pt --average first.onnx second.onnx --output mean.onnx
  %(prog)s --model street --output-stride 8 --output finer.onnx
  %(prog)s --model street --precision int8 --root data/camvid --output street-int8.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="checkpoint that `train` wrote")
    source.add_argument("--model", help="name of a model, or an ONNX file: one that this wrote, or any to quantise")
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    parser.add_argument(
        "--average",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="write the mean of the network's weights and those of these checkpoints or exports",
    )
    parser.add_argument("--name", help="what people shall call the model (default: the file's name)")
    parser.add_argument("--licence", help="terms of the weights (default: the model's; none of a checkpoint)")
    parser.add_argument(
        "--size", type=int, help="preferred short side of the picture, in pixels (default: as it was trained)"
    )
    parser.add_argument(
        "--output-stride",
        type=int,
        choices=(8, 16, 32),
        help="input pixels per pixel of the encoder's last features; atrous rates follow (default: as it was trained)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16: its labels hold in half precision (evaluate with fp16), so weights are stored in half the bytes; "
        "int8: quantised, calibrated and measured on the pictures of --root (default: fp32)",
    )
    parser.add_argument("--root", type=Path, help="int8: directory of the splits of labelled pictures")
    parser.add_argument("--calibrate", default="train", metavar="SPLIT", help="int8: ranges are those of it (train)")
    parser.add_argument("--validate", default="val", metavar="SPLIT", help="int8: mIoU is measured on it (val)")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="int8: pictures to calibrate on (100)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    if args.precision == "int8" and args.root is None:
        raise EngineError("--precision int8 needs labelled pictures to calibrate and to measure on: give --root")
    changed = args.average or args.size is not None or args.output_stride is not None
    if args.checkpoint is None and args.precision == "int8" and not changed:
        return _quantise(args, args.model)
    if args.precision != "int8":
        return _export(args, args.output)
    with tempfile.TemporaryDirectory(prefix="deeplab-stream-") as folder:
        plain = Path(folder) / args.output.name
        return _export(args, plain) or _quantise(args, str(plain))


def _export(args: argparse.Namespace, output: Path) -> int:
    try:
        from engines.export import export, read_export
        from engines.networks.trained import read_trained
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("engines"):
            raise  # ours: a broken installation, which no library mends
        raise EngineError(
            f"an export needs the training libraries ({error}): pip install 'deeplab-stream[train]'"
        ) from error

    trained = read_trained(args.checkpoint) if args.checkpoint else read_export(load_model(args.model))
    if args.size is not None:
        trained = replace(trained, size=args.size)
    if args.output_stride is not None:
        trained = replace(trained, output_stride=args.output_stride)
    difference = export(
        trained,
        output,
        name=args.name or args.output.stem,
        licence=_licence(args),
        half=args.precision == "fp16",
        others=[_read_network(path, trained) for path in args.average],
    )
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, scores within {difference:.1g} of torch's")
    return 0


def _licence(args: argparse.Namespace) -> str:
    if args.licence is not None:
        return str(args.licence)
    return load_model(args.model).licence if args.checkpoint is None else ""


def _read_network(path: Path, like: TrainedNetwork) -> Segmenter:
    """The network of a checkpoint, or of an export of the same network."""
    from engines.networks.registry import assemble
    from engines.networks.trained import read_trained
    from engines.weights import load_weights

    if path.suffix != ".onnx":
        return read_trained(path).restore()
    network = assemble(like.spec, len(like.labels), like.output_stride)
    load_weights(network, path)
    return network.eval()


def _quantise(args: argparse.Namespace, model: str) -> int:
    from engines.training.datasets import Sample, find_samples
    from engines.training.evaluate import spread_over
    from engines.training.quantise import quantise

    if args.pictures < 1:
        raise EngineError(f"--pictures {args.pictures}: at least one picture is needed")
    plain = load_model(model)

    def samples(split: str) -> list[Sample]:
        return find_samples(args.root, split, classes=plain.labels.names)

    loss = quantise(
        plain,
        args.output,
        calibration=spread_over(samples(args.calibrate), args.pictures),
        validation=samples(args.validate),
        name=args.name or args.output.stem,
        licence=args.licence,
    )
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, mIoU {loss.quantised:.2f} "
        f"where float has {loss.plain:.2f} ({loss.pictures} pictures of {args.validate})"
    )
    return 0
