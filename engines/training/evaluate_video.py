"""`python -m engines evaluate-video`: how right and how steady a model's labels are on a video.

The video goes through the stream itself, frame by frame and without losing any, so that everything the stream can
do from frame to frame is measured as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.backends import CHOICES, ENGINE_HELP
from engines.backends.common import PRECISION_HELP, PRECISIONS
from engines.base import EngineError
from engines.training.consistency import Consistency, Flicker, FlowConsistency
from engines.training.datasets import DataError, read_labels
from engines.training.files import demand_directory_of, number, write_json
from engines.training.metrics import Confusion
from pipeline.config import load_options
from pipeline.errors import PipelineError
from pipeline.frame import Result
from pipeline.options import InputOptions, RunOptions
from pipeline.reports import PropagationReport
from pipeline.runner import Runner
from pipeline.sinks.base import OutputInfo
from pipeline.sources.base import AudioPacket
from pipeline.stages.refine import KINDS

WINDOWS = (8, 16)
"""Frames of VC8 and VC16."""

EXAMPLES = """\
examples:
  python -m engines evaluate-video street.mp4 --model street
  python -m engines evaluate-video street.mp4 --model street --labels data/camvid/val/labels --temporal
  python -m engines evaluate-video street.mp4 --model street --labels labels/ --infer-every 3 --json three.json
"""

FLAGS = {
    "size": ("model", "size"),
    "engine": ("engine", "name"),
    "precision": ("engine", "precision"),
    "refine": ("refine", "kind"),
    "crf_iterations": ("refine", "crf", "iterations"),
    "temporal": ("propagate", "temporal"),
    "infer_every": ("propagate", "infer_every"),
    "max_frames": ("source", "max_frames"),
}
"""Where the value of a flag goes in the stream's options."""


