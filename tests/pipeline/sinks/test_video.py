"""What ffprobe says of the overlay videos: times, tags, aspect, sizes, audio."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import FORMATS, Colour, Frame, Result
from pipeline.sinks import VideoOptions, encoders, open_output
from pipeline.sinks.picture import Canvas
from pipeline.sources.base import AudioPacket
from tests.conftest import need_program
from tests.pipeline.sinks.made import BT709, TAKES, Take, decode, ffprobe, plane, write

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]
takes = pytest.mark.parametrize("take", TAKES, ids=lambda take: take.name)

ENTRIES = (
    "stream=codec_name,width,height,pix_fmt,color_range,color_space,color_transfer,color_primaries,"
    "sample_aspect_ratio,time_base,r_frame_rate:frame=pts,sample_aspect_ratio:format=duration,start_time"
)
NAMES: dict[str, dict[int, str]] = {
    "color_space": {1: "bt709", 6: "smpte170m", 9: "bt2020nc"},
    "color_primaries": {1: "bt709", 6: "smpte170m", 9: "bt2020"},
    "color_transfer": {1: "bt709", 6: "smpte170m", 16: "smpte2084"},
}


def probe(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    answer = ffprobe(path, ENTRIES, "-select_streams", "v")
    return answer["streams"][0], answer["frames"], answer["format"]


def assert_colour(stream: dict[str, Any], colour: Colour) -> None:
    assert stream["color_range"] == ("pc" if colour.full_range else "tv")
    assert stream["color_space"] == NAMES["color_space"][colour.space]
    assert stream["color_primaries"] == NAMES["color_primaries"][colour.primaries]
    assert stream["color_transfer"] == NAMES["color_transfer"][colour.transfer]


@takes
@pytest.mark.parametrize(("name", "codec"), [
    ("a.mp4", "h264"), ("a.mov", "h264"), ("a.mkv", "h264"), ("a.webm", "vp9"),
    ("a.mp4", "hevc"), ("a.mp4", "av1"), ("a.webm", "av1"), ("a.mkv", "ffv1"), ("a.mkv", "vp9"),
])  # fmt: skip
def test_times_colours_aspect_and_size(take: Take, name: str, codec: str, tmp_path: Path) -> None:
    write(open_output(str(tmp_path / name), VideoOptions(codec=codec)), take)
    stream, frames, whole = probe(tmp_path / name)
    assert stream["codec_name"] == codec
    assert_colour(stream, take.colour)
    tick = Fraction(stream["time_base"])
    exact = name.endswith(("mp4", "mov"))
    for frame, pts in zip(frames, take.pts, strict=True):
        assert abs(frame["pts"] * tick - pts) <= (0 if exact else tick / 2)
    end = take.pts[-1] + (1 / take.rate if take.rate in (25, Fraction(30000, 1001)) else take.pts[-1] - take.pts[-2])
    assert float(whole["start_time"]) == pytest.approx(float(take.pts[0]), abs=1e-3)
    assert float(whole["duration"]) == pytest.approx(float(end), abs=2.1e-3)
    assert_shape(stream, frames[0], take, codec, square=name.endswith(("mkv", "webm")) and codec in ("vp9", "av1"))


def assert_shape(stream: dict[str, Any], frame: dict[str, Any], take: Take, codec: str, *, square: bool) -> None:
    said = frame.get("sample_aspect_ratio", stream.get("sample_aspect_ratio", "N/A"))
    said = "1:1" if said == "N/A" else said
    aspect = Fraction(said.replace(":", "/"))
    width = round(take.width * take.aspect) if square else take.width
    assert aspect == (1 if square else take.aspect)
    layout = FORMATS[stream["pix_fmt"].replace("yuvj", "yuv")]
    pad = 1 if codec in ("h264", "hevc", "av1") else 0
    assert stream["width"] == width + (width & layout.log2_chroma_w & pad)
    assert stream["height"] == take.height + (take.height & layout.log2_chroma_h & pad)
    wanted = FORMATS[take.layout]
    if codec in ("h264", "hevc", "ffv1"):
        assert layout == wanted
    else:
        assert layout.depth == (wanted.depth if codec == "av1" else 8)


@takes
def test_lossless_planes_are_the_very_planes(take: Take, tmp_path: Path) -> None:
    write(open_output(str(tmp_path / "a.mkv"), VideoOptions(codec="ffv1")), take)
    for picture, result in zip(decode(tmp_path / "a.mkv"), take.results(), strict=True):
        for number, samples in enumerate(result.frame.planes):
            np.testing.assert_array_equal(plane(picture, number, samples.dtype), samples)


def test_a_picture_that_libav_still_holds_is_not_painted_over() -> None:
    canvas = Canvas(64, 48, "yuv420p")
    graph = Graph()
    entry = graph.add_buffer(width=64, height=48, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
    graph.link_nodes(entry, graph.add("buffersink")).configure()
    results = [TAKES[0].result(0), TAKES[0].result(9)]
    for result in results:
        graph.vpush(canvas.fill(result.frame.planes))
    for result in results:
        np.testing.assert_array_equal(plane(graph.vpull(), 0, np.dtype(np.uint8)), result.frame.planes[0])


def test_padding_to_even_sizes_repeats_the_edge(tmp_path: Path) -> None:
    take = replace(TAKES[0], height=49, width=65)
    write(open_output(str(tmp_path / "a.mp4"), VideoOptions(quality=1)), take)
    for picture in decode(tmp_path / "a.mp4"):
        luma = plane(picture, 0, np.dtype(np.uint8)).astype(int)
        assert luma.shape == (50, 66)
        assert abs(luma[49] - luma[48]).max() <= 2
        assert abs(luma[:, 65] - luma[:, 64]).max() <= 2


def test_a_later_size_or_layout_is_scaled_to_the_first(tmp_path: Path) -> None:
    first = TAKES[0]
    other = replace(TAKES[1].smaller(), time_base=first.time_base, ticks=tuple(t + 6144 for t in first.ticks))
    other = replace(other, colour=first.colour)
    sink = open_output(str(tmp_path / "a.mkv"), VideoOptions(codec="ffv1"))
    sink.open(first.info())
    for result in first.results():
        sink.write(result)
    sink.reconfigure(other.info())
    for result in other.results():
        sink.write(result)
    for result in (replaced(r, 12) for r in first.results()):
        sink.write(result)
    sink.close()
    pictures = decode(tmp_path / "a.mkv")
    assert len(pictures) == 36
    for number, picture in enumerate(pictures):
        assert (picture.height, picture.width, picture.format.name) == (48, 64, "yuv420p")
        source = (first if not 12 <= number < 24 else other).result(number % 12).frame
        level = float(source.planes[0].mean()) / (1 << (source.format.depth - 8))
        assert abs(float(plane(picture, 0, np.dtype(np.uint8)).mean()) - level) < 1.5
    np.testing.assert_array_equal(plane(pictures[24], 0, np.dtype(np.uint8)), first.result(0).frame.planes[0])


def replaced(result: Result, seconds: int) -> Result:
    return replace(result, frame=replace(result.frame, pts=result.frame.pts + seconds))


def test_a_time_that_goes_back_does_not_end_the_run(tmp_path: Path) -> None:
    take = replace(TAKES[0], ticks=(0, 512, 1024, 700, 700, 2048))
    write(open_output(str(tmp_path / "a.mp4")), take)
    assert [f["pts"] for f in probe(tmp_path / "a.mp4")[1]] == [0, 512, 1024, 1025, 1026, 2048]


@pytest.mark.parametrize("rate", [Fraction(90000), Fraction(0), Fraction(1, 100), None])
def test_an_absurd_rate_is_not_believed(rate: Fraction | None, tmp_path: Path) -> None:
    write(open_output(str(tmp_path / "a.mp4")), replace(TAKES[0], rate=rate))
    whole = probe(tmp_path / "a.mp4")[2]
    assert float(whole["duration"]) == pytest.approx(12 / 25, abs=1e-3)


def test_a_single_picture_lasts(tmp_path: Path) -> None:
    write(open_output(str(tmp_path / "a.mp4")), replace(TAKES[0], ticks=(0,), rate=None))
    assert float(probe(tmp_path / "a.mp4")[2]["duration"]) == pytest.approx(1 / 25, abs=1e-3)


def test_quality_is_heeded(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (48, 64), np.uint8)
    sizes = []
    for name in ("a.mp4", "b.webm", "c.jpg"):
        for quality in (5, 45):
            path = tmp_path / f"{quality}{name}"
            sink = open_output(str(path), VideoOptions(quality=quality))
            sink.open(TAKES[0].info())
            result = TAKES[0].result(0)
            planes = (noise, *result.frame.planes[1:])
            sink.write(replace(result, frame=replace(result.frame, planes=planes)))
            sink.close()
            sizes.append(path.stat().st_size)
    assert all(good > 1.5 * bad for good, bad in zip(sizes[::2], sizes[1::2], strict=True)), sizes


def test_the_library_of_an_encoder_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for codec in ("h264", "hevc", "av1", "vp9"):
        write(open_output(str(tmp_path / "a.mkv"), VideoOptions(codec=codec)), TAKES[0])
    assert capfd.readouterr() == ("", "")


# ---- audio


@pytest.fixture(scope="session")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    command = [need_program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "sine=440:d=0.6", "-f", "lavfi", "-i"]
    command += ["testsrc2=s=64x48:r=25:d=0.6"]
    for name, codec in (("aac.mp4", "aac"), ("opus.mkv", "libopus"), ("pcm.mkv", "pcm_s16le"), ("aac.ts", "aac")):
        subprocess.run([*command, "-c:a", codec, "-c:v", "mpeg4", folder / name], check=True, timeout=30)
    return folder


def packets(path: Path) -> tuple[str, list[tuple[Fraction, bytes]]]:
    """Codec, times and bytes of the audio."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        found = [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size and p.pts is not None]
        return stream.codec_context.name, found


