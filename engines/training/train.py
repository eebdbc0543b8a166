"""`python -m engines train`: train a network on labelled pictures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from engines.model_file import LABEL_SETS
from engines.networks import NetworkSpec, Segmenter, assemble, spec_of
from engines.networks.normalise import normalise
from engines.training.checkpoint import Checkpoint, first_difference
from engines.training.datasets import CHOICES as DATASETS
from engines.training.datasets import DATASET_HELP, DataError, Sample, find_samples, open_dataset
from engines.training.datasets.pictures import StoredPictures
from engines.training.initial import calibrate
from engines.training.options import ModelOptions, OptionError, TrainingOptions, check_options, load_options
from engines.training.processes import ALONE, Processes, joined, local_device
from engines.training.trainer import CHECKPOINT, Data, Trainer, with_limit
from engines.weights import open_weights

logger = logging.getLogger(__name__)

CALIBRATION_PICTURES = 16

EXAMPLES = """\
examples:
  %(prog)s --config camvid --root data/camvid --output runs/street
  %(prog)s --config camvid --root data/camvid --output runs/street --resume --epochs 80
  torchrun --nproc-per-node 4 -m engines train --config voc-v2-resnet101 --root data/voc --output runs/v2 \\
    --init init.caffemodel --tensorboard
  %(prog)s --config mine.yaml --root data/mine --output runs/mine --init street.onnx --hours 8 --seed 1
