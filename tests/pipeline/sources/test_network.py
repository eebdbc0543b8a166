"""Network inputs: deadlines, loss, what they may not reach; libav's log."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import pytest

from pipeline.errors import SourceError, SourceLostError
from pipeline.sources import Decoded, SourceOptions, open_source
from pipeline.sources.demux import Demuxer
from pipeline.sources.live import Watch
from pipeline.sources.network import SCHEMES, network_target
from pipeline.sources.target import Waiting
from tests.conftest import need_program
from tests.pipeline.painting import read_number
from tests.pipeline.ports import free_port
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.served import rtsp_camera, talker, web_server

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]

SHORT = SourceOptions(open_timeout=1, read_timeout=1, reconnect=0)


def silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait(20)


def http_answer(
    content: bytes, then: Callable[[socket.socket, threading.Event], None], *headers: str
) -> Callable[..., None]:
    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall("\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + content)
        then(connection, over)

    return answer


def test_a_name_that_cannot_be_resolved_is_told() -> None:
    with pytest.raises(SourceError, match=r"\*\*\*@nosuch\.invalid/x: no such host 'nosuch\.invalid'"):
        open_source("rtsp://user:secret@nosuch.invalid/x", SHORT)


@pytest.mark.parametrize("uri", ["udp://@:99999", "rtsp://me:pw@h:70000/x", "http://[::1]:0/x"])
def test_a_port_that_there_is_not(uri: str) -> None:
    with pytest.raises(SourceError, match="the port must be from 1 to 65535"):
        open_source(uri, SHORT)


def test_packets_that_nobody_sends() -> None:
    with pytest.raises(SourceError, match="nothing came within 1 s; is it sent to this address and port"):
        open_source(f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", SHORT)


@pytest.mark.slow
def test_a_name_server_that_is_silent_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait(20))
    began = time.monotonic()
    try:
        with pytest.raises(SourceError, match=r"nosuch\.invalid/x: cannot be reached"):
            open_source("rtsp://nosuch.invalid/x", SHORT)
    finally:
        over.set()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp", "rtmp"])
def test_a_silent_server_is_given_up(scheme: str) -> None:
    began = time.monotonic()
    with talker(silent) as port, pytest.raises(SourceError, match=r"user:\*\*\*@127") as caught:
        open_source(f"{scheme}://user:secret@127.0.0.1:{port}/x", SHORT)
    assert time.monotonic() - began < 8
    assert "secret" not in str(caught.value)


def test_a_stream_that_stalls_is_lost(clip: MakeClip) -> None:
    content = clip("late ts").path.read_bytes()
    with talker(http_answer(content, silent, "Content-Type: video/mp2t")) as port:
        source = open_source(f"http://127.0.0.1:{port}/live.ts", SHORT)
        assert source.info.live
        seen = 0
        began = time.monotonic()
        with pytest.raises(SourceError, match="lost, nothing came for 1 s"):
            for item in source.read():
                seen += isinstance(item, Decoded)
        source.close()
    assert seen >= 15
    assert time.monotonic() - began < 6


def test_a_live_stream_that_ends_is_lost(clip: MakeClip) -> None:
    content = clip("late ts").path.read_bytes()
    with talker(http_answer(content, lambda *_: None, "Connection: close")) as port:
        source = open_source(f"http://127.0.0.1:{port}/live.ts?token=secret", SHORT)
        with pytest.raises(SourceError, match=r"token=\*\*\*: lost"):
            for _ in source.read():
                pass
        source.close()


def test_a_download_that_breaks_off_is_lost(clip: MakeClip) -> None:
    content = clip("long").path.read_bytes()
    headers = (f"Content-Length: {len(content)}", "Content-Type: video/x-matroska")
    with talker(http_answer(content[: len(content) // 2], lambda *_: None, *headers)) as port:
        source = open_source(f"http://127.0.0.1:{port}/a.mkv", SHORT)
        assert not source.info.live
        with pytest.raises(SourceError, match="lost"):
            for _ in source.read():
                pass
        source.close()


def test_a_stream_that_is_slow_to_open_begins_at_its_first_keyframe(clip: MakeClip) -> None:
    """What libav read while it looked for the codec has piled up, but not because the decoder is slow."""
    content = clip("late ts").path.read_bytes()

    def late(connection: socket.socket, over: threading.Event) -> None:
        over.wait(1.3)
        connection.sendall(content)
        over.wait(20)

    with talker(late) as port:
        source = open_source(f"tcp://127.0.0.1:{port}", replace(SHORT, open_timeout=10))
        with closing(source):
            first = next(item for item in source.read() if isinstance(item, Decoded))
    assert read_number(first.frame.planes[0]) == 0
    assert source.skipped == 0


def test_a_stream_without_another_keyframe_is_given_up() -> None:
    """What is left out since it piled up is left out until a keyframe: where none comes, the silence has its end."""
    second = 1_000_000_000
    watch = Watch("cam", 3, from_keyframe=True, keep_up=True)
    key, other = av.Packet(1), av.Packet(1)
    key.is_keyframe = True
    assert watch.wants(key, 0, 0)
    watch.arrival(None, 0)
    assert not watch.wants(other, 2 * second, 0)  # two seconds late
    assert not watch.wants(other, 4 * second, 4 * second)  # in time again
    with pytest.raises(SourceLostError, match=r"cam: lost, no picture came for 3\.5 s"):
        watch.wants(other, 5 * second + second // 2, 5 * second)


@pytest.mark.parametrize("ending", ["stalls", "ends"])
def test_an_rtsp_camera(ending: str, clip: MakeClip) -> None:
    truth = clip("late ts")
    then = silent if ending == "stalls" else lambda *_: None
    began = time.monotonic()
    with talker(rtsp_camera(truth.path, then)) as port:
        source = open_source(f"rtsp://user:secret@127.0.0.1:{port}/cam", SHORT)
        frames = []
        with pytest.raises(SourceError, match=r"user:\*\*\*@.*lost") as caught:
            for item in source.read():
                assert isinstance(item, Decoded)
                frames.append(item.frame)
        source.close()
    assert "secret" not in str(caught.value) + source.info.uri
    assert source.info.live
    assert (source.info.width, source.info.height) == (truth.width, truth.height)
    found = [read_number(frame.planes[0]) for frame in frames]
    assert found == list(truth.numbers[: len(found)])
    assert len(found) >= len(truth.numbers) - 4  # the decoder waits for pictures that may come before the last ones
    zero = truth.pts[0] - frames[0].pts
    assert [frame.pts + zero for frame in frames] == list(truth.pts[: len(found)])
    assert time.monotonic() - began < 6


def test_silence_is_told_of_when_its_time_is_up(clip: MakeClip) -> None:
    """Not after twice that: libav's parser gives what it held back at first, in place of the error."""
    with talker(rtsp_camera(clip("late ts").path, silent)) as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/cam", replace(SHORT, read_timeout=2))
        began = time.monotonic()
        with pytest.raises(SourceError, match="lost, nothing came for 2 s"):
            list(source.read())
        assert 1.5 < time.monotonic() - began < 3.5
        source.close()


