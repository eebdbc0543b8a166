"""Malformed requests by the thousand: the server goes on, remembers nothing of them, and serves the next one."""

from __future__ import annotations

import base64
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from urllib.request import Request

import pytest

from pipeline.sinks import ServeOptions, open_output
from pipeline.sinks.base import Live
from tests.pipeline.certificates import self_signed
from tests.pipeline.leftovers import held
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.serving import SHOWN, on_air, page_pieces, play
from tests.pipeline.sinks.test_rtsp_auth import SECRET, digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.usefixtures("no_error_logged")]

SECONDS = 60
BASIC = "Basic " + base64.b64encode(f"viewer:{SECRET}".encode()).decode()

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
    b"GET /cam/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /cam/frames HTTP/1.1\r\nHost: 127.0.0.1:80\r\nOrigin: http://127.0.0.1:80\r\n\r\n",
    b"HEAD /cam/overlay.mjpeg?x=%20%ff HTTP/1.0\r\nHost: [::1]\r\nSec-Fetch-Site: same-origin\r\n\r\n",
    b"POST /cam/info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /cam/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\nTransfer-Encoding: chunked\r\n\r\n",
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


def rtsp_proof(wire: socket.socket) -> Callable[[str, str], str]:
    wire.sendall(RTSP[1])
    nonce = re.search(rb'nonce="(\w+)"', wire.recv(4096))
    assert nonce
    return lambda method, uri: digest(method, uri, nonce[1].decode())


def http_proof(_: socket.socket) -> Callable[[str, str], str]:
    return lambda _method, _uri: BASIC


def proven(good: tuple[bytes, ...], proof: Callable[[str, str], str]) -> tuple[bytes, ...]:
    """The requests with credentials."""

    def prove(request: bytes) -> bytes:
        line, end, rest = request.partition(b"\r\n")
        if not end or b"Authorization" in rest or request.startswith(b"$"):
            return request
        method, uri, _ = line.decode().split()
        return line + f"\r\nAuthorization: {proof(method, uri)}\r\n".encode() + rest

    return tuple(map(prove, good))


@dataclass(frozen=True)
class Spoken:
    """What is spoken at a port, and how somebody looks on who may."""

    scheme: str
    good: tuple[bytes, ...]
    proof: Callable[[socket.socket], Callable[[str, str], str]]
    look: Callable[[int], Sequence[object]]


SPOKEN = (
    Spoken("rtsp", RTSP, rtsp_proof, lambda port: play(f"rtsp://viewer:{SECRET}@127.0.0.1:{port}/cam", 5)),
    Spoken("http", HTTP, http_proof, lambda port: page_pieces(Request(
        f"http://127.0.0.1:{port}/cam/frames", headers={"Authorization": BASIC}), 5)),
)  # fmt: skip


@pytest.mark.parametrize("spoken", SPOKEN, ids=["rtsp", "http"])
def test_malformed_requests(spoken: Spoken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With credentials and without, the page's in clear and over TLS."""
    monkeypatch.setattr("pipeline.sinks.serve.guessing.FREE_TRIES", 1 << 30)  # else most would be refused unread
    noise = random.Random(20240229)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with ExitStack() as stack:
        ports = [free_port()]
        auth = f"viewer:{SECRET}"
        sinks = [open_output(f"{spoken.scheme}://@:{ports[0]}/cam", serve=ServeOptions(auth=auth))]
        if spoken.scheme == "http":
            cert, key = self_signed(tmp_path)
            ports.append(free_port())
            over_tls = ServeOptions(auth=auth, tls_cert=cert, tls_key=key)
            sinks.append(open_output(f"https://@:{ports[1]}/cam", serve=over_tls))
        for sink in sinks:
            stack.enter_context(on_air(sink, SHOWN))
        until(lambda: len(spoken.look(ports[0])) == 5, 10)
        before = len(held().descriptors)
        began = time.monotonic()
        answered = dict.fromkeys(product((False, True), ports), 0)
        while time.monotonic() - began < SECONDS / 2:
            knows, port = noise.random() < 0.5, noise.choice(ports)
            with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, suppress(OSError):
                wire = trusting.wrap_socket(plain) if port in ports[1:] and noise.random() < 0.9 else plain
                with wire:
                    good = proven(spoken.good, spoken.proof(wire)) if knows else spoken.good
                    wire.sendall(spoiled(noise, good))
                    wire.settimeout(0.02)
                    answer = wire.recv(1 << 16)
                    answered[knows, port] += b" 200 " in answer or not knows
                    send_rubbish(noise, answer)
        assert min(answered.values()) > 20
        until(lambda: all(isinstance(sink, Live) and sink.clients == 0 for sink in sinks), 15, "the end of all of them")
        until(lambda: len(held().descriptors) <= before, 15, "the end of their sockets")
        assert len(spoken.look(ports[0])) == 5


def send_rubbish(noise: random.Random, answer: bytes) -> None:
    """To the ports for receiver reports, where the answer names them."""
    if b"server_port=" in answer:
        pair = answer.partition(b"server_port=")[2].partition(b"\r")[0].partition(b";")[0].split(b"-")
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            for each in pair:
                datagrams.sendto(noise.randbytes(noise.randint(0, 1500)), ("127.0.0.1", int(each)))
