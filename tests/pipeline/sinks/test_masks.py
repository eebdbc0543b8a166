"""Masks: the very labels, whoever reads them, and the lines beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.labels import CAMVID
from pipeline.errors import SinkError
from pipeline.sinks import open_masks
from tests.pipeline.sinks.made import TAKES, Take, decode, ffprobe, gray_by_ffmpeg, tree, write

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]
takes = pytest.mark.parametrize("take", TAKES, ids=lambda take: take.name)


def lines_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    header, *frames = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return header, frames


@takes
def test_ffmpeg_decodes_the_very_labels(take: Take, tmp_path: Path) -> None:
    path = tmp_path / "m.mkv"
    write(open_masks(str(path)), take)
    expected = np.stack([result.labels for result in take.results()])
    np.testing.assert_array_equal(gray_by_ffmpeg(path, take.height, take.width), expected)


def test_all_256_labels_survive(tmp_path: Path) -> None:
    take = Take("all", 16, 16, ticks=(0,))
    result = replace(take.result(0), labels=np.arange(256, dtype=np.uint8).reshape(16, 16)[::-1])
    for name in ("m.mkv", "m/", "m.jsonl"):
        sink = open_masks(f"{tmp_path}/{name}")
        sink.open(take.info())
        sink.write(result)
        sink.close()
    np.testing.assert_array_equal(decode(tmp_path / "m.mkv")[0].to_ndarray(), result.labels)
    with Image.open(tmp_path / "m" / "mask_000000.png") as image:
        np.testing.assert_array_equal(np.array(image), result.labels)
    assert len(lines_of(tmp_path / "m.jsonl")[1][0]["annotations"]) == 256


@takes
def test_the_video_is_lossless_seekable_and_of_the_same_aspect(take: Take, tmp_path: Path) -> None:
    path = tmp_path / "m.mkv"
    write(open_masks(str(path)), take)
    entries = "stream=codec_name,pix_fmt,color_range,width,height:frame=pts,sample_aspect_ratio,key_frame"
    answer = ffprobe(path, entries, "-count_packets")
    assert answer["streams"] == [
        {"codec_name": "ffv1", "width": take.width, "height": take.height, "pix_fmt": "gray", "color_range": "pc"}
    ]
    for frame, pts in zip(answer["frames"], take.pts, strict=True):
        assert abs(Fraction(frame["pts"], 1000) - pts) <= Fraction(1, 2000)
        assert frame["key_frame"] == 1
        aspect = Fraction(frame.get("sample_aspect_ratio", "1:1").replace(":", "/"))
        assert aspect == take.aspect


@pytest.mark.parametrize("name", ["m.mkv", "m.jsonl"])
@takes
def test_the_lines_tell_all_that_matroska_cannot(take: Take, name: str, tmp_path: Path) -> None:
    write(open_masks(str(tmp_path / name)), take)
    header, frames = lines_of(tmp_path / ("m.mkv.jsonl" if name == "m.mkv" else name))
    assert header == {
        "format": "deeplab-stream masks",
        "version": 1,
        "source": "clip.mp4",
        "model": "street",
        "model_sha256": "ab" * 32,
        "classes": [{"name": n, "colour": list(c)} for n, c in zip(CAMVID.names, CAMVID.palette, strict=True)],
        "background": None,
        "time_base": [take.time_base.numerator, take.time_base.denominator],
        "height": take.height,
        "width": take.width,
        "sample_aspect_ratio": [take.aspect.numerator, take.aspect.denominator],
        "segment": 1,
    }
    for number, (frame, result) in enumerate(zip(frames, take.results(), strict=True)):
        assert frame["sequence"] == frame["index"] == number
        assert Fraction(*frame["pts"]) == result.pts
        assert frame["refined"] is result.refined
        assert frame["shares"] == pytest.approx(result.shares, abs=1e-6)
    assert frames[0]["wall"] == "2023-11-14T22:13:20.123456+00:00"


def test_another_size_goes_on_in_another_file(tmp_path: Path) -> None:
    first = TAKES[0]
    second = replace(first.smaller(), ticks=tuple(t + 6144 for t in first.ticks))
    third = replace(first, ticks=tuple(t + 12288 for t in first.ticks))
    sink = open_masks(str(tmp_path / "m.mkv"))
    sink.open(first.info())
    for take in (first, second, third):
        if take is not first:
            sink.reconfigure(take.info())
        for result in take.results():
            sink.write(result)
    assert [name for name in tree(tmp_path) if not name.startswith(".")] == []
    sink.close()
    names = ["m.mkv", "m-2.mkv", "m-3.mkv"]
    assert tree(tmp_path) == sorted([*names, *(name + ".jsonl" for name in names)])
    for number, (name, take) in enumerate(zip(names, (first, second, third), strict=True)):
        header, frames = lines_of(tmp_path / (name + ".jsonl"))
        assert (header["segment"], header["height"], header["width"]) == (number + 1, take.height, take.width)
        assert [frame["sequence"] for frame in frames] == [number * 12 + n for n in range(12)]
        for frame, picture, result in zip(frames, decode(tmp_path / name), take.results(), strict=True):
            np.testing.assert_array_equal(picture.to_ndarray(), result.labels)
            assert abs(picture.pts * picture.time_base - result.pts) <= Fraction(1, 2000)
            assert Fraction(*frame["pts"]) == result.pts


def test_another_segment_never_replaces_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = ("m-2.mkv", "m-4.mkv.jsonl")
    for name in others:
        (tmp_path / name).write_text("mine")
    for name in ("m.mkv", "m.mkv.jsonl"):
        (tmp_path / name).write_text("from the last run")
    sink = open_masks(str(tmp_path / "m.mkv"))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    assert not caplog.messages
    sink.write(TAKES[0].smaller().result(1))
    sink.write(TAKES[0].result(2))
    sink.close()
    made = ["m.mkv", "m-3.mkv", "m-5.mkv"]
    assert tree(tmp_path) == sorted([*others, *made, *(f"{name}.jsonl" for name in made)])
    assert [(tmp_path / name).read_text() for name in others] == ["mine", "mine"]
    assert [lines_of(tmp_path / f"{name}.jsonl")[0]["segment"] for name in made] == [1, 2, 3]
    assert [len(decode(tmp_path / name)) for name in made] == [1, 1, 1]
    for message, name in zip(caplog.messages, made[1:], strict=True):
        assert message.endswith(f"go on in {tmp_path}/{name} and {tmp_path}/{name}.jsonl")
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_aborting_removes_all_segments(tmp_path: Path) -> None:
    sink = open_masks(str(tmp_path / "new" / "m.mkv"))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    sink.write(TAKES[0].smaller().result(1))
    assert len(tree(tmp_path / "new")) == 4
    sink.abort()
    assert tree(tmp_path) == []


def test_a_change_of_layout_alone_is_no_new_segment(tmp_path: Path) -> None:
    sink = open_masks(str(tmp_path / "m.mkv"))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    sink.reconfigure(replace(TAKES[0], layout="yuv444p").info())
    sink.write(TAKES[0].result(1))
    sink.close()
    assert tree(tmp_path) == ["m.mkv", "m.mkv.jsonl"]


def test_indexed_pictures_of_any_size_carry_the_palette(tmp_path: Path) -> None:
    sink = open_masks(f"{tmp_path}/m/")
    sink.open(TAKES[0].info())
    results = [TAKES[0].result(3), TAKES[0].smaller().result(5)]
    for result in results:
        sink.write(result)
    sink.close()
    assert tree(tmp_path / "m") == ["mask_000003.png", "mask_000005.png"], "numbered by the frame's index"
    for name, result in zip(tree(tmp_path / "m"), results, strict=True):
        with Image.open(tmp_path / "m" / name) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), result.labels)
            expected = np.array(CAMVID.palette, np.uint8)[result.labels]
            np.testing.assert_array_equal(np.array(image.convert("RGB")), expected)


def test_lines_of_any_size(tmp_path: Path) -> None:
    sink = open_masks(str(tmp_path / "m.jsonl"))
    sink.open(TAKES[0].info())
    small = TAKES[0].smaller()
    sink.write(small.result(0))
    sink.close()
    annotations = lines_of(tmp_path / "m.jsonl")[1][0]["annotations"]
    assert all(a["segmentation"]["size"] == [small.height, small.width] for a in annotations)
    assert sum(a["area"] for a in annotations) == small.height * small.width


def test_a_failed_second_rename_takes_the_first_back(tmp_path: Path) -> None:
    sink = open_masks(str(tmp_path / "m.mkv"))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    (tmp_path / "m.mkv.jsonl").mkdir()
    with pytest.raises(SinkError, match="there is a directory of that name"):
        sink.close()
    sink.abort()
    assert tree(tmp_path) == ["m.mkv.jsonl"]
