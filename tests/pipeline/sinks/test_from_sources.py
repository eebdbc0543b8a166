"""From real sources: every clip goes through a source into a video and masks, and its truth comes out."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from engines.labels import CAMVID
from pipeline.frame import Result
from pipeline.sinks import OutputInfo, VideoOptions, open_masks, open_output
from pipeline.sources import AudioPacket, StreamInfo, open_source
from tests.pipeline import clips
from tests.pipeline.painting import read_number
from tests.pipeline.sinks.kinds import luma
from tests.pipeline.sinks.made import decode, plane

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def run(path: Path, *outputs: str, codec: str | None = None) -> StreamInfo:
    """Everything of a source into overlays and masks; labels tell the frame's index."""
    source = open_source(str(path))
    sinks = [open_masks(o) if "mask" in o else open_output(o, VideoOptions(codec=codec)) for o in outputs]
    shape: tuple[int, int] | None = None
    early: list[AudioPacket] = []
    for item in source.read():
        if isinstance(item, AudioPacket):
            early.append(item)
            continue
        frame = item.frame
        info = OutputInfo(source.info, frame.height, frame.width, CAMVID, "none", "")
        for sink in sinks:
            if shape is None:
                sink.open(info)
            elif shape != (frame.height, frame.width):
                sink.reconfigure(info)
        shape = (frame.height, frame.width)
        labels = np.full(shape, frame.index % 11, np.uint8)
        for sink in sinks:
            for packet in early:
                sink.write_audio(packet)
            sink.write(Result(frame, labels, (1.0,)))
        early = []
    for sink in sinks:
        for packet in early:
            sink.write_audio(packet)
    source.close()
    for sink in sinks:
        sink.close()
    return source.info


@pytest.mark.parametrize("name", list(clips.names()))
def test_every_frame_of_every_clip_comes_out_once_at_its_time(name: str, folder: Path, tmp_path: Path) -> None:
    clip = clips.build(name, folder)
    run(clip.path, f"{tmp_path}/o.mp4", f"{tmp_path}/o.mkv", f"{tmp_path}/mask.mkv", f"{tmp_path}/mask.jsonl")
    for output in ("o.mp4", "o.mkv"):
        pictures = decode(tmp_path / output)
        assert [read_number(luma(picture)) for picture in pictures] == list(clip.numbers)
        assert {pictures[0].width - clip.width, pictures[0].height - clip.height} <= {0, 1}
        for picture, pts in zip(pictures, clip.pts, strict=True):
            tick = picture.time_base
            assert abs(picture.pts * tick - pts) <= (0 if output == "o.mp4" else tick / 2)
    lines = [json.loads(line) for line in (tmp_path / "mask.jsonl").read_text().splitlines()]
    assert [Fraction(*line["pts"]) for line in lines[1:]] == list(clip.pts)
    # A change of size starts another file.
    masks = sorted(tmp_path.glob("mask*.mkv"), key=lambda path: (len(path.name), path.name))
    assert len(masks) == 1 + sum(a != b for a, b in pairwise(clip.sizes))
    shown = [picture for path in masks for picture in decode(path)]
    assert [int(plane(p, 0, np.dtype(np.uint8))[0, 0]) for p in shown] == [n % 11 for n in range(len(clip.pts))]
    if clip.sizes:
        assert [(p.width, p.height) for p in shown] == list(clip.sizes)


@pytest.mark.parametrize(("name", "output"), [
    ("aac", "o.mp4"), ("aac", "o.mov"), ("aac", "o.mkv"), ("opus", "o.webm"), ("opus", "o.mp4"), ("pcm", "o.mkv"),
    ("long", "o.mp4"),
])  # fmt: skip
def test_the_audio_comes_along_at_its_times(name: str, output: str, folder: Path, tmp_path: Path) -> None:
    clip = clips.build(name, folder)
    run(clip.path, f"{tmp_path}/{output}")
    before, after = sound(clip.path), sound(tmp_path / output)
    assert len(after) == len(before) > 10
    for (a, sent), (b, got) in zip(before, after, strict=True):
        assert got == sent
        assert abs(a - b) <= Fraction(1, 1000)


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        found = container.demux(container.streams.audio[0])
        return [(p.pts * p.time_base, bytes(p)) for p in found if p.pts is not None and p.size]


@pytest.mark.parametrize("name", ["vfr", "10 bit", "422 10 bit", "444", "odd", "full range", "left", "hdr"])
def test_nothing_is_lost_on_the_way_through_a_lossless_codec(name: str, folder: Path, tmp_path: Path) -> None:
    clip = clips.build(name, folder)
    info = run(clip.path, f"{tmp_path}/o.mkv", codec="ffv1")
    assert info.format.name == clip.layout
    pictures = decode(tmp_path / "o.mkv")
    source = (item for item in open_source(str(clip.path)).read() if not isinstance(item, AudioPacket))
    for picture, item in zip(pictures, source, strict=True):
        assert picture.format.name.replace("yuvj", "yuv") == clip.layout
        for number, samples in enumerate(item.frame.planes):
            np.testing.assert_array_equal(plane(picture, number, samples.dtype), samples)
