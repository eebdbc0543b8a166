"""Encoding by NVENC: what it is asked for against libav's own options, and what is done without it.

Tests marked ``gpu`` ask a real one, and another test runs them over a stand-in for the driver, through real libav.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import CodecOption, OptionType

from pipeline.errors import ConfigError, HardwareError, SinkError
from pipeline.frame import FORMATS
from pipeline.hwaccel import missing
from pipeline.sinks import OutputInfo, RecordOptions, VideoOptions, open_output
from pipeline.sinks.encoders import CONTAINERS, ENCODERS, KEYFRAMES_ASKED_FOR, Encoder, encoder_for, encoder_named
from pipeline.sinks.nvenc import EncoderChoice, choose, nvenc_encoders, refusal
from pipeline.sinks.rtsp.h264 import H264Stream
from pipeline.sinks.video import VideoSink
from tests.pipeline.nvidia import build_driver, nvdec_pictures
from tests.pipeline.running import arguments, one_line_error, program
from tests.pipeline.sinks.made import TAKES, Take, decode, ffprobe, plane, write
from tests.pipeline.sources.test_hwaccel import lossy

pytestmark = pytest.mark.timeout(60)

NVENC = [encoder for encoder in ENCODERS if encoder.on_gpu]
LARGE = Take("large", 240, 320)
YUV = FORMATS["yuv420p"]
HIGH_QUALITY, ULTRA_LOW_LATENCY = 1, 3
"""NVENC's numbers of its tunings."""

without_gpu = pytest.mark.skipif(not missing("NVENC"), reason="this machine has an NVIDIA GPU")


def options_of(encoder: Encoder) -> dict[str, CodecOption]:
    if not encoder.is_built():
        pytest.skip(f"this PyAV has no {encoder.name}")
    known = av.CodecContext.create(encoder.name, "w").supported_options
    return {option.name: option for option in (*known.generic, *known.private)}


@pytest.mark.parametrize("encoder", NVENC, ids=lambda encoder: encoder.name)
def test_every_option_is_one_of_the_encoder_and_within_its_range(encoder: Encoder) -> None:
    known = options_of(encoder)
    profile = {"profile": "baseline"} if encoder.alias == "h264" else {}
    for quality in (None, 0.0, 20.0, 51.0):
        for prompt in (False, True):
            asked = encoder.options(quality, prompt=prompt) | profile | KEYFRAMES_ASKED_FOR
            for name, value in asked.items():
                option = known[name]
                if option.choices and not value.lstrip("-").isdigit():
                    assert value in {choice.name for choice in option.choices}, name
                else:
                    assert option.min <= float(value) <= option.max, name
                if option.type == OptionType.BOOL:
                    assert value in ("0", "1")


def test_quality_means_on_the_gpu_what_it_means_elsewhere() -> None:
    """Constant quality that falls with the number; NVENC's 0 would mean that it chooses itself."""
    for encoder in NVENC:
        asked = [float(encoder.options(quality)["cq"]) for quality in (0, 10, 20, 30, 51)]
        assert asked == sorted(asked)
        assert asked[0] == 1
        assert encoder.options(20)["rc"] == "vbr"
    assert encoder_named("h264_nvenc").options(23)["cq"] == encoder_named("libx264").options(23)["crf"]


def test_what_somebody_watches_has_no_delay() -> None:
    for encoder in NVENC:
        asked = encoder.options(None, prompt=True)
        assert (asked["delay"], asked["bf"], asked["zerolatency"], asked["rc-lookahead"]) == ("0", "0", "1", "0")


def test_each_goes_where_its_format_goes() -> None:
    for encoder in NVENC:
        for container, choices in CONTAINERS.items():
            fits = any(each.alias == encoder.alias for each in ENCODERS if each.name in choices)
            if fits:
                assert encoder_for(container, encoder.name) is encoder
            else:
                with pytest.raises(ConfigError, match="choose from"):
                    encoder_for(container, encoder.name)
    assert encoder_for("mp4", None).name == "libx264"
    assert encoder_for("mov", "h265").name == "libx265"


