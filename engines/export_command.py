"""`python -m engines export`: a published or trained network, or an ONNX file in another precision, as one ONNX file.

Quantising an ONNX file needs no torch.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from engines.base import EngineError, Model
from engines.facts import demand_size
from engines.training.datasets import CHOICES, DATASET_HELP, Sample, find_samples
from engines.training.files import demand_directory_of
from engines.zoo import exported_place, fetch_model, fetch_published, find_entry, load_model

if TYPE_CHECKING:
    from engines.networks import Segmenter
    from engines.networks.trained import TrainedNetwork

PRECISIONS = ("fp32", "fp16", "int8")

_log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  %(prog)s deeplabv3-resnet50-voc
  %(prog)s deeplabv3-resnet50-voc --output weights/deeplabv3-resnet50-voc.onnx
  %(prog)s --checkpoint runs/street/last.pt --output street.onnx
  %(prog)s --checkpoint runs/street/last.pt --output small.onnx --name small --licence CC-BY-4.0 --size 320
  %(prog)s --checkpoint runs/street/last.pt --output fast.onnx --precision fp16
  %(prog)s --checkpoint runs/third/last.pt --average first.onnx second.onnx --output mean.onnx
  %(prog)s --model street --output-stride 8 --output finer.onnx
  %(prog)s --model street --precision int8 --root data/camvid --output street-int8.onnx
  %(prog)s --model street --precision int8 --for tensorrt --root data/camvid --output street-tensorrt.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "entry", nargs="?", metavar="NAME", help="published model, as `list` shows it: fetched, and made ready to run"
    )
    source.add_argument("--checkpoint", type=Path, help="checkpoint that `train` wrote")
    source.add_argument("--model", help="name of a model, or an ONNX file: one that this wrote, or any to quantise")
    parser.add_argument(
        "--output", type=Path, help="ONNX file to write (of NAME: one in the user's cache, where the stream finds it)"
    )
    parser.add_argument(
        "--weights-dir", type=Path, metavar="DIR",
        help="published or converted files, looked for here first (the variable DEEPLAB_STREAM_WEIGHTS)",
    )  # fmt: skip
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
    parser.add_argument("--root", type=Path, help="int8: directory of a data set")
    parser.add_argument("--dataset", default="auto", choices=CHOICES, help=f"int8: {DATASET_HELP}")
    parser.add_argument("--calibrate", default="train", metavar="SPLIT", help="int8: ranges are those of it (train)")
    parser.add_argument("--validate", default="val", metavar="SPLIT", help="int8: mIoU is measured on it (val)")
    parser.add_argument(
        "--for", dest="target", choices=("cpu", "tensorrt"), default="cpu",
        help="int8: what shall run it; TensorRT has signed activations with one scale each alone (cpu)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="int8: pictures to calibrate on (100)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    if args.entry is not None:
        return _publish(args)
    if args.output is None:
        raise EngineError("say which file to write: give --output FILE.onnx")
    demand_directory_of(args.output)
    if args.size is not None:
        demand_size(args.size)
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


def _publish(args: argparse.Namespace) -> int:
    """Fetch a named model and make what the stream runs."""
    entry = find_entry(args.entry)
    changes = (args.average, args.name, args.licence, args.size, args.output_stride)
    if args.precision != "fp32" or any(changes):
        raise EngineError(
            f"{entry.name} is exported as it was published: of the other options --output and --weights-dir alone fit"
        )
    if entry.recipe is None:
        model = fetch_model(entry.name, weights_dir=args.weights_dir)
        if args.output is not None:
            raise EngineError(f"{entry.name} needs no export: it is ready to run, as {model.path}")
        print(f"{entry.name} needs no export: {model.path}")
        return 0
    with _needs_training_libraries(f"the export of {entry.name}"):
        from engines.export import export
        from engines.published import read_published
    demand_directory_of(args.output)
    output = args.output or exported_place(entry)
    source = fetch_published(entry, weights_dir=args.weights_dir)
    if args.output is None:
        _make_folder(output.parent)
    _log.info("making %s of %s and comparing it with torch: a minute or two", output.name, source.name)
    with tqdm(total=3, desc="exporting", unit="step") as bar:
        network = read_published(entry, source)
        bar.update()
        difference = export(network, output, name=entry.name, licence=entry.licence, done=bar.update)
    print(_written(output, difference))
    if args.output is None:
        print(f"run it: python run_pipeline.py --model {entry.name} …")
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"cannot make {folder}: {error.strerror or error}") from error


@contextmanager
def _needs_training_libraries(what: str) -> Iterator[None]:
    """Turns the want of a library into a line that names the way out."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("engines"):
            raise  # ours: a broken installation, which no library mends
        raise EngineError(
            f"{what} needs the training libraries ({error}): pip install 'deeplab-stream[train]'"
        ) from error


def _written(output: Path, difference: float) -> str:
    return f"{output}: {output.stat().st_size / 1e6:.1f} MB, scores within {difference:.1g} of torch's"


def _export(args: argparse.Namespace, output: Path) -> int:
    with _needs_training_libraries("an export"):
        from engines.export import export, read_export
        from engines.networks.trained import read_trained

    trained = read_trained(args.checkpoint) if args.checkpoint else read_export(_model(args, args.model))
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
    print(_written(output, difference))
    return 0


def _licence(args: argparse.Namespace) -> str:
    if args.licence is not None:
        return str(args.licence)
    return _model(args, args.model).licence if args.checkpoint is None else ""


def _model(args: argparse.Namespace, name: str) -> Model:
    return load_model(name, weights_dir=args.weights_dir)


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
    from engines.training.evaluate import spread_over
    from engines.training.quantise import quantise

    if args.pictures < 1:
        raise EngineError(f"--pictures {args.pictures}: at least one picture is needed")
    plain = _model(args, model)

    def samples(split: str) -> list[Sample]:
        return find_samples(args.root, split, args.dataset, plain.labels.names)

    loss = quantise(
        plain,
        args.output,
        calibration=spread_over(samples(args.calibrate), args.pictures),
        validation=samples(args.validate),
        name=args.name or args.output.stem,
        licence=args.licence,
        target=args.target,
    )
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, mIoU {loss.quantised:.2f} "
        f"where float has {loss.plain:.2f} ({loss.pictures} pictures of {args.validate})"
    )
    return 0
