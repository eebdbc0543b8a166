"""What the parts of the stream cost alone, in processor seconds: the sum is the floor of any pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.reformatter import VideoReformatter

from engines import zoo
from engines.backends import open_engine
from engines.base import EngineOptions
from pipeline.frame import Frame, Result, UInt8
from pipeline.sinks import VideoOptions, open_output
from pipeline.sinks.base import OutputInfo
from pipeline.sources import AudioPacket, Decoded, SourceOptions, open_source
from pipeline.stages.prepare import geometry_for, prepare
from pipeline.stages.render import Renderer, RenderOptions
from pipeline.stages.upsample import upsample_argmax


@dataclass(frozen=True, slots=True)
class Part:
    """One part's cost.

    Attributes:
        name: decode, prepare, engine, upsample, render or encode.
        cpu_ms: processor milliseconds a frame, over all threads.
    """

    name: str
    cpu_ms: float


class _Meter:
    """Processor time of the whole process over a block, divided by its frames."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def time(self, name: str, frames: int, began: float) -> None:
        self.parts.append(Part(name, (time.process_time() - began) * 1e3 / frames))


def measure_parts(clip: Path, out: Path, frames: int, precision: str = "auto") -> list[Part]:
    """Run each part alone over the same frames, with what the others gave it.

    Args:
        clip: the video.
        out: where to encode to.
        frames: how many frames of it.
        precision: the engine's.
    """
    meter = _Meter()
    began = time.process_time()
    decoded = _decode(clip, frames)
    meter.time("decode", frames, began)
    info = decoded[0].frame
    model = zoo.load_model("street")
    geometry = geometry_for(info, model, model.size)

    images = np.empty((frames, geometry.input_height, geometry.input_width, 3), np.uint8)
    images.fill(0)  # memory that was never touched costs its first user
    reformatter = VideoReformatter()
    began = time.process_time()
    for item, image in zip(decoded, images, strict=True):
        prepare(item.picture, geometry, image, item.frame.colour, reformatter)
    meter.time("prepare", frames, began)

    # One thread alone: what the network costs without anybody to wait for.
    engine = open_engine(model, "openvino", EngineOptions(precision, threads=1, requests=1))
    session = engine.session(geometry.input_height, geometry.input_width)
    scores = np.zeros((frames, *session.score_shape), np.float32)
    session.start(images[0], scores[0]).wait(60)
    began = time.process_time()
    for image, score in zip(images, scores, strict=True):
        session.start(image, score).wait(60)
    meter.time("engine", frames, began)
    engine.close()

    began = time.process_time()
    labelled = [upsample_argmax(score, geometry) for score in scores]
    meter.time("upsample", frames, began)

    renderer = Renderer(model.labels, RenderOptions(legend=False))
    began = time.process_time()
    # Every frame with its own labels: a mask that stands still would cost the encoder less.
    painted = [renderer.render(item.frame, *found) for item, found in zip(decoded, labelled, strict=True)]
    meter.time("render", frames, began)

    began = time.process_time()
    _encode(painted, labelled[0][0], clip, out)
    meter.time("encode", frames, began)
    return meter.parts


def _decode(clip: Path, frames: int) -> list[Decoded]:
    source = open_source(str(clip), SourceOptions(max_frames=frames, audio=False))
    try:
        return [item for item in source.read() if not isinstance(item, AudioPacket)]
    finally:
        source.close()


def _encode(painted: Iterable[Frame], labels: UInt8, clip: Path, out: Path) -> None:
    source = open_source(str(clip))
    source.close()
    model = zoo.load_model("street")
    info = source.info
    sink = open_output(str(out), VideoOptions(threads=1))
    sink.open(OutputInfo(info, info.height, info.width, model.labels, model.name, model.sha256))
    for frame in painted:
        sink.write(Result(frame, labels, ()))
    sink.close()
