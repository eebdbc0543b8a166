"""A server that answers RTSP and sends RTP with bytes changed, left out, put in: our side of it goes on."""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
import time
from itertools import takewhile
from pathlib import Path

import pytest

from pipeline.sources import SourceOptions, open_source, reconnect
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.peers import Reader
from tests.pipeline.sources.served import rtp_packets, rtsp_answers, talker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90), pytest.mark.usefixtures("no_error_logged")]

SECONDS = 25
GROWTH_MIB = 32.0

_STATUS = (b"302 Found\r\nLocation: file:///etc/hostname", b"401 Unauthorized", b"404 Not Found", b"500 No", b"-7 \xff")
"""What stands in place of ``200 OK`` now and then."""


def spoiled(noise: random.Random, good: bytes) -> bytes:
    """The bytes with some of them changed, left out, put in and repeated."""
    data = bytearray(good)
    for _ in range(noise.randint(1, 6)):
        at, long = noise.randrange(len(data) + 1), noise.randint(1, 40)
        put = noise.choice(
            (b"", noise.randbytes(long), bytes(data[at : at + long]) * 2, noise.choice((b"9", b"\r\n")) * long)
        )
        data[at : at + noise.choice((0, 1, long))] = put
    return bytes(data)


class Spoiler:
    """A camera whose answers and packets are spoiled more or less, or not at all.

    Attributes:
        connections: how many have come.
        kind: while it is true.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.connections = 0
        self.kind = True
        self._packets = rtp_packets(path)
        self._answers = rtsp_answers()
        self._seed = seed

    def __call__(self, connection: socket.socket, over: threading.Event) -> None:
        self.connections += 1
        noise = random.Random(self._seed + self.connections)
        rates = (0.0, 0.0) if self.kind else noise.choice(((0.4, 0.0), (0.0, 0.3), (0.0, 0.02), (0.1, 0.1)))
        lines = connection.makefile("rb")
        while not over.is_set():
            request = b"".join(takewhile(lambda line: line not in (b"\r\n", b""), lines)).decode(errors="replace")
            if not request:
                return
            good = self._answers(request)
            if noise.random() < rates[0]:
                good = good.replace(b"200 OK", noise.choice(_STATUS)) if noise.random() < 0.3 else spoiled(noise, good)
            connection.sendall(good)
            if request.startswith("PLAY"):
                self._play(connection, noise, rates[1])
                if self.kind:
                    over.wait(20)
                return

    def _play(self, connection: socket.socket, noise: random.Random, rate: float) -> None:
        for packet in self._packets:
            data = b"$\0" + len(packet).to_bytes(2) + packet
            if noise.random() < rate:
                data = noise.choice(
                    (
                        spoiled(noise, data),
                        data[:2] + noise.randbytes(2) + packet,
                        b"$\0"
                        + len(packet).to_bytes(2)
                        + spoiled(noise, packet)[: len(packet)].ljust(len(packet), b"\0"),
                        b"$\1\0\x40" + noise.randbytes(64),
                        data[: noise.randrange(len(data))],
                        b"",
                    )
                )
            connection.sendall(data)


def _resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_server_that_talks_nonsense(clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr(reconnect, "LONGEST_DENIED_WAIT_S", 0.02)
    camera = Spoiler(clip("late ts").path, 20240229)
    with talker(camera) as port:
        uri = f"rtsp://127.0.0.1:{port}/cam"
        reader = Reader(open_source(uri, SourceOptions(open_timeout=0.5, read_timeout=0.3, rtsp_transport="tcp")))
        reader.more(5)
        camera.kind = False
        began = time.monotonic()
        held: list[tuple[int, float]] = []
        while time.monotonic() - began < SECONDS:
            time.sleep(1)
            held.append((_descriptors(), _resident_mib()))
        spoiled_ones = camera.connections
        camera.kind = True
        reader.more(5)
        outages = reader.source.outages
        reader.close()
    assert spoiled_ones > 50, "each of them is cut soon"
    assert outages.count > 20
    third = SECONDS // 3
    assert max(count for count, _ in held) < min(count for count, _ in held) + 16
    assert max(mib for _, mib in held[third:]) < max(mib for _, mib in held[:third]) + GROWTH_MIB