@pytest.mark.parametrize(("source", "name"), [
    ("aac.mp4", "o.mp4"), ("aac.mp4", "o.mov"), ("aac.mp4", "o.mkv"), ("aac.ts", "o.mp4"), ("aac.ts", "o.mkv"),
    ("opus.mkv", "o.webm"), ("opus.mkv", "o.mkv"), ("opus.mkv", "o.mp4"), ("pcm.mkv", "o.mov"), ("pcm.mkv", "o.mkv"),
])  # fmt: skip
def test_audio_is_copied_packet_by_packet_in_step_with_the_pictures(
    source: str, name: str, sounding: Path, tmp_path: Path
) -> None:
    late = replace(TAKES[0], ticks=tuple(t + 17920 for t in TAKES[0].ticks)) if source == "aac.ts" else TAKES[0]
    codec, before = packets(sounding / source)
    with av.open(str(sounding / source)) as container:
        stream = container.streams.audio[0]
        audio = [AudioPacket(p) for p in container.demux(stream) if p.dts is not None]
        untouched = [(a.packet.pts, a.packet.time_base, a.packet.stream.index) for a in audio]
        write(open_output(str(tmp_path / name)), late, audio, late.info(stream))
        assert [(a.packet.pts, a.packet.time_base, a.packet.stream.index) for a in audio] == untouched
    copied, after = packets(tmp_path / name)
    assert copied == codec
    assert len(after) == len(before)
    for (a, sent), (b, got) in zip(before, after, strict=True):
        assert abs(a - b) <= Fraction(1, 1000), "1 ms, the coarser of both ticks"
        assert got == sent or (source == "aac.ts" and got == sent[7:]), "the same bytes, in TS after their ADTS header"
    frames = probe(tmp_path / name)[1]
    tick = Fraction(probe(tmp_path / name)[0]["time_base"])
    assert abs(frames[0]["pts"] * tick - late.pts[0]) <= Fraction(1, 2000), "the pictures are not shifted by the audio"


