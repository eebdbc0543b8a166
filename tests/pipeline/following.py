"""Frames that take over from those before them, by the pure functions one after the other."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from pipeline.frame import FORMATS, Colour, Frame, Geometry
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.base import Decoded
from pipeline.stages.hold import Hold
from pipeline.stages.motion import CUT, Guide, Motion, measure_both
from pipeline.stages.prepare import prepare
from pipeline.stages.propagate import Memory, State, between, mix, step
from tests.pipeline import tiny
from tests.pipeline.painting import Array
from tests.pipeline.running import tiny_scores


def write_moving(path: Path) -> Path:
    """Twenty frames: coloured squares on a texture that pans, then, from frame 12, another scene."""
    random = np.random.default_rng(3)
    scenes = [np.kron(random.integers(0, 256, (40, 60, 3)), np.ones((8, 8, 1), int)).astype(np.uint8) for _ in "ab"]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(20):
            scene, at = scenes[number >= 12], 2 * (number % 12)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(scene[at : at + 120, 2 * at : 2 * at + 160]), "rgb24"
            )
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@dataclass
class Followed:
    """A frame, the network's own scores of it, those that it is labelled by, and what these were made from."""

    frame: Frame
    own: Array
    scores: Array
    geometry: Geometry
    motion: Motion | None
    back: Motion | None
    state: State
    ahead: Array | None = None


def one_by_one(
    path: Path,
    every: int,
    *,
    smooth: bool,
    live: bool = False,
    only: Collection[int] | None = None,
    probabilities: bool = False,
) -> list[Followed]:
    """The frames of a file, or ``only`` some, seen by the tiny network; live ones wait for none that comes later.

    With ``probabilities`` the network ends in a softmax of its scores' 256th.
    """
    found: list[Followed] = []
    state, before, since = None, None, 0
    with closing(open_source(str(path), SourceOptions())) as source:
        for item in source.read():
            if not isinstance(item, Decoded) or (only is not None and item.frame.index not in only):
                continue
            frame = replace(item.frame, planes=tuple(plane.copy() for plane in item.frame.planes))
            geometry = Geometry.fit(frame.height, frame.width, size=tiny.SIZE, multiple=tiny.STRIDE)
            image = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
            prepare(item.picture, geometry, image, frame.colour)
            own = tiny_scores(image)
            fresh = np.ascontiguousarray(softmax(own / 256) if probabilities else own, np.float32)
            guide = Guide.of(frame)
            motion = back = None
            if before is not None:
                motion, back = measure_both(guide, before, geometry, fresh.shape[1:])
            key = since >= every if motion is not None and motion.confidence >= CUT else True
            since = 1 if key else since + 1
            state, scores = step(state, motion, fresh if key else None, smooth=smooth)
            before = guide
            found.append(Followed(frame, fresh, scores, geometry, motion, back, state))
    if not live:
        take_from_later(found, smooth=smooth)
    return found


def take_from_later(found: list[Followed], *, smooth: bool) -> None:
    """Scores of key frames from the next one, where they are mixed, and of those between from both sides."""
    for now, after in pairwise(found):
        both = now.state.motion is None and after.state.motion is None
        if smooth and both and after.back is not None and after.back.confidence >= CUT:
            now.scores = mix(State(Memory.fresh(after.own), after.back), now.state.memory).scores
            now.ahead = after.state.memory.scores
    keys = [index for index, each in enumerate(found) if each.state.motion is None]
    for early, late in pairwise(keys):
        path = found[late].back
        if path is None or path.confidence < CUT:
            continue
        for index in range(late - 1, early, -1):
            later = State(found[late].state.memory, path)
            found[index].scores = between(found[index].state, later, (index - early) / (late - early))
            path = found[index].back.after(path)


def softmax(scores: Array) -> Array:
    """Over the first axis."""
    powers = np.exp(scores - scores.max(0))
    return powers / powers.sum(0)


def held(found: list[Followed], *, probabilities: bool = False) -> list[Array]:
    """Labels that hold on."""
    hold, labels = Hold(probabilities=probabilities), []
    for each in found:
        out = np.empty((each.frame.height, each.frame.width), np.uint8)
        hold.label(each.scores, each.geometry, each.motion, out, known=each.state, ahead=each.ahead)
        labels.append(out)
    return labels


def pan(count: int) -> list[Frame]:
    """Frames of a texture that pans, captured long ago."""
    scene = np.kron(np.random.default_rng(5).integers(0, 256, (40, 60)), np.ones((8, 8))).astype(np.uint8)
    chroma = np.full((60, 80), 128, np.uint8)
    return [
        Frame(
            (np.ascontiguousarray(scene[2 * time : 2 * time + 120, 4 * time : 4 * time + 160]), chroma, chroma),
            FORMATS["yuv420p"], Colour(), time, Fraction(time, 25), Fraction(1, 25), 0, 0, "pan",
        )
        for time in range(count)
    ]  # fmt: skip


def sure(confidence: float) -> Motion:
    return Motion(np.zeros((2, 3, 2), np.float32), np.full((2, 3), confidence, np.float32))
