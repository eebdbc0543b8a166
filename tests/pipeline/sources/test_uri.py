"""Masked credentials, short names, expanded globs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import expand_inputs, input_name, mask_uri


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("rtsp://cam.local/ch1", "rtsp://cam.local/ch1"),
        ("rtsp://admin:s3cret@cam.local:554/ch1", "rtsp://admin:***@cam.local:554/ch1"),
        ("rtsp://admin:a@b:c@cam.local/ch1", "rtsp://admin:***@cam.local/ch1"),
        ("rtsp://admin:a/b?c#d@cam.local/ch1", "rtsp://admin:***@cam.local/ch1"),
        ("rtsp://admin:pw@cam.local/a@b", "rtsp://admin:***@cam.local/a@b"),
        ("rtsp://:pw@cam.local/", "rtsp://:***@cam.local/"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://h/x?user=u&password=p&rate=5", "http://h/x?user=u&password=***&rate=5"),
        ("http://h/x?api_key=k&X-Amz-Signature=s;token=t", "http://h/x?api_key=***&X-Amz-Signature=***;token=***"),
        ("rtsp://h:554/user=me_password=s3c_channel=1.sdp", "rtsp://h:554/user=me_password=***_channel=1.sdp"),
        ("http://h/x?PWD=p#access_token=t", "http://h/x?PWD=***#access_token=***"),
        ("http://h/x?monkey=1&compass=2", "http://h/x?monkey=1&compass=2"),
        ("http://h/x?token=a:b: no answer", "http://h/x?token=***: no answer"),
        ("lavfi:testsrc2=size=64x48", "lavfi:testsrc2=size=64x48"),
        ("clip.mp4", "clip.mp4"),
        ("failed: 'rtsp://u:p@h/x' twice http://v:q@i", "failed: 'rtsp://u:***@h/x' twice http://v:***@i"),
    ],
)
def test_mask(uri: str, masked: str) -> None:
    assert mask_uri(uri) == masked


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("-", "stdin"),
        ("0", "cam0"),
        ("cam2", "cam2"),
        ("cam:HD Pro Webcam C920", "HD_Pro_Webcam_C920"),
        ("/dev/video3", "video3"),
        ("sample", "sample"),
        ("a/My clip (1).mp4", "My_clip_1"),
        ("rtsp://user:pw@cam.local:554/stream/ch1?x=1", "ch1"),
        ("rtsp://user:pw@cam.local:554/", "cam.local"),
        ("lavfi:testsrc2=size=64x48", "testsrc2"),
        ("shots/frame_%05d.jpg", "frame"),
        ("shots/*.png", "shots"),
        ("shots/", "shots"),
        ("/", "input"),
    ],
)
def test_name(uri: str, name: str) -> None:
    assert input_name(uri) == name


@pytest.fixture
def media(tmp_path: Path) -> Path:
    names = "v/b10.mp4 v/b9.mkv i/1.jpg i/2.jpg m/1.jpg m/a.mp4 v/notes.txt o/raw [x].mp4"
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("v", ["v/b9.mkv", "v/b10.mp4"]),
        ("v/*", ["v/b9.mkv", "v/b10.mp4"]),
        ("v/*.mp4", ["v/b10.mp4"]),
        ("i", ["i"]),
        ("i/*.jpg", ["i/*.jpg"]),
        ("m", ["m"]),
        ("o/*", ["o/raw"]),
        ("[x].mp4", ["[x].mp4"]),
        ("i/%d.jpg", ["i/%d.jpg"]),
        ("nothing.mp4", ["nothing.mp4"]),
        ("-", ["-"]),
        ("rtsp://h/*", ["rtsp://h/*"]),
        ("lavfi:movie=*", ["lavfi:movie=*"]),
    ],
)
def test_expand(given: str, expanded: list[str], media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    assert expand_inputs([given]) == expanded


@pytest.mark.parametrize(("given", "message"), [("x/*", "matches no file"), ("m/*", "images and videos")])
def test_expand_refuses(given: str, message: str, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    with pytest.raises(SourceError, match=message):
        expand_inputs(["i", given])
