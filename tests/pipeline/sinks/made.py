"""Results with exact truth, and independent ways to read back what a sink wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from engines.labels import CAMVID
from pipeline.frame import FORMATS, Colour, Frame, Result
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sources.base import AudioPacket, StreamInfo
from tests.conftest import need_program

BT709 = Colour(1, False, 1, 1)
PQ2020 = Colour(9, False, 9, 16)
FULL601 = Colour(6, True, 6, 6)


@dataclass(frozen=True)
class Take:
    """A short stream: its pictures are a ramp that moves with the frame's index."""

    name: str
    height: int = 48
    width: int = 64
    layout: str = "yuv420p"
    colour: Colour = BT709
    aspect: Fraction = Fraction(1)
    time_base: Fraction = Fraction(1, 12800)
    ticks: tuple[int, ...] = tuple(range(0, 12 * 512, 512))
    rate: Fraction | None = Fraction(25)
    live: bool = False

    def info(self, audio: av.AudioStream | None = None, uri: str = "clip.mp4") -> OutputInfo:
        stream = StreamInfo(
            name=self.name,
            uri=uri,
            height=self.height,
            width=self.width,
            format=FORMATS[self.layout],
            colour=self.colour,
            sample_aspect_ratio=self.aspect,
            time_base=self.time_base,
            average_rate=self.rate,
            start=self.pts[0],
            duration=None,
            frames=None,
            live=self.live,
            audio=audio,
        )
        return OutputInfo(stream, self.height, self.width, CAMVID, "street", "ab" * 32)

    @property
    def pts(self) -> list[Fraction]:
        return [tick * self.time_base for tick in self.ticks]

    def result(self, index: int) -> Result:
        layout = FORMATS[self.layout]
        planes = []
        for number, (rows, columns) in enumerate(layout.plane_shapes(self.height, self.width)):
            y, x = np.mgrid[:rows, :columns]
            ramp = 60 + 60 * x / columns + 20 * y / rows if number == 0 else 100 + 20 * y / rows + 5 * number
            # Rows padded as a decoder's: sinks must heed the strides.
            plane = np.full((rows, columns + 7), 255, layout.dtype)
            plane[:, :columns] = (ramp + 5 * index) * (1 << (layout.depth - 8))
            planes.append(plane[:, :columns])
        frame = Frame(
            planes=(planes[0], planes[1], planes[2]),
            format=layout,
            colour=self.colour,
            index=index,
            pts=self.pts[index],
            time_base=self.time_base,
            captured_ns=index,
            wall_ns=1_700_000_000_123_456_789 + index * 40_000_000,
            source=self.name,
            sample_aspect_ratio=self.aspect,
        )
        labels = labels_of(index, self.height, self.width)
        shares = np.bincount(labels.ravel(), minlength=len(CAMVID)) / labels.size
        return Result(frame, labels, tuple(float(s) for s in shares), refined=index % 3 != 0)

    def results(self) -> Iterator[Result]:
        return (self.result(index) for index in range(len(self.ticks)))

    def smaller(self) -> Take:
        return replace(self, height=self.height // 2, width=self.width // 2 + 1)


def labels_of(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Patches and single pixels of all classes, another picture for every index."""
    noise = np.random.default_rng(index)
    coarse = noise.integers(0, len(CAMVID), (4, 5)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((-(-height // 4), -(-width // 5)), np.uint8))[:height, :width].copy()
    labels[noise.integers(0, height, 9), noise.integers(0, width, 9)] = noise.integers(0, len(CAMVID), 9)
    return labels


TAKES = (
    Take("plain"),
    Take(
        "ten bits, odd, late, uneven", 49, 65, "yuv420p10le", PQ2020, Fraction(4, 3), Fraction(1, 90000),
        tuple(450000 + t for t in (0, 3003, 6006, 7007, 20020, 20100, 30030, 33033, 90000, 93003)),
        Fraction(30000, 1001),
    ),
    Take(
        "full range, milliseconds", 48, 63, "yuv422p", FULL601, Fraction(16, 15), Fraction(1, 1000),
        (40, 73, 107, 140, 999, 1000, 1500), None,
    ),
    Take(
        "no subsampling", 47, 61, "yuv444p", BT709, Fraction(1), Fraction(1001, 30000), tuple(range(9)), Fraction(1000),
    ),
)  # fmt: skip


def write(sink: Sink, take: Take, audio: list[AudioPacket] | None = None, info: OutputInfo | None = None) -> None:
    """Open, write all, close."""
    sink.open(info or take.info())
    waiting = list(audio or [])
    for result in take.results():
        while waiting and waiting[0].time <= result.pts:
            sink.write_audio(waiting.pop(0))
        sink.write(result)
    for packet in waiting:
        sink.write_audio(packet)
    sink.close()


def tree(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def ffprobe(path: Path | str, entries: str, *more: str, data: bytes | None = None) -> dict[str, Any]:
    """What ffprobe says of a file; it must say nothing on its standard error."""
    command = [need_program("ffprobe"), "-v", "warning", "-of", "json", "-show_entries", entries, *more, str(path)]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, input=data)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def decode(path: Path | str) -> list[av.VideoFrame]:
    """All pictures of a video, in the order shown."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def plane(picture: av.VideoFrame, index: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One plane without its padding."""
    part = picture.planes[index]
    return np.frombuffer(memoryview(part), dtype).reshape(part.height, -1)[:, : part.width]


def gray_by_ffmpeg(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """N×H×W gray levels as the ffmpeg program decodes them."""
    command = [need_program("ffmpeg"), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    done = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, timeout=30, check=True
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width)