"""

LENGTH = ("epochs", "steps", "hours")
"""Options that a run may change when it is taken up again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, help="name in configs/training, or a YAML file")
    parser.add_argument("--root", type=Path, required=True, help="directory of the data set")
    parser.add_argument("--dataset", choices=DATASETS, help=f"{DATASET_HELP}; the config's if left out")
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoints")
    parser.add_argument("--init", type=Path, help="starting weights: a published file, a checkpoint or an export")
    parser.add_argument(
        "--init-part",
        choices=("encoder", "network"),
        help="what to take of them (default: all of our own, else the encoder)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="length of the run in epochs (default: the config's)")
    length.add_argument("--hours", type=float, help="length of the run in hours of wall time")
    parser.add_argument("--splits", help="splits to train on, separated by commas (default: the config's)")
    parser.add_argument("--hold-out", metavar="PREFIX", help="measure on pictures named PREFIX…")
    parser.add_argument("--seed", type=int, help="of everything drawn at random (default: the config's)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: cuda where there is one (default)")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into --output/tensorboard")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line, for any input that cannot be used.
    """
    options = resolve_options(args)
    set_seed(options.seed)
    with joined(pick_device(args.device)) as processes:
        make_trainer(args, options, processes).run()
    return 0


def make_trainer(args: argparse.Namespace, options: TrainingOptions, processes: Processes = ALONE) -> Trainer:
    """The run that the command line asks for, new or taken up again.

    Raises:
        EngineError: with a message of one line, for any input that cannot be used.
    """
    resumed = _resumed(args, options)
    if args.threads:
        torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)  # the augmentation's one thread beside torch's own
    labels = LABEL_SETS[options.labels]
    initial = open_weights(args.init) if args.init is not None and resumed is None else None
    part = initial.part(args.init_part or (None if initial.layout.own else "encoder")) if initial else None
    try:
        spec = resumed.trained.spec if resumed is not None else model_spec(options.model)
        if initial is not None:
            spec = replace(spec, conventions=initial.conventions(spec, part))
        network = assemble(spec, len(labels), options.model.output_stride)
        check_blocks(network, options.model)
    except ValueError as error:
        raise OptionError(f"{args.config}: model: {error}") from error
    data = load_data(args.root, options, labels.names)
    if initial is not None:
        loaded = initial.load_into(network, part)
        logger.info("started from the %s of %s (%s)", loaded.part, args.init, loaded.layout)
        if not options.model.freeze_norms:
            recalibrate(network if loaded.part == "network" else network.encoder, network, data)
    elif resumed is None and options.model.freeze_norms:
        logger.warning("model: freeze_norms keeps the batch norms of starting weights, and there are none: give --init")
    args.output.mkdir(parents=True, exist_ok=True)
    network = processes.with_shared_norms(network.to(pick_device(args.device)))
    trainer = Trainer(network, data, options, labels, args.output, processes=processes)
    if args.init is not None:
        trainer.facts["initial"] = args.init.stem
    if resumed is not None:
        trainer.resume(resumed)
        logger.info("resumed after epoch %d", trainer.epoch)
    if args.tensorboard:
        trainer.note_on_board()
    return trainer


def _resumed(args: argparse.Namespace, options: TrainingOptions) -> Checkpoint | None:
    """The run that is taken up again, or None where one begins in a place that is free."""
    path = args.output / CHECKPOINT
    if not args.resume:
        if path.exists():
            raise OptionError(f"{path} exists: go on with --resume, or choose another --output")
        return None
    resumed = Checkpoint.load(path)
    if difference := first_difference(options, resumed.options, but=LENGTH):
        raise OptionError(
            f"--resume: {difference} as in {path}: give the options of that run, or choose another --output"
        )
    return resumed


def model_spec(options: ModelOptions) -> NetworkSpec:
    """What the network is made from.

    Raises:
        ValueError: there is no such network, or its scales make no sense.
    """
    spec = spec_of(options.network)
    return replace(spec, scales=options.scales) if len(options.scales) > 1 else spec


def check_blocks(network: Segmenter, options: ModelOptions) -> None:
    """See that there are as many blocks as shall be frozen.

    Raises:
        ValueError: there are fewer.
    """
    blocks = len(list(network.encoder.get_submodule("blocks").children()))
    if options.freeze > blocks:
        raise ValueError(f"freeze {options.freeze}: {options.network} has {blocks} blocks")


def resolve_options(args: argparse.Namespace) -> TrainingOptions:
    """The config with what the command line changes."""
    for flag, value in (("--epochs", args.epochs), ("--hours", args.hours)):
        if value is not None and not value > 0:
            raise OptionError(f"{flag} must be above 0, not {value:g}")
    for flag, value in (("--seed", args.seed), ("--threads", args.threads)):
        if value is not None and value < 0:
            raise OptionError(f"{flag} must not be negative, not {value}")
    options = with_limit(load_options(args.config), args.epochs, args.hours)
    if args.splits is not None and not all(args.splits.split(",")):
        raise OptionError(f"--splits {args.splits!r} names an empty split: give train or train,val")
    if args.splits:
        options = replace(options, splits=tuple(args.splits.split(",")))
    if args.dataset:
        options = replace(options, dataset=args.dataset)
    if args.hold_out:
        options = replace(options, hold_out=args.hold_out)
    if args.seed is not None:
        options = replace(options, seed=args.seed)
    if options.labels not in LABEL_SETS:
        raise OptionError(f"{args.config}: labels: no set {options.labels!r}; there are {', '.join(LABEL_SETS)}")
    check_options(options, "command line")
    return options


def set_seed(seed: int) -> None:
    """Make a run repeatable on the same machine with the same number of threads."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory before use finds errors, and costs a tenth of the speed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def pick_device(name: str) -> torch.device:
    """The device of a name, this process's own; `auto` is CUDA if there is one."""
    name = local_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch finds no CUDA device; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise OptionError(f"--device {name}: no such device; use cpu, cuda or cuda:N") from None


def load_data(root: Path, options: TrainingOptions, classes: Sequence[str]) -> Data:
    """Read and check all pictures, whose labels are the given classes; what the hold-out names is kept from training.

    Raises:
        DataError: the data set or a picture cannot be used, or has other classes.
    """
    there = open_dataset(root, options.dataset).splits()

    def found(split: str) -> list[Sample]:
        return find_samples(root, split, options.dataset, classes)

    samples = [sample for split in options.splits for sample in found(split)]
    if options.hold_out:
        held_out = [sample for sample in samples if sample.name.startswith(options.hold_out)]
        samples = [sample for sample in samples if not sample.name.startswith(options.hold_out)]
        if not samples or not held_out:
            which = "every picture's" if held_out else "no picture's"
            raise DataError(f"{root}: {which} name begins with {options.hold_out!r} (--hold-out)")
    else:
        # What is trained on is no validation: better no figure than one that flatters.
        reason = ""
        if options.validation in options.splits:
            reason = f"it is trained on {options.validation}"
        elif options.validation not in there:
            reason = f"{root} has no split {options.validation!r} (there are {', '.join(there)})"
        if reason:
            logger.warning("nothing is measured during this training: %s", reason)
        held_out = [] if reason else found(options.validation)

    def read(files: list[Sample], what: str) -> StoredPictures:
        pictures = StoredPictures(files, len(classes), (options.ignore,))
        for number in tqdm(range(len(files)), desc=f"reading {what}", unit="picture"):
            pictures[number]  # checks it, and keeps it where there is room
        return pictures

    return Data(samples, read(samples, "training"), read(held_out, "validation"))


def recalibrate(module: nn.Module, network: Segmenter, data: Data) -> None:
    """Give loaded batch norms the statistics of pictures spread over the training data."""
    step = max(1, len(data.pictures) // CALIBRATION_PICTURES)
    chosen = range(0, len(data.pictures), step)[:CALIBRATION_PICTURES]
    pictures = [data.pictures[number][0] for number in chosen]
    height = min(image.shape[0] for image in pictures)
    width = min(image.shape[1] for image in pictures)
    stack = torch.from_numpy(np.stack([image[:height, :width] for image in pictures]))
    calibrate(module, normalise(stack, network.encoder))
