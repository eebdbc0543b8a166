"""What every source promises, for every way in and every clip."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.frame import FORMATS, Colour
from pipeline.sources import AudioPacket, Decoded, Source, SourceOptions, open_source
from tests.conftest import need_program
from tests.pipeline.clips import Clip, names
from tests.pipeline.painting import paint, read_number
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.served import named_pipe, standard_input, web_server

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked"),
]


@dataclass(frozen=True)
class Ways:
    """What a way in may use."""

    clip: MakeClip
    folder: Path
    during: ExitStack


Way = Callable[[Ways], tuple[str, Clip, SourceOptions]]


def file(name: str, **options: object) -> Way:
    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        clip = ways.clip(name)
        return str(clip.path), clip, SourceOptions(**options)  # type: ignore[arg-type]

    return way


def stdin(name: str) -> Way:
    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        clip = ways.clip(name)
        ways.during.enter_context(standard_input(["cat", str(clip.path)]))
        return "-", clip, SourceOptions()

    return way


def fifo(name: str) -> Way:
    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        clip = ways.clip(name)
        ways.during.enter_context(named_pipe(ways.folder / "pipe", clip.path))
        return str(ways.folder / "pipe"), clip, SourceOptions()

    return way


def http(name: str) -> Way:
    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        clip = ways.clip(name)
        address = ways.during.enter_context(web_server(clip.path.parent))
        return f"{address}/{clip.path.name}?password=secret", clip, SourceOptions()

    return way


def graph(name: str, layout: str, expected: str) -> Way:
    """The clip through a filter graph, in a layout that no container here can carry."""

    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        clip = ways.clip(name)
        uri = f"lavfi:movie={clip.path},format={layout}"
        return uri, replace(clip, layout=expected, colour=clip.colour), SourceOptions()

    return way


def images(kind: str, where: str) -> Way:
    """Painted images at 10 a second; their names sort otherwise than their numbers."""

    def way(ways: Ways) -> tuple[str, Clip, SourceOptions]:
        for number in range(12):
            luma = paint(number, 61, 83, FORMATS["yuv444p"])[0]
            Image.fromarray(np.stack([luma] * 3, -1)).save(ways.folder / f"shot_{number}.{kind}", quality=95)
        clip = Clip(
            name=kind,
            path=ways.folder,
            numbers=tuple(range(12)),
            pts=tuple(Fraction(n, 10) for n in range(12)),
            time_base=Fraction(1, 10),
            width=83,
            height=61,
            layout="yuv420p" if kind in ("jpg", "webp") else "yuv444p",
            colour=Colour(5, True) if kind == "jpg" else Colour(5 if kind == "webp" else 6),
            aspect=Fraction(1),
            audio=Fraction(0),
            exact=False,
        )
        return str(ways.folder / where), clip, SourceOptions(rate=10)

    return way


CASES: dict[str, Way] = {
    **{f"file: {name}": file(name) for name in names()},
    "file: two threads": file("long", threads=2),
    "file: two threads, 10 bit": file("hdr", threads=2),
    "stdin: mkv": stdin("vfr"),
    "stdin: ts": stdin("late ts"),
    "stdin: raw": stdin("raw h264"),
    "named pipe": fifo("opus"),
    "http: mp4": http("aac"),
    "http: mkv": http("vfr"),
    "http: ts": http("late ts"),
    "graph": graph("444", "yuv444p", "yuv444p"),
    "graph: p010": graph("hdr", "p010le", "yuv420p10le"),
    "graph: nv16": graph("odd 422", "nv16", "yuv422p"),
    "images: jpg directory": images("jpg", ""),
    "images: png glob": images("png", "*.png"),
    "images: bmp pattern": images("bmp", "shot_%d.bmp"),
    "images: webp": images("webp", "shot_?*.webp"),
    "images: tiff": images("tiff", "*.tiff"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, clip: MakeClip, tmp_path: Path) -> Iterator[tuple[Source, Clip]]:
    with ExitStack() as during:
        uri, truth, options = CASES[request.param](Ways(clip, tmp_path, during))
        source = open_source(uri, options)
        try:
            yield source, truth
        finally:
            source.close()


def test_conforms(case: tuple[Source, Clip]) -> None:
    source, truth = case
    assert isinstance(source, Source)
    info = source.info
    sizes = truth.sizes or ((truth.width, truth.height),) * len(truth.numbers)
    items = list(source.read())
    frames = [item.frame for item in items if isinstance(item, Decoded)]

    assert [read_number(f.planes[0], f.format.depth) for f in frames] == list(truth.numbers)
    assert [f.pts for f in frames] == list(truth.pts)
    assert [f.index for f in frames] == list(range(len(frames)))
    assert [(f.width, f.height) for f in frames] == list(sizes)
    assert (info.width, info.height) == sizes[0]
    assert {f.format for f in frames} | {info.format} == {FORMATS[truth.layout]}
    assert {f.colour for f in frames} | {info.colour} == {truth.colour}
    assert {f.time_base for f in frames} | {info.time_base} == {truth.time_base}
    assert {f.sample_aspect_ratio for f in frames} | {info.sample_aspect_ratio} == {truth.aspect}
    assert [f.discontinuity for f in frames].count(True) == 1 + truth.seams
    assert frames[0].discontinuity
    assert source.damaged == truth.seams
    assert (source.repaired == 0) == (truth.stamped or truth.name == "raw h264")
    if truth.exact:
        for position, frame in enumerate(frames):
            for plane, painted in zip(frame.planes, truth.planes(position), strict=True):
                np.testing.assert_array_equal(plane, painted)

    check_memory([item for item in items if isinstance(item, Decoded)])
    check_sound(info.audio, [item for item in items if isinstance(item, AudioPacket)], truth)
    check_info(source, truth)


def check_memory(decoded: list[Decoded]) -> None:
    """Planes are read-only views of the picture's own memory, and shaped as the layout says."""
    for item in decoded:
        frame = item.frame
        assert tuple(plane.shape for plane in frame.planes) == frame.format.plane_shapes(frame.height, frame.width)
        for plane, own in zip(frame.planes, item.picture.planes, strict=True):
            begin = np.frombuffer(own, np.uint8).__array_interface__["data"][0]
            at = plane.__array_interface__["data"][0]
            assert begin <= at < begin + own.buffer_size
            assert plane.dtype == frame.format.dtype
            assert not plane.flags.writeable
        assert item.picture.format.name.replace("yuvj", "yuv") == frame.format.name
        assert abs(frame.wall_ns - frame.captured_ns) > 0