@without_gpu
def test_a_machine_without_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    h264 = encoder_named("h264")
    assert choose(h264, VideoOptions(), 640, 360, YUV) is h264
    assert caplog.text == ""
    for options in (VideoOptions(hwaccel="cuda"), VideoOptions(codec="h264_nvenc"), VideoOptions(codec="hevc_nvenc")):
        with pytest.raises(HardwareError) as refused:
            open_output("a.mp4", options)
        name = options.codec or "h264_nvenc"
        other = "libx265" if "hevc" in name else "libx264"
        assert str(refused.value).startswith(f"{name} cannot be had: NVIDIA's driver is not installed")
        assert str(refused.value).endswith(f"; --codec {other} encodes in software")
    for uri in ("rtsp://@127.0.0.1:8554/cam", "rtsp://127.0.0.1/cam", "rec/%H.mkv"):
        with pytest.raises(HardwareError):
            open_output(uri, VideoOptions(hwaccel="cuda"))
        open_output(uri, VideoOptions(hwaccel="cuda", codec="libx264"))


def test_software_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.nvenc.missing", lambda _: pytest.fail("nothing was to be asked"))
    for options in (VideoOptions(codec="libx264", hwaccel="cuda"), VideoOptions(hwaccel="none")):
        assert choose(encoder_named("h264"), options, 640, 360, YUV).name == "libx264"


