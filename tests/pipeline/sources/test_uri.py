"""Masked credentials, short names, expanded globs."""

from __future__ import annotations

import html
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from engines.settings import substitute
from pipeline.errors import SourceError
from pipeline.sources import expand_inputs, input_name, mask_uri
from pipeline.sources.uri import remember_uri


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
        ("http://h/x?accessToken=t&loginuse=me&loginpas=p", "http://h/x?accessToken=***&loginuse=me&loginpas=***"),
        ("http://h/x?sessiontoken=t&userPwd=p&sid=7", "http://h/x?sessiontoken=***&userPwd=***&sid=***"),
        ("rtsp://token@h/x", "rtsp://***@h/x"),
        ("udp://@239.0.0.1:1234 udp://@:99999", "udp://@239.0.0.1:1234 udp://@:99999"),
        ("lavfi:movie=rtsp\\://me\\:pw@h/x", "lavfi:movie=rtsp\\://me\\:***@h/x"),
        ("lavfi:testsrc2=size=64x48", "lavfi:testsrc2=size=64x48"),
        ("clip.mp4", "clip.mp4"),
        ("failed: 'rtsp://u:p@h/x' twice http://v:q@i", "failed: 'rtsp://u:***@h/x' twice http://v:***@i"),
    ],
)
def test_mask(uri: str, masked: str) -> None:
    assert mask_uri(uri) == masked


@pytest.mark.parametrize(
    ("typed", "masked", "name"),
    [
        ("http://h/${TOK}/x.m3u8", "http://h/***/x.m3u8", "x"),
        ("http://h/${TOK}.m3u8", "http://h/***.m3u8", "h"),
        ("http://h/x?accessCode=${TOK}", "http://h/x?accessCode=***", "x"),
        ("rtsp://${TOK}@h/x", "rtsp://***@h/x", "x"),
        ("rtsp://me:${TOK}@h/x", "rtsp://me:***@h/x", "x"),
        ("rtsp://me:9/${TOK}@h", "rtsp://me:9/***@h", "h"),
        (r"lavfi:movie=rtsp\://me\:${TOK}@h", r"lavfi:movie=rtsp\://me\:***@h", "movie"),
        ("file:///clips/${TOK}.mp4", "file:///clips/***.mp4", "clips"),
    ],
)
@pytest.mark.parametrize("token", ["SUPERSECRET", "it's a s3cret", "a/b?c#d@e:f%20", 'quo"te\\d', "x1", "Zq7"])
def test_what_came_from_a_variable_is_hidden_wherever_it_stands(
    typed: str, masked: str, name: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOK", token)
    uri = substitute(typed, "--input")
    assert mask_uri(uri) == masked
    assert input_name(uri) == name
    assert mask_uri(f"'{uri}' failed, {uri}: no answer") == f"'{masked}' failed, {masked}: no answer"
    if len(token) > 3:
        for form in (token, quote(token, safe=""), json.dumps(token), html.escape(token), repr(token)):
            assert "***" in mask_uri(f"HTTP said {form}."), form
        assert token not in str(SourceError(f"cannot open {token}"))
    assert mask_uri("x1 a Zq76 frames") == "x1 a Zq76 frames", "what is short is no secret by itself"


def test_of_a_whole_address_from_a_variable_the_host_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL", "https://me:pass-word@camera.example:8443/0123456789abcdef/live?x=1")
    uri = substitute("${URL}", "--input")
    assert mask_uri(f"{uri}: no answer") == "https://***@camera.example:8443***: no answer"
    assert mask_uri("GET /0123456789abcdef/segment.ts by pass-word") == "GET /***/segment.ts by ***"
    assert input_name(uri) == "camera.example"


def test_words_and_places_from_variables_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODEL", "street"), ("CAMERA", "cam0"), ("OUT", str(tmp_path)), ("PORT", "8554"), ("NO", "")):
        monkeypatch.setenv(name, value)
    for typed in ("${MODEL}", "${CAMERA}", "${OUT}/x.mkv", "rtsp://@:${PORT}/x", "http://h/x${NO}"):
        substitute(typed, "here")
    told = f"street of cam0 to {tmp_path}/x.mkv at port 8554"
    assert mask_uri(told) == told


@pytest.mark.parametrize("password", ["it's", "two words", 'say "x"', "a>bc"])
def test_a_typed_password_that_ends_an_address_early(password: str) -> None:
    uri = f"rtsp://me:{password}@h/x"
    remember_uri(uri)
    assert mask_uri(f"--input {uri} has no output") == "--input rtsp://me:***@h/x has no output"
    assert password not in mask_uri(f"output {uri!r} and {password}")


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
    names = "v/b10.mp4 v/b9.mkv i/1.jpg i/2.jpg m/1.jpg m/a.mp4 h/._a.jpg h/a.mp4 v/notes.txt o/raw [x].mp4"
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
        ("h", ["h/a.mp4"]),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [("x/*", "matches no file"), ("m/*", "images and videos"), ("m", r"images and videos; .* '(m/|.*/m/)\*\.mp4'")],
)
def test_expand_refuses(given: str, message: str, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    with pytest.raises(SourceError, match=message):
        expand_inputs(["i", given])
