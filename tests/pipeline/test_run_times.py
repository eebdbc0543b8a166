"""Times and sound of whole runs: as they were in the source, from container to container."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.options import InputOptions
from tests.pipeline.clips import Clip
from tests.pipeline.painting import Array
from tests.pipeline.running import (
    Recorder,
    probe,
    run,
    times,
)

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]


@pytest.mark.parametrize("name", ["vfr mp4", "h264", "late ts"])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_times_are_exact_where_the_container_can(
    name: str, ending: str, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    given = clip(name)
    out = tmp_path / f"out.{ending}"
    run([InputOptions(str(given.path), outputs=(str(out),))], tiny)
    assert times(out) == list(given.pts)


@pytest.mark.parametrize(("name", "ending"), [("aac", "mp4"), ("aac", "mkv"), ("opus", "mkv"), ("pcm", "mov")])
def test_audio_is_copied(name: str, ending: str, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip(name)
    out = tmp_path / f"out.{ending}"
    run([InputOptions(str(given.path), outputs=(str(out),))], tiny)
    entries = "stream=codec_name,nb_read_packets:packet=size,pts_time"
    before, after = (probe(path, entries, "-count_packets", "-select_streams", "a:0") for path in (given.path, out))
    assert len(after["packets"]) > 5
    if name == "pcm":  # packets are whatever piece the demuxer cuts off
        np.testing.assert_array_equal(sound_of(out), sound_of(given.path))
    else:
        assert after["streams"][0] == before["streams"][0]
        assert [packet["size"] for packet in after["packets"]] == [packet["size"] for packet in before["packets"]]
        for ours, theirs in zip(after["packets"], before["packets"], strict=True):
            assert float(ours["pts_time"]) == pytest.approx(float(theirs["pts_time"]), abs=0.001)
    durations = [float(probe(path, "format=duration")["format"]["duration"]) for path in (given.path, out)]
    assert durations[0] == pytest.approx(durations[1], abs=0.05)
    assert times(out) == pytest.approx(list(given.pts), abs=0.0005)


def sound_of(path: Path) -> Array:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])


def test_what_an_output_cannot_keep_is_told(tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rich.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx265", rate=10, options={"x265-params": "log-level=none"})
        video.width, video.height, video.pix_fmt = 96, 80, "yuv420p10le"
        tracks = [container.add_stream("libopus", rate=48000) for _ in "ab"]
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame(96, 80, "yuv420p10le")))
        container.mux(video.encode(None))
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), "fltp", "mono")
            frame.sample_rate = 48000
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    run([InputOptions(str(path), outputs=(f"{tmp_path}/o.webm", f"{tmp_path}/o.mkv"))], tiny)
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "rich.mkv: of its sound the first track is kept; 1 more" in line]
    assert [line for line in told if "o.webm: vp9 takes 8 bits a sample here, the picture's 10 are rounded" in line]
    assert not [line for line in told if "o.mkv" in line], "it keeps them"


@pytest.mark.parametrize(("name", "ending"), [("aac", "mp4"), ("aac", "mkv"), ("pcm", "mov"), ("late ts", "mp4")])
def test_a_later_part_begins_at_zero_with_its_sound(
    name: str, ending: str, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    """The overlay is one to play by itself; masks tell where in the source they belong."""
    given, start = clip(name), Fraction(1, 2)
    out, masks = tmp_path / f"out.{ending}", tmp_path / "masks.mkv"
    run([InputOptions(str(given.path), outputs=(str(out),), masks=(str(masks),))], tiny, start=start)
    zero = given.pts[0] + start
    expected = [pts for pts in given.pts if pts >= zero]
    assert times(out) == [pts - zero for pts in expected]
    assert times(masks) == expected
    before, after = (sound_times(path) for path in (given.path, out))
    kept = [time - zero for time in before if time >= zero]
    assert bool(after) == bool(given.audio)
    if name == "pcm":  # the other packets are whatever piece the demuxer cuts off
        after, kept = after[:1], kept[:1]
    assert len(after) == len(kept)
    assert all(abs(ours - theirs) <= Fraction(1, 2000) for ours, theirs in zip(after, kept, strict=True))


def sound_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        streams = container.streams.audio
        return [p.pts * p.time_base for p in container.demux(streams) if p.pts is not None] if streams else []


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_times_before_zero_are_all_shown(ending: str, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    """A transport stream's clock begins anew after a day: libav tells times below zero of what comes before that."""
    given, wrapping = clip("late ts"), tmp_path / "wrapping.ts"
    shift = 2**33 - round(given.pts[-3] * 90000)
    with av.open(str(given.path)) as source, av.open(str(wrapping), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                container.mux(packet)
    out, masks = tmp_path / f"out.{ending}", tmp_path / "masks.mkv"
    run([InputOptions(str(wrapping), outputs=(str(out),), masks=(str(masks),))], tiny)
    told = [json.loads(line) for line in (tmp_path / "masks.mkv.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    assert [Fraction(*line["pts"]) for line in told] == [pts - given.pts[-3] for pts in given.pts]
    assert times(out) == [pts - given.pts[0] for pts in given.pts]


def test_parts_of_a_file(clip: MakeClip, tiny: str) -> None:
    given = clip("h264")
    recorder = Recorder()
    report = run([InputOptions(str(given.path))], tiny, extra=[recorder], start=Fraction(1, 5), max_frames=7)
    assert [result.pts for result in recorder.results] == [pts for pts in given.pts if pts >= Fraction(1, 5)][:7]
    assert recorder.indices == list(range(7))
    assert report.frames == 7
    assert not report.interrupted
