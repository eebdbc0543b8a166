"""Pictures in files."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import FORMATS, Colour, Frame
from pipeline.sinks import VideoOptions, open_output
from tests.pipeline.sinks.made import TAKES, Take, ffprobe, tree, write

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


@pytest.mark.parametrize("layout", sorted(FORMATS))
@pytest.mark.parametrize("colour", [Colour(1), Colour(6, True), Colour(9)], ids=["709", "601 full", "2020"])
def test_colours_are_those_of_the_frames_matrix_and_range(layout: str, colour: Colour, tmp_path: Path) -> None:
    rgb = np.array([200.0, 80.0, 40.0])
    take = Take("flat", 31, 45, layout, colour, ticks=(0,))
    frame = flat(rgb, take)
    sink = open_output(f"{tmp_path}/p.png")
    sink.open(take.info())
    sink.write(replace(take.result(0), frame=frame))
    sink.close()
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (45, 31)
        assert abs(np.array(image).astype(float) - rgb).max() <= 2


def flat(rgb: np.ndarray, take: Take) -> Frame:
    kr, kb = take.colour.luma_weights
    luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    blue, red = (rgb[2] - luma) / (2 * (1 - kb)), (rgb[0] - luma) / (2 * (1 - kr))
    full = take.colour.full_range
    levels = (
        (luma, blue + 128, red + 128) if full else (luma * 219 / 255 + 16, *(c * 224 / 255 + 128 for c in (blue, red)))
    )
    layout = FORMATS[take.layout]
    unit = 1 << (layout.depth - 8)
    shapes = layout.plane_shapes(take.height, take.width)
    y, u, v = (np.full(s, round(c * unit), layout.dtype) for s, c in zip(shapes, levels, strict=True))
    return replace(take.result(0).frame, planes=(y, u, v))


def test_a_single_name_holds_a_single_picture(tmp_path: Path) -> None:
    sink = open_output(str(tmp_path / "cat.png"))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    with pytest.raises(SinkError, match=r"name it cat_%06d\.png"):
        sink.write(TAKES[0].result(1))
    sink.abort()
    assert tree(tmp_path) == []
    write(open_output(str(tmp_path / "cat.png")), replace(TAKES[0], ticks=(0,)))
    assert tree(tmp_path) == ["cat.png"]


def test_sizes_may_change(tmp_path: Path) -> None:
    sink = open_output(f"{tmp_path}/f/")
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    small = TAKES[1].smaller()
    sink.reconfigure(small.info())
    sink.write(small.result(1))
    sink.write(TAKES[0].result(2))
    sink.close()
    sizes = []
    for name in tree(tmp_path / "f"):
        with Image.open(tmp_path / "f" / name) as image:
            sizes.append(image.size)
    assert sizes == [(64, 48), (small.width, small.height), (64, 48)]


def test_ffmpeg_reads_the_sequence_and_its_aspect(tmp_path: Path) -> None:
    write(open_output(f"{tmp_path}/f/"), replace(TAKES[0], aspect=Fraction(4, 3)))
    answer = ffprobe(
        f"{tmp_path}/f/frame_%06d.png", "stream=codec_name,width,height,sample_aspect_ratio", "-count_frames"
    )
    assert answer["streams"][0]["codec_name"] == "png"
    assert answer["streams"][0]["sample_aspect_ratio"] == "4:3"


def test_an_aborted_run_leaves_other_peoples_files(tmp_path: Path) -> None:
    (tmp_path / "frame_000099.png").write_text("mine")
    sink = open_output(f"{tmp_path}/")
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    sink.abort()
    assert tree(tmp_path) == ["frame_000099.png"]


def test_a_picture_that_was_there_survives_a_second_result(tmp_path: Path) -> None:
    keep = tmp_path / "keep.png"
    keep.write_text("mine")
    sink = open_output(str(keep))
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    with pytest.raises(SinkError, match="holds one picture"):
        sink.write(TAKES[0].result(1))
    sink.abort()
    assert (tree(tmp_path), keep.read_text()) == (["keep.png"], "mine")


def test_a_link_that_was_there_survives_an_aborted_run(tmp_path: Path) -> None:
    (tmp_path / "frame_000000.png").symlink_to("nowhere.png")
    sink = open_output(f"{tmp_path}/")
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    sink.abort()
    assert tree(tmp_path) == ["frame_000000.png"]


def test_only_pictures_that_replace_others_wait_for_the_end(tmp_path: Path) -> None:
    old = tmp_path / "frame_000001.png"
    old.write_text("mine")
    sink = open_output(f"{tmp_path}/")
    sink.open(TAKES[0].info())
    for index in (0, 1, 0, 2, 9000):
        sink.write(replace(TAKES[0].result(index % 3), frame=replace(TAKES[0].result(index % 3).frame, index=index)))
    assert old.read_text() == "mine"
    names = [f"frame_{index:06d}.png" for index in (0, 1, 2, 9000)]
    assert [name for name in tree(tmp_path) if not name.startswith(".")] == names
    sink.close()
    assert tree(tmp_path) == names
    with Image.open(old) as image:
        assert image.size == (64, 48)


def test_a_failed_rename_at_the_end_takes_no_picture_away(tmp_path: Path) -> None:
    names = [f"frame_{index:06d}.png" for index in range(4)]
    for name in names[:3]:
        (tmp_path / name).write_text("mine")
    sink = open_output(f"{tmp_path}/")
    sink.open(TAKES[0].info())
    for index in range(4):
        sink.write(TAKES[0].result(index))
    (tmp_path / names[1]).unlink()
    (tmp_path / names[1]).mkdir()
    with pytest.raises(SinkError, match="there is a directory of that name"):
        sink.close()
    sink.abort()
    assert tree(tmp_path) == names[:3]
    with Image.open(tmp_path / names[0]) as image:
        assert image.size == (64, 48)
    assert (tmp_path / names[2]).read_text() == "mine"


def test_written_files_are_found_again_across_gaps(tmp_path: Path) -> None:
    sink = open_output(f"{tmp_path}/")
    sink.open(TAKES[0].info())
    result = TAKES[0].result(0)
    for index in (0, 3, 4095, 4096, 10**9):
        sink.write(replace(result, frame=replace(result.frame, index=index)))
    (tmp_path / "frame_000002.png").write_text("made by another meanwhile")
    sink.abort()
    assert tree(tmp_path) == ["frame_000002.png"]


def test_a_percent_sign_in_the_name(tmp_path: Path) -> None:
    write(open_output(f"{tmp_path}/50%%_%02d.png"), replace(TAKES[0], ticks=(0, 1)))
    assert tree(tmp_path) == ["50%_00.png", "50%_01.png"]


@pytest.mark.parametrize("name", ["a_%d_%d.png", "a_%s.png", "50%.jpg"])
def test_names_that_make_no_sense(name: str) -> None:
    with pytest.raises(ConfigError, match="%06d"):
        open_output(name)


def test_jpeg_quality_is_on_the_common_scale(tmp_path: Path) -> None:
    errors = []
    for quality in (0, 20, 40):
        path = tmp_path / f"{quality}.jpg"
        write(open_output(str(path), VideoOptions(quality=quality)), replace(TAKES[0], ticks=(0,)))
        write(open_output(str(path.with_suffix(".png"))), replace(TAKES[0], ticks=(0,)))
        with Image.open(path) as jpeg, Image.open(path.with_suffix(".png")) as png:
            errors.append(float(np.abs(np.array(jpeg).astype(float) - np.array(png)).mean()))
    assert errors[0] < errors[1] < errors[2]
    assert errors[1] < 2


@pytest.mark.parametrize(("source", "output"), [
    ("p", "p/"), ("p/", "p/x_%04d.jpg"), ("p/%03d.png", "p/"), ("p/*.png", "p/"), ("p/a.png", "p/a.png"),
])  # fmt: skip
def test_the_input_pictures_are_safe(source: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_text("precious")
    sink = open_output(f"{tmp_path}/{output}")
    with pytest.raises(SinkError, match="choose another"):
        sink.open(TAKES[0].info(uri=f"{tmp_path}/{source}"))
    sink.abort()
    assert tree(tmp_path / "p") == ["a.png"]


def test_beside_a_single_input_picture_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_text("mine")
    take = replace(TAKES[0], ticks=(0,))
    write(open_output(f"{tmp_path}/cat-overlay.jpg"), take, info=take.info(uri=f"{tmp_path}/cat.jpg"))
    assert tree(tmp_path) == ["cat-overlay.jpg", "cat.jpg"]


def test_a_picture_too_large_for_jpeg_is_one_line(tmp_path: Path) -> None:
    take = Take("wide", 2, 70000, ticks=(0,))
    sink = open_output(f"{tmp_path}/a.jpg")
    with pytest.raises(SinkError, match="70000×2") as raised:
        write(sink, take)
    sink.abort()
    assert "\n" not in str(raised.value)
    assert tree(tmp_path) == []
