"""Trimming, looping and pacing, exact to the frame, with the sound."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from PIL import Image

from pipeline.errors import ConfigError, SourceError
from pipeline.frame import FORMATS, Frame
from pipeline.sources import AudioPacket, Decoded, Source, SourceOptions, open_source
from pipeline.sources.parts import Pace, Trim
from tests.conftest import need_program
from tests.pipeline.clips import RECIPES, Clip
from tests.pipeline.encoding import make
from tests.pipeline.painting import paint, read_number
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.served import standard_input

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]


def play(uri: str, **options: object) -> tuple[Source, list[Frame], list[AudioPacket]]:
    source = open_source(uri, SourceOptions(**options))  # type: ignore[arg-type]
    try:
        items = list(source.read())
    finally:
        source.close()
    frames = [item.frame for item in items if isinstance(item, Decoded)]
    assert [f.index for f in frames] == list(range(len(frames)))
    assert not frames or frames[0].discontinuity
    return source, frames, [item for item in items if isinstance(item, AudioPacket)]


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.planes[0], frame.format.depth) for frame in frames]


def between(clip: Clip, start: Fraction, end: Fraction | None) -> list[int]:
    zero = clip.pts[0]
    chosen = zip(clip.numbers, clip.pts, strict=True)
    return [n for n, pts in chosen if pts >= zero + start and (end is None or pts < zero + end)]


@pytest.mark.parametrize(
    "name", ["h264", "vfr", "vfr mp4", "late", "late ts", "long", "raw h264", "mpeg4 avi", "hevc", "pcm"]
)
@pytest.mark.parametrize(("start", "duration"), [(0.04, None), (0.5, 0.3), (0.2, 0.041), (0, 0.4)])
def test_trim_is_exact(name: str, start: float, duration: float | None, clip: MakeClip) -> None:
    truth = clip(name)
    begin = Fraction(str(start))
    end = None if duration is None else begin + Fraction(str(duration))
    expected = between(truth, begin, end)
    source, frames, sound = play(str(truth.path), start=start, duration=duration)
    assert numbers(frames) == expected
    assert [f.pts for f in frames] == [truth.pts[truth.numbers.index(n)] for n in expected]
    assert source.damaged == 0
    for packet in sound:
        assert start == 0 or packet.time >= truth.pts[0] + begin
        assert end is None or packet.time < truth.pts[0] + end
    if truth.audio and not duration:
        assert abs(sound[0].time - truth.pts[0] - begin) < Fraction(1, 20)


_LONG = replace(RECIPES["h264"], ticks=tuple(range(0, 150 * 512, 512)))
_OPEN = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:keyint=25:open-gop=1"}
_SEEKS = {
    "mp4": _LONG,
    "flv": replace(_LONG, ending="flv", time_base=Fraction(1, 1000), ticks=tuple(range(0, 6000, 40))),
    "avi": replace(_LONG, ending="avi", time_base=Fraction(1, 25), ticks=tuple(range(150))),
    "ts": replace(_LONG, ending="ts", time_base=Fraction(1, 90000), ticks=tuple(range(0, 150 * 3600, 3600))),
    "open gop": replace(
        _LONG, ending="ts", codec="libx265", options=_OPEN, time_base=Fraction(1, 90000),
        ticks=tuple(range(0, 150 * 3600, 3600)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*_SEEKS, "vob"])
def test_every_start_gives_what_playing_up_to_it_gives(kind: str, tmp_path: Path) -> None:
    """Seeking goes by decoding time here, has no index there, and loses times in a VOB: none of it may show."""
    path = make("seek", _SEEKS.get(kind, _LONG), tmp_path).path
    if kind == "vob":
        made = path.with_suffix(".vob")
        command = [
            need_program("ffmpeg"),
            "-v",
            "error",
            "-i",
            str(path),
            "-c:v",
            "mpeg2video",
            "-q:v",
            "2",
            "-bf",
            "2",
        ]
        subprocess.run([*command, "-g", "15", str(made)], check=True, timeout=20)
        path = made
    _, whole, _ = play(str(path))
    assert numbers(whole) == list(range(150))
    for first in (1, 12, 24, 60, 61, 100, 149):
        _, frames, _ = play(str(path), start=Fraction(first, 25))
        assert numbers(frames) == list(range(first, 150))
        assert [f.pts for f in frames] == [f.pts for f in whole[first:]]


def test_trimmed_sound_reaches_to_the_end(clip: MakeClip) -> None:
    """Muxers write sound later than its pictures: the last packets come after the last picture."""
    truth = clip("long")
    _, frames, sound = play(str(truth.path), start=2, duration=3)
    assert len(frames) == 75
    assert sound[0].time < 2.05
    assert sound[-1].time > 4.95


def test_a_seek_does_not_read_the_whole_file(clip: MakeClip) -> None:
    truth = clip("long")
    source = open_source(str(truth.path), SourceOptions(start=9))
    assert source.info.start == truth.pts[0]
    assert source.info.duration == pytest.approx(1, abs=0.1)
    landed = source._source._playback.landed  # type: ignore[attr-defined]
    assert landed.pts >= 8  # the keyframe before, every 2 s
    source.close()


def test_max_frames(clip: MakeClip) -> None:
    _, frames, sound = play(str(clip("aac").path), max_frames=10)
    assert numbers(frames) == list(range(10))
    assert 0.3 < sound[-1].time < 0.45
    source, frames, _ = play(str(clip("h264").path), max_frames=10, audio=False)
    assert len(frames) == source.info.frames == 10
    assert source.info.duration == Fraction(10, 25)


@pytest.mark.parametrize("name", ["long", "late ts"])
def test_frames_that_the_container_does_not_count(name: str, clip: MakeClip) -> None:
    truth = clip(name)
    count = len(truth.numbers)
    for options, expected in (
        (SourceOptions(), count),
        (SourceOptions(loop=3), 3 * count),
        (SourceOptions(loop=0), None),
        (SourceOptions(duration=0.4), 10),
        (SourceOptions(max_frames=7), 7),
    ):
        with closing(open_source(str(truth.path), options)) as source:
            assert source.info.frames == (None if expected is None else pytest.approx(expected, rel=0.01))


def test_max_frames_of_a_live_source_waits_for_no_other(clip: MakeClip) -> None:
    began = time.monotonic()
    _, frames, _ = play("lavfi:testsrc2=size=64x48:rate=3/5,realtime", max_frames=1)
    assert len(frames) == 1
    assert time.monotonic() - began < 1.6


def test_a_start_after_the_end(clip: MakeClip) -> None:
    with pytest.raises(SourceError, match="no picture at or after 100 s"):
        open_source(str(clip("h264").path), SourceOptions(start=100))


@pytest.mark.parametrize("name", ["h264", "vfr", "late ts", "aac", "pcm", "raw h264"])
def test_loop(name: str, clip: MakeClip) -> None:
    truth = clip(name)
    source, frames, sound = play(str(truth.path), loop=3)
    count = len(truth.numbers)
    assert numbers(frames) == list(truth.numbers) * 3
    step = truth.pts[-1] - truth.pts[-2]
    length = truth.pts[-1] - truth.pts[0] + step
    assert [f.pts for f in frames] == [pts + turn * length for turn in range(3) for pts in truth.pts]
    assert [f.index for f in frames if f.discontinuity] == [0, count, 2 * count]
    times = [(packet.packet.dts or 0) * packet.packet.time_base for packet in sound]
    assert all(a < b for a, b in pairwise(times))
    if truth.audio:
        assert abs(times[-1] - truth.pts[0] - 3 * length) < Fraction(1, 8)
        assert max(b - a for a, b in pairwise(times)) < Fraction(1, 8)
    if source.info.frames is not None and name != "vfr":  # there it is a guess from length and rate
        assert source.info.frames == 3 * count


def test_loop_of_a_part_for_ever(clip: MakeClip) -> None:
    source, frames, _ = play(str(clip("h264").path), start=0.4, duration=0.2, loop=0, max_frames=17)
    assert numbers(frames) == [10, 11, 12, 13, 14] * 3 + [10, 11]
    assert source.info.frames == 17


def test_loop_of_what_can_be_read_once() -> None:
    with pytest.raises(ConfigError, match="only once"):
        open_source("-", SourceOptions(loop=2))


def test_realtime(clip: MakeClip) -> None:
    truth = clip("h264")
    source = open_source(str(truth.path), SourceOptions(realtime=True, duration=0.6))
    assert source.info.live
    frames = [item.frame for item in source.read() if isinstance(item, Decoded)]
    source.close()
    late = [(f.captured_ns - frames[0].captured_ns) / 1e9 - float(f.pts - frames[0].pts) for f in frames]
    assert min(late) > -0.001
    assert sorted(late)[len(late) // 2] < 0.02


def test_a_paced_wait_can_be_ended(clip: MakeClip) -> None:
    source = open_source("lavfi:testsrc2=size=64x48:rate=1/30", SourceOptions(realtime=True))
    assert isinstance(source, Pace)
    items = source.read()
    next(items)
    threading.Timer(0.1, source.wake).start()
    began = time.monotonic()
    assert list(items) == []
    assert time.monotonic() - began < 5
    source.close()


def test_start_of_a_pipe(clip: MakeClip) -> None:
    truth = clip("long")
    with standard_input(["cat", str(truth.path)]):
        _, frames, _ = play("-", start=9.5)
    assert numbers(frames) == list(truth.numbers[238:])


def test_part_of_an_image_sequence(tmp_path: Path) -> None:
    for number in range(10):
        Image.fromarray(paint(number, 50, 40, FORMATS["yuv420p"])[0]).save(tmp_path / f"{number}.png")
    source, frames, _ = play(str(tmp_path), rate=5, start=0.41, duration=1, loop=2)
    assert numbers(frames) == [3, 4, 5, 6, 7] * 2
    assert [f.pts for f in frames] == [Fraction(n, 5) for n in range(3, 13)]
    assert source.info.frames == 10


def test_trim_cuts_what_a_source_cannot_skip(clip: MakeClip) -> None:
    """The layer alone, over a source that begins at its beginning."""
    truth = clip("aac")
    with closing(open_source(str(truth.path))) as whole:
        items = list(Trim(whole, start=Fraction(1, 2), duration=Fraction(1, 5)).read())
    frames = [item.frame for item in items if isinstance(item, Decoded)]
    assert numbers(frames) == between(truth, Fraction(1, 2), Fraction(7, 10))
    assert [(f.index, f.discontinuity) for f in frames][:2] == [(0, True), (1, False)]
    sound = [item.time for item in items if isinstance(item, AudioPacket)]
    assert 0.5 <= min(sound) < 0.53
    assert 0.66 < max(sound) < 0.7


def test_the_sound_can_be_muxed_when_the_source_is_closed(clip: MakeClip, tmp_path: Path) -> None:
    truth = clip("aac")
    source, _, sound = play(str(truth.path))
    assert source.info.audio is not None
    assert source.info.audio is not source._demuxer.audio  # type: ignore[attr-defined]
    with av.open(str(tmp_path / "copy.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.info.audio)
        for item in sound:
            item.packet.stream = stream
            container.mux(item.packet)
    with av.open(str(tmp_path / "copy.mkv")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples / 48000 - float(truth.audio)) < 0.1


@pytest.mark.parametrize(
    "options",
    [{"start": -1}, {"duration": 0}, {"max_frames": 0}, {"loop": -1}, {"rate": 0}, {"video_size": "0x5"}],
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SourceOptions(**options)  # type: ignore[arg-type]