@dataclass(frozen=True, slots=True)
class VideoEvaluation:
    """What came out; shares in 0–1, NaN for what cannot be said.

    Attributes:
        names: class names.
        frames: how many there were.
        confusion: pixels by true and predicted class; None without true labels.
        consistency: VC_n by n; empty without true labels.
        flicker, settled: see `Flicker`; without true labels, along the flow, and NaN.
        temporal: TC, see `FlowConsistency`.
        propagation: what frames took over from those before them; None if nothing.
    """

    names: tuple[str, ...]
    frames: int
    confusion: Confusion | None
    consistency: dict[int, float]
    flicker: float
    settled: float
    temporal: float
    propagation: PropagationReport | None

    def to_json(self) -> dict[str, Any]:
        """All of it; None for what cannot be said."""
        figures: dict[str, Any] = {"frames": self.frames}
        if self.confusion is not None:
            figures["miou"] = number(self.confusion.mean_iou())
            figures["pixel_accuracy"] = number(self.confusion.pixel_accuracy())
            figures["iou"] = dict(zip(self.names, map(number, self.confusion.iou().tolist()), strict=True))
            figures |= {f"vc{frames}": number(value) for frames, value in self.consistency.items()}
        figures |= {"flicker": number(self.flicker), "tc": number(self.temporal)}
        if self.confusion is not None:
            figures["flicker_settled"] = number(self.settled)
        figures["propagation"] = asdict(self.propagation) if self.propagation is not None else None
        return figures

    def table(self) -> str:
        """The same for people, in percent."""
        figures = self.to_json()
        against = "where the truth does not" if self.confusion is not None else "along the optical flow"
        rows = [*figures.get("iou", {}).items()]
        said = {
            "miou": "mIoU",
            "pixel_accuracy": "pixel accuracy",
            "vc8": "VC8",
            "vc16": "VC16",
            "tc": "TC",
            "flicker": f"flicker: changes {against}",
            "flicker_settled": "flicker far from moving outlines",
        }
        rows += [(text, figures[key]) for key, text in said.items() if key in figures]
        width = max(len(text) for text, _ in rows)
        lines = [f"{text:{width}}  {'-' if value is None else format(100 * value, '7.3f')}" for text, value in rows]
        if self.propagation is not None:
            one = self.propagation
            trust = "-" if one.trust is None else f"{one.trust:.2f}"
            lines.append(f"key frames {one.key_share:.0%}, motion {one.flow_ms:.1f} ms a frame, trust {trust}")
        return "\n".join([*lines, f"{self.frames} frames"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("video", help="a file, or whatever else the stream reads to its end")
    parser.add_argument("--model", required=True, help="name of a model, or an ONNX file")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="true labels: the i-th PNG by name is frame i's")
    parser.add_argument("--ignore", type=int, action="append", default=[], metavar="LABEL",
                        help="label that means none, besides 255 and the first beyond the classes")  # fmt: skip
    parser.add_argument("--config", metavar="PRESET|FILE", help="a preset of the stream; flags win over it")
    parser.add_argument("--size", type=int, help="short side of the network's picture (default: the model's)")
    parser.add_argument("--engine", choices=CHOICES, help=ENGINE_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--refine", choices=KINDS, help="how labels are sharpened")
    parser.add_argument("--crf-iterations", type=int, metavar="N", help="mean-field iterations of the CRF")
    parser.add_argument("--temporal", action="store_true", default=None, help="mix scores along the motion")
    parser.add_argument("--infer-every", metavar="N|auto", help="network on every Nth frame, others follow")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after this many frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    demand_directory_of(args.json)
    if not all(0 <= label <= 255 for label in args.ignore):
        raise EngineError("--ignore takes labels from 0 to 255")
    given = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    with suppress(ValueError):  # a word is judged as the stream does
        given["infer_every"] = int(given.get("infer_every", ""))
    labels = find_labels(args.labels) if args.labels is not None else None
    try:
        options = video_options(args.video, args.model, preset=args.config, **given)
        result = evaluate_video(options, labels, args.ignore)
    except PipelineError as error:
        raise EngineError(str(error)) from error
    print(result.table())
    if args.json is not None:
        write_json(args.json, result.to_json())
    return 0


def video_options(video: str, model: str, *, preset: str | None = None, **given: Any) -> RunOptions:
    """The stream's options for an evaluation: nothing is lost, and nothing painted over the picture.

    Args:
        video: what the stream shall read.
        model: name of a model, or an ONNX file.
        preset: of the stream.
        **given: by the names in `FLAGS`.

    Raises:
        ConfigError: a value that cannot be.
    """
    overrides: dict[tuple[str, ...], Any] = {FLAGS[name]: value for name, value in given.items()}
    overrides[("inputs",)] = (InputOptions(video),)
    fixed: dict[tuple[str, ...], Any] = {("model", "name"): model, ("mode",): "lossless", ("render", "mode"): "overlay"}
    fixed |= {("render", "alpha"): 0.0, ("render", "legend"): False, ("source", "audio"): False}
    return load_options(preset, overrides | fixed)


def find_labels(folder: Path) -> list[Path]:
    """The label pictures of a directory, by name.

    Raises:
        DataError: there are none.
    """
    found = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder}: no label pictures (*.png)")
    return found


def evaluate_video(options: RunOptions, labels: Sequence[Path] | None, ignore: Sequence[int] = ()) -> VideoEvaluation:
    """Send a video through the stream and count.

    Args:
        options: of `video_options`.
        labels: true labels of the frames in their order, or None.
        ignore: labels that mean none, besides 255 and the first beyond the classes.

    Raises:
        PipelineError, EngineError: the video or a label picture cannot be used, or their numbers differ.
    """
    bar: tqdm[Any]
    with tqdm(desc="evaluating", unit="frame", mininterval=0.5) as bar:
        judge = _Judge(labels, ignore, bar.update)
        with Runner(options, extra=(judge,)) as runner:
            known = (runner.lanes[0].source.info.frames, options.source.max_frames)
            bar.total = min((frames for frames in known if frames is not None), default=None)
            report = runner.run()
            for loss in runner.losses:
                raise loss
    if labels is not None and options.source.max_frames is None and judge.frames != len(labels):
        raise DataError(f"{options.inputs[0].uri}: {judge.frames} frames, but {len(labels)} label pictures")
    return judge.result(report.inputs[0].propagation)


class _Judge:
    """A sink that counts."""

    name = "judge"

    def __init__(self, labels: Sequence[Path] | None, ignore: Sequence[int], seen: Callable[[], object]) -> None:
        self._labels = labels
        self._seen = seen
        self._ignore = ignore
        self._names: tuple[str, ...] = ()
        self._flow: FlowConsistency | None = None
        self._confusion: Confusion | None = None
        self._windows = {frames: Consistency(frames) for frames in WINDOWS}
        self._flicker = Flicker()
        self.frames = 0

    def open(self, info: OutputInfo) -> None:
        """Learn the classes."""
        self._names = info.labels.names
        self._flow = FlowConsistency(len(self._names))
        self._confusion = Confusion(len(self._names))

    def write(self, result: Result) -> None:
        """Count a frame."""
        assert self._flow is not None
        assert self._confusion is not None
        depth = result.frame.format.depth
        self._flow.add((result.frame.planes[0] >> (depth - 8)).astype(np.uint8), result.labels)
        if self._labels is not None:
            truth = self._truth(self._labels, result)
            valid = truth < len(self._names)
            self._confusion.add(truth, result.labels)
            self._flicker.add(truth, result.labels, valid)
            for window in self._windows.values():
                window.add(truth, result.labels, valid)
        self.frames += 1
        self._seen()

    def _truth(self, labels: Sequence[Path], result: Result) -> Any:
        if self.frames >= len(labels):
            raise DataError(f"{result.frame.source}: more frames than label pictures ({len(labels)})")
        classes = len(self._names)
        none = sorted({classes, *self._ignore} - {255})
        return read_labels(labels[self.frames], result.labels.shape, classes, none)

    def result(self, propagation: PropagationReport | None) -> VideoEvaluation:
        """What was counted."""
        nan = float("nan")
        known, flow = self._labels is not None, self._flow
        return VideoEvaluation(
            self._names,
            self.frames,
            self._confusion if known else None,
            {frames: window.value for frames, window in self._windows.items()} if known else {},
            self._flicker.value if known else flow.flicker if flow is not None else nan,
            self._flicker.settled if known else nan,
            flow.value if flow is not None else nan,
            propagation,
        )

    def write_audio(self, audio: AudioPacket) -> None:
        """Ignored."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Labels of another size: a truth of the old one is refused when it comes."""

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""
