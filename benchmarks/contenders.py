"""What the pipeline is measured against: one process each, ``python -m benchmarks.contenders NAME CLIP OUT PRECISION``.

Each prints one line of JSON: frames and wall seconds of the loop alone, start-up and compilation left out for
all alike.  The precision is the engine's (`engines.base.EngineOptions`); torch loops run float32 whatever it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from engines import zoo
from engines.backends import open_engine
from engines.base import EngineOptions, Model
from pipeline.cpu import available_cpus
from pipeline.crf import CRFParameters, DenseCRF
from pipeline.frame import Geometry, UInt8
from pipeline.sinks.encoders import DEFAULT_QUALITY
from pipeline.stages.prepare import geometry_for

if TYPE_CHECKING:
    from torch import nn

ALPHA = 0.5
X264 = {"preset": "veryfast", "crf": f"{DEFAULT_QUALITY:g}"}
"""What the pipeline's own encoder is given."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One contender's loop.

    Attributes:
        frames: frames processed.
        wall: seconds from the first frame asked for to the last byte written.
    """

    frames: int
    wall: float

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.frames / self.wall


def timed(loop: Callable[[], int]) -> Timing:
    """Run ``loop``, which returns how many frames it processed."""
    began = time.perf_counter()
    frames = loop()
    return Timing(frames, time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Shape:
    """A frame of square pixels; see `pipeline.stages.prepare.Shaped`."""

    height: int
    width: int
    sample_aspect_ratio: Fraction = Fraction(1)


def model_geometry(model: Model, height: int, width: int) -> Geometry:
    """Where the model sees a frame: the same for all contenders."""
    return geometry_for(Shape(height, width), model, model.size)


def torch_module(model: Model) -> nn.Module:
    """A model trained here as people who use torch have it: the network's own module, its batch norms in place.

    Args:
        model: an export of `engines.export`.

    Returns:
        A module in eval mode, uint8 RGB 1×H×W×3 → scores 1×C×h×w, with the file's weights.
    """
    from engines.facts import PREFIX
    from engines.networks import build
    from engines.networks.normalise import ByteNetwork
    from engines.onnx_metadata import read_header
    from engines.weights import load_weights

    name = json.loads(read_header(model.path).properties[f"{PREFIX}training"])["network"]
    network = build(name, len(model.labels), model.output_stride)
    load_weights(network, model.path)
    return ByteNetwork(network).eval()


class _Encoder:
    """H.264 by libx264 through PyAV, as the pipeline's sink does it."""

    def __init__(self, path: str, height: int, width: int, threads: int = 0) -> None:
        self._output = av.open(path, "w")
        self._stream = self._output.add_stream("libx264", rate=25, options=X264)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.thread_count = threads
        self._stream.codec_context.time_base = Fraction(1, 25)
        self._count = 0

    def write(self, picture: av.VideoFrame) -> None:
        picture.pts, picture.time_base = self._count, Fraction(1, 25)
        self._count += 1
        self._output.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._output.mux(self._stream.encode(None))
        self._output.close()


CRF = CRFParameters(iterations=5)
"""What all contenders with a CRF are given: half of the paper's iterations, as is usual for video."""


def usual(clip: str, out: str, _: str) -> Timing:
    """The loop that everybody writes: cv2 → torch eager → interpolate → argmax → cv2 blend → encode."""
    return _usual(clip, out, crf=None)


def usual_crf(clip: str, out: str, _: str) -> Timing:
    """The same with pydensecrf instead of interpolation and argmax."""
    return _usual(clip, out, crf=CRF)