def test_what_nvenc_would_not_keep_stays_with_software(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.nvenc.missing", lambda _: pytest.fail("nothing was to be asked"))
    for layout in ("yuv420p10le", "yuv422p", "yuv444p10le"):
        assert choose(encoder_named("h264"), VideoOptions(), 640, 360, FORMATS[layout]).name == "libx264"
    assert choose(encoder_named("vp9"), VideoOptions(), 640, 360, YUV).name == "libvpx-vp9"


@pytest.mark.parametrize("refuses", ["", "it has none"])
def test_nvenc_is_tried_once_for_all_segments(refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes the trial and then refuses, as a GPU does whose sessions are used up."""
    if not nvenc_encoders():
        pytest.skip("this PyAV has no NVENC")
    asked: list[str] = []

    def tried(encoder: Encoder, *_: object) -> str:
        asked.append(encoder.name)
        return refuses

    def start(sink: VideoSink, encoder: Encoder, info: OutputInfo) -> None:
        asked.append(encoder.name)
        if encoder.on_gpu:
            raise SinkError("no session is left")
        really(sink, encoder, info)

    really = VideoSink._start
    monkeypatch.setattr("pipeline.sinks.nvenc.missing", lambda _: "")
    monkeypatch.setattr("pipeline.sinks.nvenc.refusal", tried)
    monkeypatch.setattr(VideoSink, "_start", start)
    sink = open_output(f"{tmp_path}/a-%H%M%S.mkv", record=RecordOptions(segment_time=0.1))
    write(sink, LARGE)
    segments = len(list(tmp_path.glob("*.mkv")))
    assert segments > 2
    assert asked == ["h264_nvenc"] * (1 if refuses else 2) + ["libx264"] * segments


def test_a_full_disk_is_not_put_down_to_nvenc(monkeypatch: pytest.MonkeyPatch) -> None:
    if not nvenc_encoders():
        pytest.skip("this PyAV has no NVENC")
    monkeypatch.setattr("pipeline.sinks.nvenc.missing", lambda _: "")
    monkeypatch.setattr("pipeline.sinks.nvenc.refusal", lambda *_: "")
    encoders = EncoderChoice(encoder_named("h264"), VideoOptions())

    def full(_: Encoder) -> None:
        raise SinkError("a.mkv cannot be written: the disk is full")

    with pytest.raises(SinkError, match="the disk is full"):
        encoders.begin(320, 240, YUV, full)
    assert encoders.begin(320, 240, YUV, lambda encoder: encoder.name) == "h264_nvenc"


def test_demands_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="codec h264_nvenc is a GPU's: leave hwaccel none out"):
        VideoOptions(codec="h264_nvenc", hwaccel="none")
    with pytest.raises(ConfigError, match=r"NVENC encodes no vp9, but .*--codec libvpx-vp9 to encode in software"):
        open_output("a.webm", VideoOptions(hwaccel="cuda"))
    with pytest.raises(ConfigError, match="hwaccel is auto, none or cuda"):
        VideoOptions(hwaccel="gpu")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")
def test_a_gpu_that_decodes_and_does_not_encode(tiny: str, tmp_path: Path) -> None:
    clip = lossy("h264", tmp_path)
    nvdec_pictures(clip, tmp_path / "pictures")
    environment = build_driver(tmp_path) | {"NVDEC_PICTURES": str(tmp_path / "pictures")}
    out, report = tmp_path / "o.mp4", tmp_path / "o.json"

    done = program(*arguments(clip, tiny, "--output", out, "--hwaccel", "cuda"), env=environment)
    one_line_error(
        done, "h264_nvenc cannot be had: NVENC takes no pictures of 256×256", "--codec libx264 encodes in so"
    )
    assert not out.exists()

    done = program(*arguments(clip, tiny, "--output", out, "--report", report), env=environment)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(report.read_text())["inputs"]
    assert (one["decoder"], one["sinks"][0]["encoder"]) == ("h264 by NVDEC", "libx264")
    assert "\n  decoder h264 by NVDEC, encoder libx264\n" in done.stdout
    assert len(decode(out)) == 30
    assert "INFO: h264 is encoded in software, NVENC takes no pictures of 96×80 here" in done.stderr


def keyframes(encoder: H264Stream, take: Take) -> list[list[int]]:
    """Kinds of the NAL units of every keyframe; one is asked for at the sixth picture."""
    encoder.configure(take.info())
    found = []
    for index in range(len(take.ticks)):
        unit = encoder.encode(take.result(index).frame, key=index == 6)
        assert unit is not None, "every picture comes out at once"
        starts = [place for place in range(len(unit.picture) - 3) if unit.picture[place : place + 3] == b"\0\0\1"]
        kinds = [unit.picture[place + 3] & 31 for place in starts]
        assert unit.keyframe == (5 in kinds)
        assert unit.keyframe == (index in (0, 6))
        if unit.keyframe:
            found.append(kinds)
    encoder.close()
    return found


AT_ONCE = replace(LARGE, ticks=tuple(range(0, 12 * 640, 640)))
"""Pictures 50 ms from each other: 0.3 s after a keyframe another can be asked for."""


def test_parameter_sets_stand_once_in_front_of_every_keyframe() -> None:
    encoder = H264Stream("rtsp://@:1/a", VideoOptions(hwaccel="none"))
    kinds = keyframes(encoder, AT_ONCE)
    assert len(kinds) == 2
    for each in kinds:
        assert (each.count(7), each.count(8)) == (1, 1)
        assert each.index(7) < each.index(8) < each.index(5)
    assert encoder.encoder == "libx264"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")
def test_what_is_asked_of_nvenc_and_what_becomes_of_it(tmp_path: Path) -> None:
    """The tests of a real GPU, over a stand-in that encodes H.264 and tells what it was asked for."""
    environment = build_driver(tmp_path, encodes=True) | {"NVENC_TOLD": str(tmp_path / "told"), "REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(".ss.ss.. "), "all of H.264 passed, HEVC and AV1 were skipped"

    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    sessions = [each for each in told if "width" in each]
    assert {(each["mode"], each["quality"], each["average"]) for each in sessions} == {(1, 20, 0)}
    plain = [each for each in sessions if each["tuning"] == HIGH_QUALITY]
    live = [each for each in sessions if each["tuning"] == ULTRA_LOW_LATENCY]
    assert {(each["interval_p"], each["gop"], each["zero_reorder"]) for each in plain} == {(3, 250, False)}
    assert [(each["interval_p"], each["gop"], each["zero_reorder"]) for each in live] == [(1, 100_000, True)]
    after = told[told.index(live[0]) + 1 :]
    assert [each.get("forced") for each in after[:12]] == [index in (0, 6) for index in range(12)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")
def test_a_session_that_is_refused_after_the_trial_is_done_without(tiny: str, tmp_path: Path) -> None:
    clip = lossy("h264", tmp_path, width=320, height=240)
    environment = build_driver(tmp_path, encodes=True) | {"NVENC_REFUSES": "2"}
    out, report = tmp_path / "o.mp4", tmp_path / "o.json"
    flags = ("--output", out, "--report", report, "--legend")
    source = tmp_path / "none.yaml"
    source.write_text("source: {hwaccel: none}\n")
    for encoder, more in (("libx264", environment), ("h264_nvenc", environment | {"NVENC_REFUSES": "0"})):
        done = program(*arguments(clip, tiny, "--config", source, *flags), env=more)
        assert done.returncode == 0, done.stderr
        (one,) = json.loads(report.read_text())["inputs"]
        assert (one["decoder"], one["sinks"][0]["encoder"]) == ("h264", encoder)
        assert ("; it is encoded in software" in done.stderr) == (encoder == "libx264")
        assert len(decode(out)) == 30
    assert [path.name for path in tmp_path.glob("*o.mp4*")] == ["o.mp4"]


# ---- this machine's own


def need(name: str) -> Encoder:
    encoder = encoder_named(name)
    reason = missing("NVENC") or refusal(encoder, 320, 240, YUV)
    if reason and missing("NVENC") and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(f"REQUIRE_GPU is set, and there is no driver for NVENC: {reason}")
    if reason:  # a GPU, but one without NVENC, or without this format
        pytest.skip(f"{name}: {reason}")
    return encoder


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", NVENC, ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_nvenc_writes_is_read_by_ffprobe(encoder: Encoder, name: str, tmp_path: Path) -> None:
    need(encoder.name)
    sink = open_output(str(tmp_path / name), VideoOptions(codec=encoder.alias))
    write(sink, LARGE)
    entries = "stream=codec_name,width,height,pix_fmt,color_space,time_base:frame=pts"
    answer = ffprobe(tmp_path / name, entries, "-select_streams", "v")
    (stream,) = answer["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == (encoder.alias, 320, 240)
    assert (stream["pix_fmt"], stream["color_space"]) == ("yuv420p", "bt709")
    tick = Fraction(stream["time_base"])
    times = [frame["pts"] * tick for frame in answer["frames"]]
    assert all(abs(time - pts) <= Fraction(1, 2000) for time, pts in zip(times, LARGE.pts, strict=True))
    for index, picture in enumerate(decode(tmp_path / name)):
        wanted = LARGE.result(index).frame.planes[0].astype(int)
        assert np.abs(plane(picture, 0, np.dtype(np.uint8)).astype(int) - wanted).mean() < 3


@pytest.mark.gpu
def test_nvenc_gives_every_picture_at_once_and_keyframes_when_asked() -> None:
    need("h264_nvenc")
    encoder = H264Stream("rtsp://@:1/a", VideoOptions(hwaccel="cuda"), "baseline")
    kinds = keyframes(encoder, AT_ONCE)
    assert encoder.encoder == "h264_nvenc"
    assert all((each.count(7), each.count(8)) == (1, 1) for each in kinds)


@pytest.mark.gpu
def test_auto_takes_nvenc_where_it_encodes(tmp_path: Path) -> None:
    need("h264_nvenc")
    assert "h264_nvenc" in {encoder.name for encoder in nvenc_encoders()}
    sink = open_output(str(tmp_path / "a.mp4"))
    write(sink, LARGE)
    assert sink.encoder == "h264_nvenc"  # type: ignore[attr-defined]
    write(open_output(str(tmp_path / "b.mp4")), replace(TAKES[0], height=16, width=16))  # too small for NVENC
    assert len(decode(tmp_path / "b.mp4")) == len(TAKES[0].ticks)
