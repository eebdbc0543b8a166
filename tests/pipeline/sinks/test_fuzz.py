"""Malformed requests by the thousand: the server goes on, remembers nothing of them, and serves the next one."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import pytest

from pipeline.sinks import open_output
from pipeline.sinks.base import Live
from tests.pipeline.running import held, until
from tests.pipeline.sinks.serving import SHOWN, free_port, on_air, page_pieces, play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.usefixtures("no_error_logged")]

SECONDS = 60

RTSP = (
    b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    b"DESCRIBE rtsp://127.0.0.1/cam RTSP/1.0\r\nCSeq: 2\r\nAccept: application/sdp\r\n\r\n",
    b"SETUP rtsp://127.0.0.1/cam/trackID=0 RTSP/1.0\r\nCSeq: 3\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n\r\n",
    b"SETUP rtsp://127.0.0.1/cam RTSP/1.0\r\nCSeq: 3\r\nTransport: RTP/AVP;client_port=40000-40001\r\n\r\n",
    b"PLAY rtsp://127.0.0.1/cam RTSP/1.0\r\nCSeq: 4\r\nRange: npt=0-\r\n\r\n",
    b"$\1\0\x20\x80\xc9\0\7" + bytes(28),
    b"GET_PARAMETER * RTSP/1.0\r\nCSeq: 5\r\nContent-Length: 5\r\n\r\nhello",
    b'TEARDOWN * RTSP/1.0\r\nCSeq: 6\r\nAuthorization: Digest a=b, c="d"\r\n\r\n',
)
HTTP = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /frames HTTP/1.1\r\nHost: 127.0.0.1:80\r\nOrigin: http://127.0.0.1:80\r\n\r\n",
    b"HEAD /overlay.mjpeg?x=%20%ff HTTP/1.0\r\nHost: [::1]\r\nSec-Fetch-Site: same-origin\r\n\r\n",
    b"POST /info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\nTransfer-Encoding: chunked\r\n\r\n",
)


def spoiled(noise: random.Random, good: tuple[bytes, ...]) -> bytes:
    """Some requests in a row, with bytes changed, left out, put in and repeated."""
    data = bytearray(b"".join(noise.choices(good, k=noise.randint(1, 6))))
    for _ in range(noise.randint(0, 8)):
        place = noise.randrange(len(data) + 1)
        match noise.randrange(4):
            case 0:
                data[place : place + 1] = bytes([noise.randrange(256)])
            case 1:
                del data[place : place + noise.randint(1, 30)]
            case 2:
                data[place:place] = noise.randbytes(noise.randint(1, 40))
            case 3:
                data[place:place] = data[:place][-noise.randint(1, 200) :]
    return bytes(data)


@pytest.mark.parametrize(
    ("uri", "good", "look"),
    [
        ("rtsp://@:{port}/cam", RTSP, lambda port: play(f"rtsp://127.0.0.1:{port}/cam", 5)),
        ("http://@:{port}/", HTTP, lambda port: page_pieces(f"http://127.0.0.1:{port}/frames", 5)),
    ],
    ids=["rtsp", "http"],
)
def test_malformed_requests(uri: str, good: tuple[bytes, ...], look: Callable[[int], list[object]]) -> None:
    noise = random.Random(20240229)
    port = free_port()
    sink = open_output(uri.format(port=port))
    assert isinstance(sink, Live)
    with on_air(sink, SHOWN), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        until(lambda: len(look(port)) == 5, 10)
        before = len(held().descriptors)
        began = time.monotonic()
        rounds = 0
        while time.monotonic() - began < SECONDS / 2:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
                try:
                    wire.sendall(spoiled(noise, good))
                    wire.settimeout(0.02)
                    answer = wire.recv(1 << 16)
                    if b"server_port=" in answer:  # and rubbish instead of receiver reports
                        pair = answer.partition(b"server_port=")[2].partition(b"\r")[0].partition(b";")[0].split(b"-")
                        for each in pair:
                            datagrams.sendto(noise.randbytes(noise.randint(0, 1500)), ("127.0.0.1", int(each)))
                except OSError:
                    pass
            rounds += 1
        assert rounds > 100
        until(lambda: sink.clients == 0, 15, "the end of all of them")
        until(lambda: len(held().descriptors) <= before, 15, "the end of their sockets")
        assert len(look(port)) == 5
