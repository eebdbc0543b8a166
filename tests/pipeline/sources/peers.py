"""Live sources that other programs are: GStreamer's RTSP server and sender, ffmpeg as a server."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from pipeline.errors import SourceError
from pipeline.sources import Decoded, Source
from tests.conftest import absent, need_program
from tests.pipeline.ports import free_port
from tests.pipeline.sources.served import web_server

SYSTEM_PYTHON = "/usr/bin/python3"
"""The one that Debian's python3-gi is for."""

_GST = Path(__file__).with_name("gst_source.py")
_ENCODERS = {"h264": "libx264", "h265": "libx265", "mpeg4": "mpeg4"}

Codec = Literal["h264", "h265", "mpeg4"]


@cache
def _has_gstreamer() -> bool:
    asked = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(SYSTEM_PYTHON).exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", asked], capture_output=True, timeout=30, check=False).returncode == 0


def need_gstreamer() -> None:
    """Skip, or fail in CI, where GStreamer's RTSP server cannot be run."""
    if not _has_gstreamer():
        absent("GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0 and python3-gi)")


class Peer:
    """A program that sends pictures of a codec and size, and can be cut.

    Attributes:
        uri: where its pictures are to be had.
        one_client: ends when its client has gone.
        keys: monotonic nanoseconds at which it sent keyframes, where it tells them.
    """

    def __init__(self, uri: str, command: Callable[[Codec, int, int], list[str]], *, one_client: bool = False) -> None:
        self.uri = uri
        self.one_client = one_client
        self.keys: list[int] = []
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._last: tuple[Codec, int, int] = ("h264", 320, 240)

    def start(self, codec: Codec = "h264", width: int = 320, height: int = 240) -> None:
        """Send; returns when the program says so, or at once where it says nothing."""
        self._last = (codec, width, height)
        command = self._command(codec, width, height)
        tells = command[0] == SYSTEM_PYTHON
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if tells else None,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if tells:
            assert self._process.stdout is not None
            while (line := self._process.stdout.readline()) != "ready\n":
                self.keys.append(int(line.split()[1]))
            self._listener = threading.Thread(target=self._listen, args=(self._process,))
            self._listener.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            self.keys += (int(line.split()[1]) for line in process.stdout)

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        if self._listener is not None:
            self._listener.join(5)

    def stay(self) -> None:
        """Be there again for a client that a busy machine has made think it away, where it ended with that one."""
        if self.one_client and self._process is not None and self._process.poll() is not None:
            self.start(*self._last)

    def freeze(self) -> None:
        """Alive and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def gst_rtsp(protocols: str) -> Iterator[Peer]:
    """An RTSP server that knows these protocols: ``"tcp"``, ``"udp"``, ``"tcp+udp"``."""
    need_gstreamer()
    port = free_port()
    yield from _until_killed(
        Peer(
            f"rtsp://127.0.0.1:{port}/cam",
            lambda codec, *size: [SYSTEM_PYTHON, str(_GST), "rtsp", str(port), codec, *map(str, size), protocols],
        )
    )


@contextmanager
def gst_udp() -> Iterator[Peer]:
    """A sender of transport streams that waits for nobody."""
    need_gstreamer()
    port = free_port(socket.SOCK_DGRAM)
    yield from _until_killed(
        Peer(
            f"udp://127.0.0.1:{port}",
            lambda codec, *size: [SYSTEM_PYTHON, str(_GST), "udp", str(port), codec, *map(str, size)],
        )
    )


@contextmanager
def ffmpeg_server(scheme: Literal["http", "tcp", "rtmp"]) -> Iterator[Peer]:
    """ffmpeg as a server for one client."""
    ffmpeg, port = need_program("ffmpeg"), free_port()
    uri = f"{scheme}://127.0.0.1:{port}" + {"http": "/live.ts", "tcp": "", "rtmp": "/live/cam"}[scheme]
    listening = [uri + "?listen=1"] if scheme == "tcp" else ["-listen", "1", uri]
    container = "flv" if scheme == "rtmp" else "mpegts"
    yield from _until_killed(
        Peer(
            uri,
            lambda codec, *size: [ffmpeg, *_ffmpeg_picture(codec, *size), "-f", container, *listening],
            one_client=True,
        )
    )


def _ffmpeg_picture(codec: Codec, width: int, height: int) -> list[str]:
    source = ["-re", "-f", "lavfi", "-i", f"testsrc2=size={width}x{height}:rate=25"]
    fast = [] if codec == "mpeg4" else ["-preset", "ultrafast", "-tune", "zerolatency"]
    return [*source, "-c:v", _ENCODERS[codec], *fast, "-g", "12", "-pix_fmt", "yuv420p"]


@contextmanager
def ffmpeg_hls(folder: Path) -> Iterator[str]:
    """A live playlist of segments of a second; its address."""
    command = [need_program("ffmpeg"), "-v", "error", *_ffmpeg_picture("h264", 320, 240)]
    segments = ["-f", "hls", "-hls_time", "1", "-hls_list_size", "4", "-hls_flags", "delete_segments"]
    with (
        web_server(folder) as address,
        subprocess.Popen([*command, *segments, str(folder / "live.m3u8")], stderr=subprocess.DEVNULL) as writer,
    ):
        try:
            yield f"{address}/live.m3u8"
        finally:
            writer.kill()


def _until_killed(peer: Peer) -> Iterator[Peer]:
    try:
        yield peer
    finally:
        peer.kill()


class Reader:
    """Reads a source in a thread and keeps of each picture what a test asks for.

    Attributes:
        frames: (frame without its planes' memory, monotonic nanoseconds at which it was here).
        error: why reading ended, None where it was ended from here.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.frames: list[Seen] = []
        self.error: SourceError | None = None
        self._thread = threading.Thread(target=self._read, name="reader")
        self._thread.start()

    def _read(self) -> None:
        try:
            for item in self.source.read():
                if isinstance(item, Decoded):
                    self.frames.append(Seen(item))
        except SourceError as error:
            self.error = error

    def more(self, count: int, timeout: float = 15) -> list[Seen]:
        """Wait for so many more pictures, and return those that came from now on."""
        begun = len(self.frames)
        deadline = time.monotonic() + timeout
        while len(self.frames) < begun + count:
            assert time.monotonic() < deadline, f"{len(self.frames) - begun} of {count} pictures in {timeout} s"
            assert self._thread.is_alive(), self.error
            time.sleep(0.01)
        return self.frames[begun:]

    def close(self) -> None:
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


class Seen:
    """What is kept of a picture."""

    def __init__(self, item: Decoded) -> None:
        frame = item.frame
        self.taken_ns = time.monotonic_ns()
        self.index, self.pts, self.captured_ns = frame.index, frame.pts, frame.captured_ns
        self.gap, self.size = frame.discontinuity, (frame.width, frame.height)
