"""RTCP: what the server reports to those who play (RFC 3550)."""

from __future__ import annotations

import struct
import time

from pipeline.sinks.rtsp.h264 import CLOCK, AccessUnit

REPORT_S = 5.0
"""Time between two sender reports."""

_NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970
_CNAME = b"deeplab-stream"


def sender_report(unit: AccessUnit, ssrc: int, packets: int, octets: int) -> bytes:
    """A sender report, with the source description that must go with it.

    Args:
        unit: the last picture sent; its time leads to that of now.
        ssrc: number of the stream.
        packets, octets: sent to this client so far.
    """
    now = time.time_ns()
    seconds, nanoseconds = divmod(now, 10**9)
    ticks = unit.timestamp + (now - unit.wall_ns) * CLOCK // 10**9
    report = struct.pack(
        ">BBHIIIIII",
        0x80,
        200,
        6,
        ssrc,
        (seconds + _NTP_EPOCH_S) & 0xFFFFFFFF,
        (nanoseconds << 32) // 10**9,
        ticks & 0xFFFFFFFF,
        packets & 0xFFFFFFFF,
        octets & 0xFFFFFFFF,
    )
    return report + _source_description(ssrc)


def goodbye(ssrc: int) -> bytes:
    """The stream ends; led by an empty receiver report, as a compound packet must be."""
    report, leaving = struct.pack(">BBHI", 0x80, 201, 1, ssrc), struct.pack(">BBHI", 0x81, 203, 1, ssrc)
    return report + _source_description(ssrc) + leaving


def _source_description(ssrc: int) -> bytes:
    item = bytes((1, len(_CNAME))) + _CNAME
    item += bytes(4 - len(item) % 4)  # at least one zero ends the list
    return struct.pack(">BBHI", 0x81, 202, 1 + len(item) // 4, ssrc) + item
