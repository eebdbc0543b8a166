"""A minute of what the RTSP server sends while the source changes its size again and again."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.pipeline.clips import Clip
from tests.pipeline.ports import free_port
from tests.pipeline.running import arguments, started, until
from tests.pipeline.sinks.rtsp_client import client, listens

SECONDS = 60
CLOCK = 90_000


@dataclass(frozen=True)
class Report:
    """A sender report's time, by both clocks."""

    ntp: float
    rtp: int


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_numbers_and_clocks_never_jump(clip: Callable[[str], Clip], tiny: str) -> None:
    port = free_port()
    source = arguments(clip("size change").path, tiny, "--realtime", "--loop", "0")
    with started(*source, "--output", f"rtsp://@:{port}/cam", "--quiet") as process:
        until(lambda: listens(port), 30, "a listening port")
        packets, reports = listened(port)
        assert process.poll() is None
    numbers = [struct.unpack(">H", packet[2:4])[0] for packet in packets]
    assert all((b - a) % 65536 == 1 for a, b in pairwise(numbers)), "none is left out, none comes twice"
    times = [struct.unpack(">I", packet[4:8])[0] for packet in packets]
    steps = [(b - a) % 2**32 for a, b in pairwise(times)]
    assert max(steps) < 2 * CLOCK, "no time goes back or leaps ahead"
    assert 0.95 * SECONDS < sum(steps) / CLOCK < 1.05 * SECONDS
    marked = [packet[4:8] for packet in packets if packet[1] & 128]
    assert len(marked) == len(set(marked)), "one mark a picture"
    assert len(sizes(packets)) == 2, "both sizes were sent"
    assert len({packet[8:12] for packet in packets}) == 1
    assert len(reports) > SECONDS / 10
    for one, other in pairwise(reports):
        passed = other.ntp - one.ntp
        assert passed > 0
        assert abs((other.rtp - one.rtp) % 2**32 / CLOCK - passed) < 0.02, "both clocks tell the same"


def listened(port: int) -> tuple[list[bytes], list[Report]]:
    """A minute's packets and sender reports."""
    packets, reports = list[bytes](), list[Report]()
    with client(port) as one:
        one.play()
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            channel, packet = one.packet()
            if channel == 0:
                packets.append(packet)
            elif packet[1] == 200:
                seconds, fraction, rtp = struct.unpack(">III", packet[8:20])
                reports.append(Report(seconds + fraction / 2**32, rtp))
    return packets, reports


def sizes(packets: list[bytes]) -> set[bytes]:
    """The sequence parameter sets in them, which differ where the size does."""
    found = set()
    for packet in packets:
        payload = packet[12:]
        kind = payload[0] & 31
        if kind == 7:
            found.add(payload)
        elif kind == 24:  # several units in one
            at = 1
            while at < len(payload):
                length = int.from_bytes(payload[at : at + 2])
                unit = payload[at + 2 : at + 2 + length]
                found |= {unit} if unit[0] & 31 == 7 else set()
                at += 2 + length
    return found
