"""Those who watch: each decodes what comes in a process of its own and tells (number, when) of every picture."""

from __future__ import annotations

import http.client
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.timecode import luma_of, number_of

Seen = list[tuple[int, int]]
"""The painted number of each picture, and the nanoseconds of the monotonic clock at which it was decoded."""


def watch(player: str, uri: str, size: tuple[int, int], spell: tuple[float, float], told: Queue[Seen]) -> None:
    """Watch, and tell.

    Args:
        player: one of `PLAYERS`.
        uri: what it plays.
        size: width and height of the pictures.
        spell: seconds to warm up, and to watch.
        told: gets what was seen.
    """
    warm_up, seconds = spell
    seen: Seen = []
    began: float | None = None
    for luma in PLAYERS[player](uri, *size):
        there = time.monotonic_ns()
        now = time.monotonic()
        began = now if began is None else began
        if now - began > warm_up + seconds:
            break
        if now - began > warm_up:
            seen.append((number_of(luma), there))
    told.put(seen)


def _libav(uri: str, *_: int) -> Iterator[NDArray[np.uint8]]:
    """As ffplay does: its parser hands a picture on when the next one begins."""
    options = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "200000"}
    with av.open(uri, options=options, timeout=20) as stream:
        video = stream.streams.video[0]
        video.codec_context.thread_count = 1
        for frame in stream.decode(video):
            yield luma_of(frame)


def _gstreamer(uri: str, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Hands a picture on at the mark of its last packet."""
    program = shutil.which("gst-launch-1.0")
    if program is None:
        sys.exit("gst-launch-1.0 is missing: install gstreamer1.0-tools, -plugins-good, -plugins-bad and -libav")
    shape = f"video/x-raw,format=GRAY8,width={width},height={height}"
    pipeline = f"rtspsrc location={uri} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264 max-threads=1"
    command = [program, "-q", *pipeline.split(), "!", "videoconvert", "!", shape, "!", "fdsink", "fd=1", "sync=false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            while len(data := process.stdout.read(width * height)) == width * height:
                yield np.frombuffer(data, np.uint8).reshape(height, width)
        finally:
            process.kill()


def _page(uri: str, *_: int) -> Iterator[NDArray[np.uint8]]:
    """The overlay of the page, as an ``<img>`` shows it: JPEG after JPEG."""
    from PIL import Image

    address = urlsplit(uri)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    connection.request("GET", address.path)
    answer = connection.getresponse()
    while True:
        line = answer.readline()
        if not line:
            return
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
            while answer.readline().strip():
                pass
            yield np.asarray(Image.open(io.BytesIO(answer.read(length))).convert("L"))


PLAYERS: dict[str, Any] = {"libav": _libav, "GStreamer": _gstreamer, "page": _page}


class Stalled:
    """An RTSP client that asks for everything and reads nothing of it.

    Args:
        port: of the server on this machine.
        path: of the stream there.
    """

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", port))
        uri = f"rtsp://127.0.0.1:{port}{path}"
        described = self._ask(f"DESCRIBE {uri}", "Accept: application/sdp")
        control = described.rpartition("a=control:")[2].split()[0]
        track = control if control.startswith("rtsp:") else f"{uri}/{control}"
        answer = self._ask(f"SETUP {track}", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        session = answer.partition("Session:")[2].split(";")[0].split()[0]
        self._ask(f"PLAY {uri}", f"Session: {session}")

    def _ask(self, what: str, header: str) -> str:
        self._socket.sendall(f"{what} RTSP/1.0\r\nCSeq: 1\r\n{header}\r\n\r\n".encode())
        return self._socket.recv(8192).decode("latin-1")

    def close(self) -> None:
        """Go."""
        self._socket.close()
