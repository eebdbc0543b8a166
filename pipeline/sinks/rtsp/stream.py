"""One stream that is served, and those who play it; used in the service thread but where it says so."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from pipeline.sinks.rtsp.h264 import AccessUnit
from pipeline.sinks.rtsp.rtcp import REPORT_S, goodbye, sender_report
from pipeline.sinks.serve.outflow import Outflow

_HEADER_BYTES = 12
_PORT_TRIES = 20


class Wire(Protocol):
    """How one player is reached."""

    @property
    def late(self) -> bool:
        """It has not taken what it was sent a while ago."""

    @property
    def clear(self) -> bool:
        """It has taken everything."""

    def send(self, packets: tuple[bytes, ...]) -> None:
        """RTP packets of one picture."""

    def report(self, packet: bytes) -> None:
        """An RTCP packet."""

    def close(self) -> None:
        """Give back what belongs to it alone."""


class Interleaved:
    """Packets between the answers of the RTSP connection (RFC 2326, 10.12).

    Args:
        transport, outflow: of the connection.
        channels: of RTP and of RTCP.
    """

    def __init__(self, transport: asyncio.WriteTransport, outflow: Outflow, channels: tuple[int, int]) -> None:
        self._transport = transport
        self._outflow = outflow
        self._channels = channels

    @property
    def late(self) -> bool:
        """See `Wire`."""
        return self._outflow.late

    @property
    def clear(self) -> bool:
        """See `Wire`."""
        return self._outflow.clear

    def send(self, packets: tuple[bytes, ...]) -> None:
        """In one piece."""
        channel = self._channels[0]
        parts: list[bytes] = []
        for packet in packets:
            parts += (bytes((36, channel, len(packet) >> 8, len(packet) & 255)), packet)
        self._transport.write(b"".join(parts))

    def report(self, packet: bytes) -> None:
        """On the second channel."""
        self._transport.write(bytes((36, self._channels[1], len(packet) >> 8, len(packet) & 255)) + packet)

    def close(self) -> None:
        """The connection closes it."""


class Datagrams(asyncio.DatagramProtocol):
    """Two UDP ports for one player: RTP goes out by the first, RTCP out and in by the second.

    Packets go to the very machine that has asked for them, so that nobody can aim them at another.

    Args:
        peer: address of the client.
        ports: its ports for RTP and RTCP.
        heard: called when the client has sent something to either port.
    """

    def __init__(self, peer: str, ports: tuple[int, int], heard: Callable[[], None]) -> None:
        self._peer = peer
        self._targets = ((peer, ports[0]), (peer, ports[1]))
        self._heard = heard
        self._transports: list[asyncio.DatagramTransport] = []
        self.ports = (0, 0)

    async def open(self, local: str) -> None:
        """Bind an even port and the next one at the address that the client has connected to.

        Raises:
            OSError: no two ports in a row are free.
        """
        loop = asyncio.get_running_loop()
        first, second = _port_pair(local)
        self.ports = (first.getsockname()[1], second.getsockname()[1])
        for each in (first, second):
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=each)
            self._transports.append(transport)

    @property
    def late(self) -> bool:
        """The system itself does not take more."""
        return self._waiting() > 1 << 20

    @property
    def clear(self) -> bool:
        """See `Wire`."""
        return self._waiting() == 0

    def _waiting(self) -> int:
        # typeshed forgets that this transport has it too
        return sum(each.get_write_buffer_size() for each in self._transports)  # type: ignore[attr-defined]

    def send(self, packets: tuple[bytes, ...]) -> None:
        """A datagram each."""
        for packet in packets:
            self._transports[0].sendto(packet, self._targets[0])

    def report(self, packet: bytes) -> None:
        """From the second port to the second port."""
        self._transports[1].sendto(packet, self._targets[1])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002
        """A receiver report, or a packet that opens a firewall: the client is alive."""
        if addr[0] == self._peer:
            self._heard()

    def close(self) -> None:
        """Close both ports."""
        for each in self._transports:
            each.close()


def _port_pair(local: str) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    for _ in range(_PORT_TRIES):
        first, second = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        with suppress(OSError):
            first.bind((local, 0))
            port = first.getsockname()[1]
            if port % 2 == 0:
                second.bind((local, port + 1))
                first.setblocking(False)
                second.setblocking(False)
                return first, second
        first.close()
        second.close()
    raise OSError("no two UDP ports in a row are free")


class Player:
    """One client of one stream, from SETUP to TEARDOWN.

    Args:
        stream: what it plays.
        wire: how it is reached.
        hang_up: ends its connection, once what was written is sent.
    """

    def __init__(self, stream: LiveStream, wire: Wire, hang_up: Callable[[], None]) -> None:
        self.stream = stream
        self.wire = wire
        self._hang_up = hang_up
        self.lost = 0
        self.playing = False
        self._waiting = True
        self._started: Callable[[AccessUnit | None], None] | None = None
        self._last: AccessUnit | None = None
        self._packets = self._octets = 0
        self._reported = 0.0

    def play(self, started: Callable[[AccessUnit | None], None]) -> None:
        """Send pictures from the next keyframe on.

        Args:
            started: called with that keyframe before it is sent, or with None by `answer_now`.
        """
        self._started = started
        self.playing = self._waiting = True
        self.stream.players.add(self)
        self.stream.requests += 1

    def answer_now(self) -> None:
        """No keyframe has come so far: `started` is told so, unless it was told otherwise."""
        started, self._started = self._started, None
        if started is not None:
            started(None)

    def pause(self) -> None:
        """Send nothing until `play`."""
        self.playing = False
        self.stream.players.discard(self)

    def take(self, unit: AccessUnit) -> None:
        """Send a picture, or leave it out where the client is late: it goes on at a keyframe."""
        if self._waiting:
            if not unit.keyframe or not self.wire.clear:
                self.lost += self._last is not None
                return
        elif self.wire.late:
            self._waiting = True
            self.lost += 1
            return
        started, self._started = self._started, None
        if started is not None:
            started(unit)
        first = self._last is None
        self._waiting, self._last = False, unit
        if first:
            self.report(time.monotonic())
        self.wire.send(unit.packets)
        self._packets += len(unit.packets)
        self._octets += sum(map(len, unit.packets)) - _HEADER_BYTES * len(unit.packets)

    def report(self, now: float) -> None:
        """Send a sender report if it is time for one."""
        if self._last is None or not self.playing or now - self._reported < REPORT_S:
            return
        self._reported = now
        if not self.wire.late:
            self.wire.report(sender_report(self._last, self.stream.ssrc, self._packets, self._octets))

    def end(self) -> None:
        """The stream ends: tell the client, and hang up."""
        self.answer_now()
        if not self.wire.late:
            self.wire.report(goodbye(self.stream.ssrc))
        self._hang_up()

    def close(self) -> None:
        """It has gone, or it goes."""
        self.pause()
        self.wire.close()
        self.stream.lost += self.lost
        self.lost = 0


class LiveStream:
    """What is mounted at an RTSP server.

    Attributes:
        ssrc: RTP's number of the stream.
        parameter_sets: SPS and PPS, for those who ask for a description.
        version: of the description.
        players: those who want pictures now.
        requests: how often somebody began to wait for a keyframe.
        over: no picture will come any more.
        lost: pictures that clients which have gone were not sent because they were late.
    """

    def __init__(self, ssrc: int) -> None:
        self.ssrc = ssrc
        self.parameter_sets: tuple[bytes, ...] = ()
        self.version = 0
        self.players: set[Player] = set()
        self.requests = 0
        self.over = False
        self.lost = 0

    @property
    def lost_in_all(self) -> int:
        """Pictures that clients were not sent because they were late; for any thread."""
        return self.lost + sum(player.lost for player in tuple(self.players))

    def describe(self, parameter_sets: tuple[bytes, ...]) -> None:
        """The pictures from now on have these parameter sets."""
        self.parameter_sets = parameter_sets
        self.version += 1

    def deliver(self, unit: AccessUnit) -> None:
        """Hand a picture to everybody; never waits for anybody."""
        for player in tuple(self.players):
            player.take(unit)

    def end(self) -> None:
        """Tell everybody that it is over."""
        self.over = True
        for player in tuple(self.players):
            player.end()