def check_sound(audio: av.AudioStream | None, packets: list[AudioPacket], truth: Clip) -> None:
    assert (audio is not None) == bool(truth.audio)
    assert bool(packets) == bool(truth.audio)
    if not packets:
        return
    assert all(item.packet.dts is not None for item in packets)
    assert abs(packets[0].time - truth.pts[0]) < Fraction(1, 10)
    last = packets[-1]
    end = last.time + (last.packet.duration or 0) * last.packet.time_base
    assert abs(end - truth.pts[0] - truth.audio) < Fraction(1, 10)


def check_info(source: Source, truth: Clip) -> None:
    info = source.info
    assert not info.live
    assert "secret" not in info.uri
    assert info.start == truth.pts[0]
    if info.duration is not None and truth.stamped:
        assert abs(truth.pts[0] + info.duration - truth.pts[-1]) < Fraction(3, 5)
    steady = len({after - before for before, after in pairwise(truth.pts)}) == 1
    if info.frames is not None and steady and not truth.seams:
        assert abs(info.frames - len(truth.numbers)) <= (truth.path.suffix not in (".mp4", ".mov", ".avi"))


def test_refuses_to_be_read_twice_or_after_close(case: tuple[Source, Clip]) -> None:
    source, _ = case
    items = source.read()
    next(items)
    with pytest.raises(SourceError, match="open it again"):
        source.read()
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read()
    assert source.damaged >= 0


def test_frames_outlive_their_source(clip: MakeClip) -> None:
    truth = clip("h264 lossless")
    source = open_source(str(truth.path))
    kept = [item.frame for item in source.read() if isinstance(item, Decoded)]
    source.close()
    del source
    for position, frame in enumerate(kept):
        for plane, painted in zip(frame.planes, truth.planes(position), strict=True):
            np.testing.assert_array_equal(plane, painted)


@pytest.mark.parametrize("name", list(names()))
def test_ffprobe_agrees(name: str, clip: MakeClip) -> None:
    """The number of frames, their times and the sound packets' times, from a program that shares no code with us."""
    truth = clip(name)
    told = _ffprobe(truth.path, "frame=best_effort_timestamp:stream=time_base,codec_type", "v:0")
    frames = told["frames"]
    assert len(frames) == len(truth.numbers)
    if truth.stamped:
        tick = Fraction(told["streams"][0]["time_base"])
        assert [frame["best_effort_timestamp"] * tick for frame in frames] == list(truth.pts)
    if truth.audio:
        packets = _ffprobe(truth.path, "packet=pts", "a:0")["packets"]
        source = open_source(str(truth.path))
        ours = [item.packet.pts for item in source.read() if isinstance(item, AudioPacket)]
        source.close()
        assert ours == [packet["pts"] for packet in packets]


@pytest.mark.parametrize("name", ["camvid_val_0016E5_15hz.mp4", "one-by-one-person-detection.mp4"])
def test_ffprobe_agrees_on_real_video(name: str, data: Path) -> None:
    path = data / "video" / name
    told = _ffprobe(path, "frame=best_effort_timestamp:stream=time_base,nb_frames", "v:0", "-read_intervals", "%+20")
    tick = Fraction(told["streams"][0]["time_base"])
    expected = [frame["best_effort_timestamp"] * tick for frame in told["frames"]]
    source = open_source(str(path), SourceOptions(max_frames=len(expected)))
    ours = [item.frame.pts for item in source.read() if isinstance(item, Decoded)]
    source.close()
    assert ours == expected
    assert len(ours) >= 100


def _ffprobe(path: Path, entries: str, stream: str, *more: str) -> dict[str, list[dict[str, int]]]:
    command = [need_program("ffprobe"), "-v", "error", "-select_streams", stream, *more]
    done = subprocess.run(
        [*command, "-show_entries", entries, "-of", "json", str(path)], capture_output=True, check=True, timeout=20
    )
    told: dict[str, list[dict[str, int]]] = json.loads(done.stdout)
    return told