def test_the_sound_ends_where_it_ended(sounding: Path, tmp_path: Path) -> None:
    """The last packet says how many of its samples to throw away; that is beside its bytes."""

    def discarded(path: Path) -> list[str]:
        entries = "packet_side_data=discard_padding"
        answer = ffprobe(path, entries, "-select_streams", "a", "-show_packets")
        found = [side for packet in answer["packets"] for side in packet.get("side_data_list", [])]
        return [str(side["discard_padding"]) for side in found if side.get("discard_padding")]

    with av.open(str(sounding / "opus.mkv")) as container:
        stream = container.streams.audio[0]
        audio = [AudioPacket(p) for p in container.demux(stream) if p.dts is not None]
        write(open_output(str(tmp_path / "o.mkv")), TAKES[0], audio, TAKES[0].info(stream))
    assert discarded(tmp_path / "o.mkv") == discarded(sounding / "opus.mkv") != []


@pytest.mark.parametrize(("source", "name"), [("aac.mp4", "o.webm"), ("opus.mkv", "o.mov")])
def test_audio_that_the_container_cannot_hold_is_left_out_with_a_warning(
    source: str, name: str, sounding: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with av.open(str(sounding / source)) as container:
        stream = container.streams.audio[0]
        audio = [AudioPacket(p) for p in container.demux(stream) if p.dts is not None]
        write(open_output(str(tmp_path / name)), TAKES[0], audio, TAKES[0].info(stream))
    assert len(decode(tmp_path / name)) == 12
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert "it is left out" in caplog.text


def test_audio_times_that_go_back_are_left_out(
    sounding: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with av.open(str(sounding / "aac.mp4")) as container:
        stream = container.streams.audio[0]
        audio = [AudioPacket(p) for p in container.demux(stream) if p.dts is not None]
        sink = open_output(str(tmp_path / "o.mp4"))
        sink.open(TAKES[0].info(stream))
        for packet in [*audio[:5], *audio[:3], *audio[5:]]:
            sink.write_audio(packet)
        sink.write(TAKES[0].result(0))
        sink.close()
    assert packets(tmp_path / "o.mp4") == packets(sounding / "aac.mp4")
    assert caplog.text.count("does not rise") == 1


def test_audio_times_that_rise_by_less_than_the_container_can_tell(
    sounding: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport stream counts 90,000 ticks a second, its sound in MP4 as many as it has samples."""
    with av.open(str(sounding / "aac.mp4")) as container:
        stream = container.streams.audio[0]
        audio = [packet for packet in container.demux(stream) if packet.dts is not None]
        sink = open_output(str(tmp_path / "o.mp4"))
        sink.open(TAKES[0].info(stream))
        for number, packet in enumerate(audio):
            packet.time_base = Fraction(1, 90000)
            packet.pts = packet.dts = 2000 * number if number % 4 else max(0, 2000 * (number - 1) + 1)
            sink.write_audio(AudioPacket(packet))
        sink.write(TAKES[0].result(0))
        sink.close()
    late = len(range(4, len(audio), 4))
    assert len(packets(tmp_path / "o.mp4")[1]) == len(audio) - late
    assert caplog.text.count("does not rise") == 1


# ---- refusals


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"precious")
    sink = open_output(str(path))
    with pytest.raises(SinkError, match="is the input itself"):
        sink.open(TAKES[0].info(uri=str(path)))
    assert path.read_bytes() == b"precious"


def test_another_build_of_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders, "_is_built", lambda name: name not in ("libx264", "libx265"))
    write(open_output(str(tmp_path / "a.mp4")), TAKES[0])
    assert probe(tmp_path / "a.mp4")[0]["codec_name"] == "vp9"
    with pytest.raises(ConfigError, match="built without libx264"):
        open_output(str(tmp_path / "a.mp4"), VideoOptions(codec="h264"))


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "disk" / "b.mp4")
    write(open_output(str(tmp_path / "a.mp4")), TAKES[0])
    assert (tmp_path / "a.mp4").is_symlink()
    assert len(decode(tmp_path / "disk" / "b.mp4")) == 12


def test_a_size_that_the_encoder_refuses_is_one_line(tmp_path: Path) -> None:
    take = Take("huge", 2, 20000)
    with pytest.raises(SinkError) as raised:
        write(open_output(str(tmp_path / "a.mp4")), take)
    assert "libx264 at 20000×2" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_writing_without_opening_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is not open"):
        open_output(str(tmp_path / "a.mp4")).write(TAKES[0].result(0))


@pytest.mark.parametrize("options", [
    {"quality": -1}, {"quality": 52}, {"codec": "divx"}, {"threads": -1},
])  # fmt: skip
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"choose|give"):
        VideoOptions(**options)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "h264"), ("a.mov", "vp9"), ("a.mp4", "ffv1")])
def test_a_codec_that_the_container_cannot_hold(name: str, codec: str) -> None:
    with pytest.raises(ConfigError, match="choose from"):
        open_output(name, VideoOptions(codec=codec))


def test_a_frame_of_another_colour_is_converted(tmp_path: Path) -> None:
    take = replace(TAKES[0], colour=BT709)
    sink = open_output(str(tmp_path / "a.mkv"), VideoOptions(codec="ffv1"))
    sink.open(take.info())
    result = take.result(0)
    full = np.full((48, 64), 255, np.uint8)
    frame = Frame(
        (full, np.full((48, 64), 128, np.uint8), np.full((48, 64), 128, np.uint8)),
        FORMATS["yuv444p"], Colour(1, True, 1, 1), 0, result.pts, take.time_base, 0, 0, "x",
    )  # fmt: skip
    sink.write(replace(result, frame=frame))
    sink.close()
    assert abs(int(plane(decode(tmp_path / "a.mkv")[0], 0, np.dtype(np.uint8)).max()) - 235) <= 1


@pytest.mark.parametrize(("wanted", "available", "nearest"), [
    ("yuv422p10le", ("yuv444p", "yuv420p10le"), "yuv420p10le"),
    ("yuv422p", ("yuv420p", "yuv444p10le", "yuv444p"), "yuv444p"),
    ("yuv420p", ("yuv444p", "yuv420p10le", "yuv420p"), "yuv420p"),
    ("yuv444p10le", ("yuv420p", "yuv422p"), "yuv422p"),
])  # fmt: skip
def test_the_nearest_layout_loses_depth_last(wanted: str, available: tuple[str, ...], nearest: str) -> None:
    found = encoders.nearest_format(FORMATS[wanted], tuple(FORMATS[name] for name in available))
    assert found.name == nearest
