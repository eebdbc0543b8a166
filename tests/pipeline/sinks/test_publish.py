"""Publishing to other people's servers: GStreamer's for RTSP, ffmpeg's for RTMP; and their absence."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, SinkError
from pipeline.sinks import VideoOptions, open_output
from pipeline.sinks.base import Live, Sink
from tests.conftest import absent, need_program
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.serving import NOISE, SHOWN, Task, on_air, without_own_cache

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_error_logged")]


SYSTEM_PYTHON = "/usr/bin/python3"


@contextmanager
def peer(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=without_own_cache())
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def record_server(port: int) -> Iterator[subprocess.Popen[str]]:
    """GStreamer's server, which prints a line a picture."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True, timeout=30, check=False).returncode:
        absent("GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0 and python3-gi)")
    with peer(SYSTEM_PYTHON, str(Path(__file__).with_name("record_server.py")), str(port)) as process:
        assert next_lines(process, 1) == ["ready"]
        yield process


@contextmanager
def rtmp_server(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        "-v",
        "error",
        "-listen",
        "1",
        "-analyzeduration",
        "100000",
        "-f",
        "flv",
        "-i",
        f"rtmp://127.0.0.1:{port}/live/key",
    ]
    with peer(need_program("ffmpeg"), *command, "-flush_packets", "1", "-f", "framemd5", "-") as process:
        yield process


def next_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that tell of a picture (or that the server is ready)."""

    def read() -> list[str]:
        assert process.stdout is not None
        lines: list[str] = []
        while len(lines) < count:
            line = process.stdout.readline()
            assert line, "the peer has ended"
            if not line.startswith("#"):
                lines.append(line.strip())
        return lines

    got: list[str] = Task(read).result(30)
    return got


@pytest.mark.parametrize(
    ("server", "form"),
    [
        (record_server, "rtsp://me:secret@127.0.0.1:{}/cam"),
        pytest.param(rtmp_server, "rtmp://127.0.0.1:{}/live/key", marks=pytest.mark.slow),
    ],
    ids=["rtsp", "rtmp"],
)
def test_pictures_arrive_and_come_again_after_a_restart(
    server: object, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    sink = open_output(form.format(port))
    assert isinstance(sink, Live)
    assert isinstance(sink, Sink)
    assert "secret" not in sink.name
    assert not sink.name.endswith("key")
    with nothing_left(), on_air(sink):
        with server(port) as process:  # type: ignore[operator]
            assert len(next_lines(process, 20)) == 20
            assert sink.clients == 1
        until(lambda: not sink.clients, 10, "that it is noticed")
        with server(port) as process:  # type: ignore[operator]
            assert len(next_lines(process, 20)) == 20
            assert sink.clients == 1
        assert sink.lost
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("trying again" in line for line in said)
    assert any("published again after" in line for line in said)
    assert "secret" not in caplog.text
    assert "live/key" not in caplog.text


@pytest.mark.slow
def test_a_server_that_was_never_there_is_an_error_in_the_end() -> None:
    sink = open_output(f"rtsp://127.0.0.1:{free_port()}/cam")
    with nothing_left():
        sink.open(SHOWN.info())
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            sink.write(SHOWN.result(0))
            time.sleep(0.02)
        with pytest.raises(SinkError, match="cannot be published: Connection refused; is the server running"):
            sink.close()
        sink.abort()


@pytest.mark.slow
def test_a_silent_server_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """libav would wait for ever: the thread that writes must not, and closing is bounded."""
    monkeypatch.setattr("pipeline.sinks.publish.OPEN_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, nothing_left():
        sink = open_output(f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key")
        sink.open(SHOWN.info())
        slowest = 0.0
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            began = time.monotonic()
            sink.write(SHOWN.result(0))
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
        assert slowest < 1
        with pytest.raises(SinkError, match=r"live/\*\*\* cannot be published"):
            sink.close()
        assert time.monotonic() - deadline < 5
        silent.settimeout(1)
        for _ in range(2):  # it has been tried again
            silent.accept()[0].close()


@pytest.mark.slow
def test_a_server_that_freezes_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.publish.WRITE_TIMEOUT_S", 1.0)
    port = free_port()
    sink = open_output(f"rtsp://127.0.0.1:{port}/cam", VideoOptions(quality=0))
    assert isinstance(sink, Live)
    with record_server(port) as process, on_air(sink, NOISE, 30):
        next_lines(process, 5)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: not sink.clients, 60, "that it is noticed")
        os.kill(process.pid, signal.SIGCONT)


def test_only_h264_is_published() -> None:
    with pytest.raises(ConfigError, match=r"only H\.264"):
        open_output("rtsp://me:secret@host/cam", VideoOptions(codec="hevc"))
    open_output("rtsp://host/cam", VideoOptions(codec="h264"))