def test_a_camera_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No camera here: the descriptor that is waited on is a pipe's."""
    source = open_source("lavfi:testsrc2=size=64x48", SourceOptions(max_frames=3))
    demuxer = source._source._demuxer  # type: ignore[attr-defined]
    read, write = os.pipe()
    waiting = Waiting()
    monkeypatch.setattr(demuxer, "_camera", read)
    monkeypatch.setattr(demuxer, "_waiting", waiting)
    monkeypatch.setattr(demuxer, "target", replace(demuxer.target, read_timeout=0.2))
    with pytest.raises(SourceError, match=r"the camera gave no picture for 0\.2 s"):
        list(source.read())
    source.close()
    waiting.close()
    os.close(read)
    os.close(write)


def test_a_stop_of_a_live_stream_is_no_loss(clip: MakeClip) -> None:
    with talker(rtsp_camera(clip("late ts").path, silent)) as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/cam", SHORT)
        items = source.read()
        next(items)
        source.wake()
        assert len(list(items)) < 5
        source.close()


def test_http_errors(tmp_path: Path) -> None:
    with web_server(tmp_path) as address:
        with pytest.raises(SourceError, match="404"):
            open_source(f"{address}/nothing.mp4", SHORT)
        (tmp_path / "page.html").write_text("<html>no video</html>" * 50)
        with pytest.raises(SourceError, match="sends no video"):
            open_source(f"{address}/page.html", SHORT)


