"""What a name asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.sinks import VideoOptions, open_masks, open_output
from pipeline.sinks.base import Sink
from pipeline.sinks.images import ImageSink
from pipeline.sinks.masks import MaskVideoSink
from pipeline.sinks.null import NullSink
from pipeline.sinks.rle_lines import RleSink
from pipeline.sinks.video import VideoSink
from tests.pipeline.sinks.made import TAKES, write

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize(("uri", "kind"), [
    ("a.mp4", VideoSink), ("out/A.MKV", VideoSink), ("50%.webm", VideoSink), ("a.b.mov", VideoSink),
    ("out/", ImageSink), ("a_%03d.jpg", ImageSink), ("a.png", ImageSink), ("null", NullSink), ("-", VideoSink),
])  # fmt: skip
def test_outputs(uri: str, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    sink = open_output(uri, VideoOptions())
    assert isinstance(sink, kind)
    assert isinstance(sink, Sink)
    assert sink.name == uri
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("uri", "kind"), [
    ("m.mkv", MaskVideoSink), ("m.jsonl", RleSink), ("m/", ImageSink), ("m_%d.png", ImageSink), ("null", NullSink),
    ("-", MaskVideoSink),
])  # fmt: skip
def test_masks(uri: str, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    sink = open_masks(uri)
    assert isinstance(sink, kind)
    assert isinstance(sink, Sink)
    assert sink.name == uri
    assert not list(tmp_path.iterdir())


def test_a_directory_that_exists_needs_no_slash(tmp_path: Path) -> None:
    assert isinstance(open_output(str(tmp_path)), ImageSink)
    assert isinstance(open_masks(str(tmp_path)), ImageSink)


@pytest.mark.parametrize("uri", ["overlay", "a.avi", "a.txt", "", "gopher://host/a.mp4", "http://host/out/", "nul"])
def test_unknown_outputs_list_what_is_possible(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"\.mp4 .*\.webm.*%06d\.png.*null") as raised:
        open_output(uri)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uri", ["m.mp4", "m.webm", "m.MOV", "m_%d.jpg", "m.jpeg"])
def test_masks_are_never_lossy(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"lossy and would destroy the labels.*NAME\.mkv.*jsonl"):
        open_masks(uri)


@pytest.mark.parametrize("uri", ["m", "m.npy", "rtsp://host/m.mkv"])
def test_unknown_masks_list_what_is_possible(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"NAME\.mkv.*jsonl.*%06d\.png"):
        open_masks(uri)


@pytest.mark.parametrize("uri", ["rec/%Q.mkv", "rec/%Y-%X.mkv", "rec/%06d.mkv", "rec/%Y/%-d.mkv"])
def test_what_tells_no_time_is_no_part_of_a_name(uri: str) -> None:
    for opened in (open_output, open_masks):
        with pytest.raises(ConfigError, match=r"tells no time; known are %Y .*%S"):
            opened(uri)


def test_what_is_served_elsewhere_is_told() -> None:
    with pytest.raises(ConfigError, match=r"give --masks tcp://@:9000"):
        open_output("tcp://@:9000")
    with pytest.raises(ConfigError, match=r"give --output rtsp://@:8554/x"):
        open_masks("rtsp://@:8554/x")


def test_null_counts() -> None:
    sink = open_output("null")
    write(sink, TAKES[0])
    sink.abort()
    assert isinstance(sink, NullSink)
    assert sink.frames == 12
