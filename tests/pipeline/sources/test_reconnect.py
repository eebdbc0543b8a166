"""Live sources that come back, against real servers that are killed, frozen, restarted and changed."""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, SourceError
from pipeline.sources import SourceOptions, open_source, open_sources
from pipeline.sources.playing import Playback
from pipeline.sources.reconnect import DENIED_WAIT_S, LONGEST_DENIED_WAIT_S, LONGEST_WAIT_S, Backoff
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.slowing import slow
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.peers import Codec, Peer, Reader, Seen, ffmpeg_hls, ffmpeg_server, gst_rtsp, gst_udp
from tests.pipeline.sources.served import rtsp_camera, talker

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]

FIRST_FRAME_NS = 300_000_000
HASTY = {"open_timeout": 2.0, "read_timeout": 0.8}

PEERS: dict[str, tuple[Callable[[], AbstractContextManager[Peer]], dict[str, object], Codec]] = {
    "rtsp over tcp": (lambda: gst_rtsp("tcp+udp"), {"rtsp_transport": "tcp"}, "h265"),
    "rtsp over udp": (lambda: gst_rtsp("tcp+udp"), {"rtsp_transport": "udp"}, "h265"),
    "ts over udp": (gst_udp, {}, "h265"),
    "ts over http": (lambda: ffmpeg_server("http"), {}, "mpeg4"),
    "rtmp": (lambda: ffmpeg_server("rtmp"), {}, "h264"),
    "ts over tcp": (lambda: ffmpeg_server("tcp"), {}, "h265"),
}
SLOW = [pytest.param(name, marks=[] if name == "rtsp over tcp" else [pytest.mark.slow]) for name in PEERS]


def holdings() -> tuple[int, int]:
    """Descriptors and threads, those of libav's too."""
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("name", SLOW)
def test_every_cut_is_survived(name: str) -> None:
    make, options, other = PEERS[name]
    with make() as peer:
        peer.start()
        source = open_source(peer.uri, SourceOptions(**HASTY, **options))  # type: ignore[arg-type]
        reader = Reader(source)
        try:
            reader.more(10)
            held = holdings()
            for cut in (killed, changed(other), frozen):
                reader.more(5)
                begun, cut_ns = len(reader.frames), time.monotonic_ns()
                cut(peer)
                check_return(reader, begun, cut_ns, peer)
            assert source.info.live
            assert source.outages.count >= 2
            assert 0 < source.outages.seconds < 25
            until(lambda: holdings() <= held, 5, f"{held} descriptors and threads again")
        finally:
            reader.close()
    check_stream(reader.frames)


def killed(peer: Peer) -> None:
    peer.kill()
    time.sleep(0.4)  # a shorter pause would be none that a sender of datagrams is to be told by
    peer.keys.clear()
    peer.start()


def changed(codec: Codec) -> Callable[[Peer], None]:
    def cut(peer: Peer) -> None:
        peer.kill()
        peer.keys.clear()
        peer.start(codec, 480, 360)

    return cut


def frozen(peer: Peer) -> None:
    peer.freeze()
    time.sleep(2)
    peer.keys.clear()
    if peer.one_client:
        peer.kill()
        peer.start("h264", 480, 360)
    else:
        peer.thaw()


def check_return(reader: Reader, begun: int, cut_ns: int, peer: Peer) -> None:
    """Pictures come again, the first of them soon after the keyframe that it is, and fresh."""

    def came() -> bool:
        peer.stay()
        return any(seen.captured_ns > cut_ns and seen.gap for seen in reader.frames[begun:])

    until(came, 20, "a new picture")
    first = next(seen for seen in reader.frames[begun:] if seen.captured_ns > cut_ns and seen.gap)
    assert first.taken_ns - first.captured_ns < FIRST_FRAME_NS
    if peer.keys:
        sent = max(key for key in peer.keys if key < first.taken_ns)
        assert first.taken_ns - sent < FIRST_FRAME_NS


def check_stream(frames: list[Seen]) -> None:
    for before, after in pairwise(frames):
        assert after.index == before.index + 1
        assert after.pts > before.pts
        assert after.captured_ns >= before.captured_ns
        # Where nothing was lost the stream's own clock goes on, else the machine's.
        if after.gap and after.captured_ns - before.captured_ns > 1_000_000_000:
            passed = (after.captured_ns - before.captured_ns) / 1e9
            assert float(after.pts - before.pts) == pytest.approx(passed, abs=0.25)
    assert frames[0].index == 0
    assert {seen.size for seen in frames} == {(320, 240), (480, 360)}


@pytest.mark.parametrize(("served", "transport"), [("tcp", "auto"), ("udp", "auto"), ("udp", "udp"), ("tcp", "tcp")])
@pytest.mark.slow
def test_rtsp_transports(served: str, transport: str) -> None:
    with gst_rtsp(served) as peer:
        peer.start()
        source = open_source(peer.uri, SourceOptions(**HASTY, rtsp_transport=transport, reconnect=0))  # type: ignore[arg-type]
        reader = Reader(source)
        reader.more(10)
        reader.close()


