"""Ways to hand a file to a source other than by its name, each a context manager."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path

import av


@contextmanager
def standard_input(command: list[str]) -> Iterator[None]:
    """Make descriptor 0 a pipe that ``command`` writes."""
    saved = os.dup(0)
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    os.dup2(writer.stdout.fileno(), 0)
    writer.stdout.close()
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        writer.kill()
        writer.wait()


@contextmanager
def named_pipe(path: Path, source: Path) -> Iterator[None]:
    """A named pipe at ``path`` that a program fills from ``source``."""
    os.mkfifo(path)
    with subprocess.Popen(["sh", "-c", 'exec cat "$0" > "$1"', str(source), str(path)]) as writer:
        try:
            yield
        finally:
            writer.kill()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def web_server(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve a folder; gives the address of its root without a slash at the end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http{'s' if tls is not None else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def talker(answer: Callable[[socket.socket, threading.Event], None], port: int = 0) -> Iterator[int]:
    """A TCP server that treats each connection with ``answer``; gives its port, a free one for 0."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.05)
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                answer(connection, over)
            except OSError:
                return  # the client has gone: most tests want just that

    def accept() -> None:
        handlers = []
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            handlers.append(threading.Thread(target=serve, args=(connection,)))
            handlers[-1].start()
        for handler in handlers:
            handler.join(5)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join(10)
        listener.close()


class _Packets:
    """Collects what libav's RTP packetiser writes, one packet a call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)


def rtp_packets(path: Path) -> list[bytes]:
    """The video of a file whose stream carries its own headers, as RTP packets."""
    wire = _Packets()
    with av.open(str(path)) as given, av.open(wire, "w", format="rtp", buffer_size=1400) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return [data for data in wire.sent if not 192 <= data[1] <= 223]  # those are reports, not pictures


def rtsp_answers() -> Callable[[str], bytes]:
    """What a camera answers to each request that sends H.264 in the RTSP connection itself."""
    description = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    )
    description += "a=fmtp:96 packetization-mode=1\r\na=control:streamid=0\r\n"
    headers = {
        "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(description)}\r\n",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
        "PLAY": "Session: 1\r\n",
    }

    def answer(request: str) -> bytes:
        method = request.split(maxsplit=1)[0]
        sequence = next((line for line in request.splitlines() if line.lower().startswith("cseq")), "CSeq: 0")
        body = description if method == "DESCRIBE" else ""
        return f"RTSP/1.0 200 OK\r\n{sequence}\r\n{headers.get(method, '')}\r\n{body}".encode()

    return answer


def rtsp_camera(path: Path, then: Callable[[socket.socket, threading.Event], None]) -> Callable[..., None]:
    """What a camera answers that sends the file's video in the RTSP connection itself, then does ``then``."""
    packets, answers = rtp_packets(path), rtsp_answers()

    def answer(connection: socket.socket, over: threading.Event) -> None:
        lines = connection.makefile("rb")
        while not over.is_set():
            request = b"".join(takewhile(lambda line: line not in (b"\r\n", b""), lines)).decode()
            if not request:
                break
            connection.sendall(answers(request))
            if request.startswith("PLAY"):
                for packet in packets:
                    connection.sendall(b"$\0" + len(packet).to_bytes(2) + packet)
                then(connection, over)
                break

    return answer