def _usual(clip: str, out: str, crf: CRFParameters | None) -> Timing:
    import cv2
    import torch

    model = zoo.load_model("street")
    net = torch_module(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    palette = np.array(model.labels.palette, np.uint8)[:, ::-1]
    capture = cv2.VideoCapture(clip)
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    geometry = model_geometry(model, height, width)
    encoder = _Encoder(out, height, width)
    field = DenseCRF(height, width, len(model.labels), crf, backend="pydensecrf") if crf is not None else None

    def labelled(rgb: UInt8, scores: torch.Tensor) -> UInt8:
        if field is not None:
            return field.labels(rgb, scores[0].numpy(), geometry=geometry)
        full = torch.nn.functional.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        return full.argmax(1)[0].numpy().astype(np.uint8)

    def step(frame: UInt8) -> None:
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        image = cv2.resize(rgb, (geometry.input_width, geometry.input_height))
        labels = labelled(np.asarray(rgb, np.uint8), net(torch.from_numpy(image)[None]))
        blended = np.asarray(cv2.addWeighted(frame, 1 - ALPHA, palette[labels], ALPHA, 0), np.uint8)
        encoder.write(av.VideoFrame.from_ndarray(blended, "bgr24").reformat(format="yuv420p"))

    def loop() -> int:
        frames = 0
        with torch.inference_mode():
            while True:
                there, frame = capture.read()
                if not there:
                    break
                step(np.asarray(frame, np.uint8))
                frames += 1
        encoder.close()
        return frames

    return timed(loop)


def serial(clip: str, out: str, precision: str) -> Timing:
    """A competent serial loop: PyAV → OpenVINO on all cores → cv2 resize a class, running maximum → blend → encode."""
    import cv2

    model = zoo.load_model("street")
    engine = open_engine(model, "openvino", EngineOptions(precision, int(available_cpus()), requests=1))
    palette = np.array(model.labels.palette, np.uint8)
    source = av.open(clip)
    source.streams.video[0].thread_type = "AUTO"
    first = source.streams.video[0]
    height, width = first.height, first.width
    geometry = model_geometry(model, height, width)
    session = engine.session(geometry.input_height, geometry.input_width)
    scores = np.empty(session.score_shape, np.float32)
    encoder = _Encoder(out, height, width)
    best, mask = np.empty((height, width), np.float32), np.empty((height, width), bool)
    labels = np.empty((height, width), np.uint8)

    def step(picture: av.VideoFrame) -> None:
        image = picture.to_ndarray(width=geometry.input_width, height=geometry.input_height, format="rgb24")
        session.start(np.ascontiguousarray(image), scores).wait(60)
        labels.fill(0)
        best.fill(-np.inf)
        for index, plane in enumerate(scores):
            full = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
            np.greater(full, best, out=mask)
            labels[mask] = index
            np.maximum(best, full, out=best)
        rgb = picture.to_ndarray(format="rgb24")
        blended = np.asarray(cv2.addWeighted(rgb, 1 - ALPHA, palette[labels], ALPHA, 0), np.uint8)
        encoder.write(av.VideoFrame.from_ndarray(blended, "rgb24").reformat(format="yuv420p"))

    def loop() -> int:
        frames = 0
        for picture in source.decode(video=0):
            step(picture)
            frames += 1
        encoder.close()
        return frames

    return timed(loop)


def ours(clip: str, out: str, precision: str) -> Timing:
    """The pipeline from its command line."""
    return _ours(clip, out, "--precision", precision)


def ours_crf(clip: str, out: str, _: str) -> Timing:
    """The same with the live CRF, the network in fp32 as in the loop that it is held against."""
    preset = Path(out).with_suffix(".yaml")
    preset.write_text(json.dumps({"refine": {"kind": "crf", "mode": "live", "crf": asdict(CRF)}}))  # JSON is YAML
    return _ours(clip, out, "--config", str(preset), "--precision", "fp32")


def _ours(clip: str, out: str, *flags: str) -> Timing:
    report = Path(out).with_suffix(".json")
    command = [sys.executable, "run_pipeline.py", "--input", clip, "--output", out, "--model", "street", "--no-legend"]
    subprocess.run([*command, *flags, "--quiet", "--report", str(report)], check=True)
    told = json.loads(report.read_text())
    return Timing(told["frames"], told["seconds"])


CONTENDERS: dict[str, Callable[[str, str, str], Timing]] = {
    "ours": ours,
    "serial": serial,
    "usual": usual,
    "ours-crf": ours_crf,
    "usual-crf": usual_crf,
}


def measure(name: str, clip: Path, out: Path, precision: str = "auto") -> Timing:
    """Run a contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.contenders", name, str(clip), str(out), precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    return Timing(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(asdict(CONTENDERS[sys.argv[1]](*sys.argv[2:]))))