@pytest.mark.slow
def test_a_live_playlist_is_played_at_its_own_pace(tmp_path: Path) -> None:
    """Its segments come at once, and would be thrown away but for one picture."""
    with ffmpeg_hls(tmp_path) as uri:
        until(lambda: len(list(tmp_path.glob("*.ts"))) >= 3, 20, "three segments")
        source = open_source(uri, SourceOptions(reconnect=0))
        assert source.info.live
        reader = Reader(source)
        frames = reader.more(75)
        reader.close()
    steps = [float(after.taken_ns - before.taken_ns) / 1e9 for before, after in pairwise(frames)]
    assert max(steps) < 0.3
    assert sum(steps) == pytest.approx(len(steps) / 25, rel=0.1)


@pytest.mark.slow
def test_nothing_grows_with_the_number_of_connections(clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    content = clip("late ts").path.read_bytes()

    def answer(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n" + content)

    monkeypatch.setattr("pipeline.sources.reconnect.LONGEST_WAIT_S", 0.02)
    with talker(answer) as port:
        source = open_source(f"http://127.0.0.1:{port}/live.ts", SourceOptions(**HASTY))  # type: ignore[arg-type]
        reader = Reader(source)
        until(lambda: source.outages.count > 30, 20, "thirty connections")
        reader.frames.clear()
        held, resident = holdings()[1], resident_mib()
        until(lambda: reader.frames.clear() or source.outages.count > 230, 30, "two hundred more")
        # The server's own threads come and go, one a connection.
        until(lambda: holdings()[1] <= held, 5, "so many threads as before")
        assert resident_mib() - resident < 4
        reader.close()


def resident_mib() -> float:
    gc.collect()  # a connection leaves a picture in a cycle, see `pipeline.sources.pictures`
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("keep_up", [True, False])
def test_a_stream_that_comes_faster_than_it_can_be_decoded(keep_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of it are left out, counted and marked; else the pictures would be ever older."""
    slow(monkeypatch, Playback, "_decode", 0.07)
    with ffmpeg_server("tcp") as peer:
        peer.start()
        source = open_source(peer.uri, SourceOptions(keep_up=keep_up))
        reader = Reader(source)
        reader.more(90)
        reader.close()
    first, last = reader.frames[0], reader.frames[-1]
    lag = (last.taken_ns - first.taken_ns) / 1e9 - float(last.pts - first.pts)
    if keep_up:
        assert lag < 1.6
        assert source.skipped > 20
        assert sum(seen.gap for seen in reader.frames) > 1
    else:
        assert lag > 2
        assert source.skipped == 0


def test_a_server_that_comes_late(clip: MakeClip) -> None:
    """It is no error that the server is not there yet; others are not held up meanwhile."""
    port = free_port()
    wanted = [(f"rtsp://127.0.0.1:{port}/cam", SourceOptions(**HASTY), None), ("lavfi:testsrc2", SourceOptions(), None)]
    late, other = open_sources(wanted)
    assert (late.info.height, other.info.height) == (0, 240)
    other.close()
    reader = Reader(late)
    with talker(rtsp_camera(clip("late ts").path, lambda _, over: over.wait(20)), port):
        reader.more(5)
        reader.close()
    assert late.info.height == 80
    assert dict(late.outages.causes) == {"unreachable": 1}
    assert reader.frames[0].index == 0


@pytest.mark.parametrize("waiting_for", ["an answer", "a picture", "a server"])
def test_closing_waits_for_no_network(waiting_for: str, clip: MakeClip, stragglers_awaited: None) -> None:
    def silence(_: socket.socket, over: threading.Event) -> None:
        over.wait(20)

    answers = {"an answer": silence, "a picture": rtsp_camera(clip("late ts").path, silence)}
    options = SourceOptions(open_timeout=2, read_timeout=2)
    with ExitStack() as during:
        port = free_port()
        if waiting_for in answers:
            during.enter_context(talker(answers[waiting_for], port))
        if waiting_for == "an answer":
            options = SourceOptions(open_timeout=0.2, read_timeout=2)
        reader = Reader(open_source(f"rtsp://127.0.0.1:{port}/cam", options))
        time.sleep(0.3)
        began = time.monotonic()
        reader.close()
        assert time.monotonic() - began < 1
    assert reader.error is None


_LEAVING = """
import atexit, sys, time
atexit.register(lambda: print(len(stragglers())))  # after all others
from pipeline.sources import SourceOptions, open_source
source = open_source(sys.argv[1], SourceOptions(read_timeout=1))
items = source.read()
for _ in range(20):
    next(items)
time.sleep(0.3)  # by now its thread waits for more
source.close()
from engines.stragglers import stragglers
print(len(stragglers()))
"""


def test_a_program_that_leaves_a_stalled_stream_ends_properly(clip: MakeClip) -> None:
    """An interpreter that ends under a thread inside libav crashes."""
    with talker(rtsp_camera(clip("late ts").path, lambda _, over: over.wait(20))) as port:
        command = [sys.executable, "-c", _LEAVING, f"rtsp://127.0.0.1:{port}/cam"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n0\n"), done.stderr


@pytest.fixture
def stragglers_awaited() -> object:
    """After the test, wait for threads that were left inside libav until their deadline."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def test_so_many_tries_and_no_more() -> None:
    source = open_source(f"rtsp://127.0.0.1:{free_port()}/cam", SourceOptions(reconnect=3))
    began = time.monotonic()
    with pytest.raises(SourceError, match="connection refused"):
        list(source.read())
    source.close()
    assert time.monotonic() - began < 5


def saying(status: str) -> Callable[[socket.socket, threading.Event], None]:
    """A server of HTTP or RTSP that says the same to everything."""

    def answer(connection: socket.socket, _: threading.Event) -> None:
        request = connection.recv(4096).decode()
        version = request.splitlines()[0].split()[-1]
        sequence = [line for line in request.splitlines() if line.startswith("CSeq")]
        connection.sendall("\r\n".join([f"{version} {status}", *sequence, "Content-Length: 0", "", ""]).encode())

    return answer


@pytest.mark.parametrize(
    ("address", "status", "cause", "said"),
    [
        ("rtsp://127.0.0.1:{}/cam", "404 Not Found", "absent", "check the path behind the host"),
        ("http://127.0.0.1:{}/live.m3u8", "404 Not Found", "absent", "check the path behind the host"),
        ("rtsp://me:pw@127.0.0.1:{}/cam", "401 Unauthorized", "refused", "no account is locked"),
        ("http://me:pw@127.0.0.1:{}/live.ts", "401 Unauthorized", "refused", "USER:${NAME}@HOST"),
        ("cam77", "", "absent", "no such camera"),
    ],
)
def test_what_is_missing_at_the_start_ends_no_other_input(
    address: str, status: str, cause: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with talker(saying(status)) as port:
        wanted = [(address.format(port), SourceOptions(**HASTY), None), ("lavfi:testsrc2", SourceOptions(), None)]
        missing, other = open_sources(wanted)
        with closing(missing), closing(other):
            assert (missing.info.height, other.info.height) == (0, 240)
            assert dict(missing.outages.causes) == {cause: 1}
        assert said in caplog.text
        assert "pw" not in caplog.text
        with pytest.raises(SourceError, match=re.escape("another user" if cause == "refused" else said)):
            open_sources([(wanted[0][0], SourceOptions(**HASTY, reconnect=0), None), wanted[1]])


def test_a_path_whose_publisher_comes_late_is_waited_for_alone(clip: MakeClip) -> None:
    calls = 0
    plays = rtsp_camera(clip("late ts").path, lambda _, over: over.wait(20))

    def publisher(connection: socket.socket, over: threading.Event) -> None:
        nonlocal calls
        calls += 1
        (saying("404 Not Found") if calls < 3 else plays)(connection, over)

    with talker(publisher) as port:
        reader = Reader(open_source(f"rtsp://127.0.0.1:{port}/cam", SourceOptions(**HASTY)))
        reader.more(5)
        reader.close()


def test_what_is_wrong_for_good_is_told_at_once(clip: MakeClip) -> None:
    with talker(saying("401 Unauthorized")) as port, pytest.raises(SourceError, match="another user name or password"):
        open_source(f"http://me:secret@127.0.0.1:{port}/live.ts")
    with pytest.raises(SourceError, match="no such camera"):
        open_source("cam77")
    for uri in ("nosuch://h/x", "nothing.mp4"):
        with pytest.raises(SourceError):
            open_sources([(uri, SourceOptions(), None), ("lavfi:testsrc2", SourceOptions(), None)])
    with pytest.raises(ConfigError, match="cannot be looped"):
        open_source("rtsp://127.0.0.1/x", SourceOptions(loop=2))


def test_waits_grow_to_a_limit_and_differ() -> None:
    backoff = Backoff(lambda: 1.0)
    waits = [backoff.next() for _ in range(9)]
    assert waits[:4] == pytest.approx([0.1, 0.15, 0.225, 0.3375])
    assert max(waits) == waits[-1] == LONGEST_WAIT_S
    assert [backoff.next(denied=True) for _ in range(3)] == [DENIED_WAIT_S, 2 * DENIED_WAIT_S, 4 * DENIED_WAIT_S]
    assert max(backoff.next(denied=True) for _ in range(30)) == LONGEST_DENIED_WAIT_S
    backoff.reset()
    assert backoff.next(denied=True) == DENIED_WAIT_S
    backoff.reset()
    assert backoff.next() == 0.1
    low = Backoff(lambda: 0.0)
    assert low.next() == 0.05
