"""Every kind of output: how to open it, and how to read it back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.sinks import open_masks, open_output
from pipeline.sinks.base import Sink
from tests.pipeline.ports import free_port
from tests.pipeline.sinks.made import Take, decode, plane
from tests.pipeline.sinks.serving import page_pieces, play, watched
from tests.pipeline.sinks.test_rle import straightforward_decode

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class ReadBack:
    """What a reader found: times where the kind keeps them, labels or 8-bit luma by frame."""

    pts: list[Fraction] | None
    pictures: list[Array]


def read_video(path: Path) -> ReadBack:
    frames = decode(path)
    grays = [luma(frame) for frame in frames]
    return ReadBack([frame.pts * frame.time_base for frame in frames], grays)


def luma(frame: av.VideoFrame) -> Array:
    """Luma in 8 bits, by the format's own range."""
    ten = frame.format.name.endswith("10le")
    return (plane(frame, 0, np.dtype(np.uint16)) >> 2).astype(np.uint8) if ten else plane(frame, 0, np.dtype(np.uint8))


def read_masks(path: Path) -> ReadBack:
    frames = decode(path)
    lines = [json.loads(line) for line in Path(f"{path}.jsonl").read_text(encoding="utf-8").splitlines()]
    exact = [Fraction(*line["pts"]) for line in lines[1:]]
    for frame, pts in zip(frames, exact, strict=True):
        assert abs(frame.pts * frame.time_base - pts) <= frame.time_base / 2
    return ReadBack(exact, [frame.to_ndarray() for frame in frames])


def read_pictures(path: Path) -> ReadBack:
    folder = path if path.is_dir() else path.parent
    found = []
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            found.append(np.array(image if image.mode == "P" else image.convert("L")))
    return ReadBack(None, found)


def read_lines(path: Path) -> ReadBack:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pictures = []
    for line in lines[1:]:
        labels: Array = np.full((lines[0]["height"], lines[0]["width"]), 255, np.uint8)
        for one in line["annotations"]:
            mask = straightforward_decode(one["segmentation"]["counts"], one["segmentation"]["size"])
            labels[mask] = one["category_id"]
        pictures.append(labels)
    return ReadBack([Fraction(*line["pts"]) for line in lines[1:]], pictures)


def look_at_masks(address: Path) -> ReadBack:
    frames = play(str(address).replace(":/", "://", 1))
    return ReadBack([f.pts * f.time_base for f in frames], [frame.to_ndarray() for frame in frames])  # type: ignore[operator]


def look_at_page(address: Path) -> ReadBack:
    pieces = page_pieces(str(address).replace(":/", "://", 1) + "/frames")
    return ReadBack(None, [np.array(Image.open(io.BytesIO(jpeg)).convert("L")) for _, jpeg, _ in pieces])


@dataclass(frozen=True)
class Kind:
    """A kind of output.

    Attributes:
        name: what to open.
        opener: `open_output` or `open_masks`.
        read: reads it back.
        tick: its times are exact to half of this, in seconds (None: no times).
        at_once: files get their names as they come, each whole.
    """

    name: str
    opener: Callable[[str], Sink]
    read: Callable[[Path], ReadBack]
    tick: Fraction | None = None
    at_once: bool = False

    def open(self, folder: Path) -> Sink:
        return self.opener(f"{folder}/{self.name}")

    def through(self, sink: Sink, take: Take, folder: Path, frames: int | None = None) -> ReadBack:
        """What is read of a take, or of its first frames."""
        sink.open(take.info())
        for index in range(len(take.ticks) if frames is None else frames):
            sink.write(take.result(index))
        sink.close()
        return self.read(folder / self.name)


@dataclass(frozen=True)
class ServedKind(Kind):
    """A kind of output that is looked at while it is made; ``read`` gets its address, with ``@`` for this machine."""

    def open(self, folder: Path) -> Sink:  # noqa: ARG002 - nothing lies in a folder
        return self.opener(self.name.format(port=free_port()))

    def through(self, sink: Sink, take: Take, folder: Path, frames: int | None = None) -> ReadBack:  # noqa: ARG002
        address = sink.name.replace("@", "127.0.0.1")
        found = watched(sink, take, lambda: self.read(Path(address)), frames)
        if found.pts is None:
            return found
        first = take.pts[0] - found.pts[0]  # their zero is when the client came
        return replace(found, pts=[pts + first for pts in found.pts])


def look(address: Path) -> ReadBack:
    frames = play(str(address).replace(":/", "://", 1))
    # FFmpeg's demuxer has no time for the very first picture; RTP-Info has told it that this is its 0.
    pts = [(frame.pts or 0) * frame.time_base for frame in frames]
    return ReadBack(pts, [luma(frame) for frame in frames])


def by_year(name: str) -> Sink:
    """Masks in segments; all pictures here are of one year."""
    return open_masks(name.replace("2023", "%Y"))


EXACT = Fraction(0)
MILLI = Fraction(1, 1000)
KINDS = (
    Kind("new/out.mp4", open_output, read_video, EXACT),
    Kind("out.mov", open_output, read_video, EXACT),
    Kind("out.mkv", open_output, read_video, MILLI),
    Kind("out.webm", open_output, read_video, MILLI),
    Kind("frames/", open_output, read_pictures, at_once=True),
    Kind("new/f%04d.jpg", open_output, read_pictures, at_once=True),
    Kind("masks.mkv", open_masks, read_masks, EXACT),
    Kind("new/masks/", open_masks, read_pictures, at_once=True),
    Kind("masks.jsonl", open_masks, read_lines, EXACT),
    Kind("rec/masks-2023.mkv", by_year, read_masks, EXACT),
)
SERVED = (
    ServedKind("rtsp://@:{port}/cam", open_output, look, Fraction(1, 45000)),
    ServedKind("http://@:{port}/", open_output, look_at_page, at_once=True),
    ServedKind("tcp://@:{port}", open_masks, look_at_masks, MILLI),
)