@pytest.mark.parametrize("flags", [(), ("-movflags", "+faststart")], ids=["index at the end", "index in front"])
def test_a_file_on_a_server_without_ranges(flags: tuple[str, ...], tmp_path: Path) -> None:
    """What cannot be read from where its pictures are is an error at once, not a stream to wait for."""
    made = ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=4", "-c:v", "mpeg4", "-q:v", "1", *flags]
    subprocess.run([need_program("ffmpeg"), "-v", "error", *made, tmp_path / "a.mp4"], check=True, timeout=60)
    with web_server(tmp_path) as address:
        if not flags:
            with pytest.raises(SourceError, match=r"no picture can be read.*\+faststart"):
                open_source(f"{address}/a.mp4", replace(SHORT, reconnect=None))
            return
        source = open_source(f"{address}/a.mp4", replace(SHORT, reconnect=None))
        assert len(list(source.read())) == 100
        source.close()


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_a_playlist_from_elsewhere_reaches_no_file(kind: str, clip: MakeClip, tmp_path: Path) -> None:
    secret = clip("late ts").path
    lists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile 'file:{secret}'\n",
    }
    (tmp_path / f"list.{kind}").write_text(lists[kind])
    with web_server(tmp_path) as address, pytest.raises(SourceError):
        open_source(f"{address}/list.{kind}", SHORT)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_network_input_may_open_files(scheme: str) -> None:
    allowed = network_target(f"{scheme}://h/x", SHORT).options["protocol_whitelist"].split(",")
    assert not {"file", "fd", "pipe", "concat", "concatf", "subfile", "unix", "async", "cache"} & set(allowed)


def test_a_playlist_on_disk_reaches_no_network(clip: MakeClip, tmp_path: Path) -> None:
    truth = clip("late ts")
    with web_server(truth.path.parent) as address:
        path = tmp_path / "list.m3u8"
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{address}/{truth.path.name}\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(SourceError):
            open_source(str(path), SHORT)


def test_a_playlist_over_http_plays(clip: MakeClip, tmp_path: Path) -> None:
    truth = clip("late ts")
    (tmp_path / "part.ts").write_bytes(truth.path.read_bytes())
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\npart.ts\n#EXT-X-ENDLIST\n")
    with web_server(tmp_path) as address:
        source = open_source(f"{address}/list.m3u8", SHORT)
        assert not source.info.live
        frames = [item.frame for item in source.read() if isinstance(item, Decoded)]
        source.close()
    assert [f.pts for f in frames] == list(truth.pts)


_DEBUGGING = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
from pipeline.sources import SourceOptions, open_source
for turn in range(40):
    source = open_source(sys.argv[1], SourceOptions(threads=4))
    items = source.read()
    for _ in range(85 + turn):  # about where the file is broken
        next(items)
    source.close()
print("done")
"""


def test_libav_s_lines_come_at_debug_level_without_a_deadlock(clip: MakeClip) -> None:
    path = clip("spoilt mp4").path
    done = subprocess.run(
        [sys.executable, "-c", _DEBUGGING, str(path)], capture_output=True, text=True, timeout=25, check=True
    )
    assert done.stdout == "done\n"
    assert "libav" not in "".join(line for line in done.stderr.splitlines() if not line.startswith("DEBUG"))


def test_libav_s_lines_at_debug_level(clip: MakeClip) -> None:
    script = _DEBUGGING.replace("range(40)", "range(1)").replace("range(85 + turn)", "range(200)")
    path = clip("spoilt mp4").path
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=25, check=True
    )
    assert any(line.startswith("DEBUG pipeline.sources.libav_log libav") for line in done.stderr.splitlines())


def test_no_credentials_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with talker(lambda *_: None) as port, pytest.raises(SourceError) as caught:
        open_source(f"http://user:secret@127.0.0.1:{port}/x?password=secret", SHORT)
    assert "secret" not in caplog.text + str(caught.value) + repr(caught.value)


def test_sizes_from_a_network_are_bounded(tmp_path: Path) -> None:
    """A file of that size on this machine is the user's own affair."""
    with av.open(str(tmp_path / "large.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8192, 5120, "yuvj420p"
        picture = av.VideoFrame(8192, 5120, "yuvj420p")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with web_server(tmp_path) as address, pytest.raises(SourceError, match=r"8192×5120 are above the bound of .*40,0"):
        open_source(f"{address}/large.mkv", SHORT)
    with closing(open_source(str(tmp_path / "large.mkv"))) as source:
        assert source.info.width == 8192


def test_streams_from_a_network_are_bounded(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "many.mkv"), "w") as container:
        streams = [container.add_stream("rawvideo", rate=25) for _ in range(70)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
    with (
        web_server(tmp_path) as address,
        closing(Demuxer(network_target(f"{address}/many.mkv", SHORT), audio=False)) as demuxer,
    ):
        assert len(demuxer.container.streams) == 64
