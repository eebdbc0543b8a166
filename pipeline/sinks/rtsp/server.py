"""The RTSP server (RFC 2326): what clients ask, and what they are answered."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from pipeline.sinks.rtsp.h264 import TRACK, AccessUnit, description
from pipeline.sinks.rtsp.stream import Datagrams, Interleaved, LiveStream, Player, Wire
from pipeline.sinks.serve.address import Address
from pipeline.sinks.serve.admission import network_of
from pipeline.sinks.serve.auth import REALM, Credentials
from pipeline.sinks.serve.message import BadRequest, Request, read_request
from pipeline.sinks.serve.server import FIRST_REQUEST_S, IDLE_S, Connection, Server

log = logging.getLogger(__name__)

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    431: "Request Header Fields Too Large",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "RTSP Version Not Supported",
    551: "Option not supported",
}
METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER")

KEYFRAME_TIMEOUT_S = 2.0
"""How long the answer to PLAY waits for the keyframe that it tells of."""

_WRONG_TRIES = 4

Headers = Mapping[str, str]


class RtspServer(Server[LiveStream]):
    """Serves live streams by name.

    Args:
        address: where.
        credentials: who may look; None for everybody.
    """

    def __init__(self, address: Address, credentials: Credentials | None) -> None:
        super().__init__(address, lambda _, reader, writer: RtspConnection(self, reader, writer))
        self.credentials = credentials


class RtspConnection(Connection):
    """One client; it may set up one stream, which ends with the connection."""

    def __init__(self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._server = server
        self._nonce = secrets.token_hex(16)
        self._wrong = 0
        self._sequence = ""
        self._player: Player | None = None
        self._session = ""
        self._interleaved = False
        self._methods: dict[str, Callable[[Request], Awaitable[None]]] = {
            "OPTIONS": self._options,
            "DESCRIBE": self._describe,
            "SETUP": self._setup,
            "PLAY": self._play,
            "PAUSE": self._pause,
            "TEARDOWN": self._teardown,
            "GET_PARAMETER": self._keep_alive,
            "SET_PARAMETER": self._keep_alive,
        }

    # ---- the connection

    async def serve(self) -> None:
        """Answer requests until the client leaves, breaks the rules or asks to end."""
        while not self.writer.is_closing():
            first = await self.reader.readexactly(1)
            if first == b"$":  # a receiver report within the connection
                head = await self.reader.readexactly(3)
                await self.reader.readexactly(int.from_bytes(head[1:]))
                if self._player is not None:
                    self._heard()
                continue
            if first in b"\r\n":
                continue
            self._sequence = ""
            try:
                await self._answer_to(await read_request(self.reader, first))
            except BadRequest as error:
                self._answer(error.status, {"Connection": "close"})
                return
            await self.writer.drain()  # one that asks and does not read is asked nothing more
            await asyncio.sleep(0)  # however fast it asks

    def _heard(self) -> None:
        """The client is alive."""
        self.deadline = time.monotonic() + IDLE_S

    def tick(self, now: float) -> None:
        """Also send the reports that are due."""
        player = self._player
        if player is not None and player.playing:
            if self._interleaved:  # whether it takes what it is sent tells enough
                self._heard()
            player.report(now)
        super().tick(now)

    def leave(self) -> None:
        """The player goes with its connection."""
        if self._player is not None:
            self._player.close()
            self._player = None

    # ---- requests

    async def _answer_to(self, request: Request) -> None:
        self._sequence = request.headers.get("cseq", "")
        if not re.fullmatch(r"[0-9]{1,10}", self._sequence):
            self._sequence = ""
            raise BadRequest(400, "without CSeq")
        if request.protocol != "RTSP" or request.version != "1.0":
            raise BadRequest(505, "another protocol")
        if "require" in request.headers:  # nothing beyond the protocol is known here
            self._answer(551, {"Unsupported": request.headers["require"]})
            return
        method = self._methods.get(request.method)
        if method is None:
            self._answer(501, {"Public": ", ".join(METHODS)})
            return
        if not await self._allowed(request):
            return
        self.known = self.known or request.method != "OPTIONS"  # which anybody may ask
        if self.known:
            self._heard()
        said = request.headers.get("session", "").partition(";")[0].strip()
        if said and said != self._session:
            self._answer(454)
            return
        await method(request)

    async def _allowed(self, request: Request) -> bool:
        credentials = self._server.credentials
        if credentials is None or request.method == "OPTIONS":
            return True
        given = request.headers.get("authorization")
        if given is not None:
            peer = network_of(self.peer)
            if not self.known and not await self._server.guessing.turn(peer, self.gone):
                raise BadRequest(503, "there were too many wrong tries")
            if credentials.allows_digest(given, request.method, request.uri, self._nonce):
                self._wrong = 0
                return True
            self._wrong += 1
            self._server.guessing.wrong(peer)
            self._server.tally.note(f"wrong credentials from {peer}")
            if self._wrong >= _WRONG_TRIES:
                raise BadRequest(401, "wrong credentials")
        self.deadline = min(self.deadline, time.monotonic() + FIRST_REQUEST_S)
        self._answer(401, {"WWW-Authenticate": f'Digest realm="{REALM}", nonce="{self._nonce}", algorithm="MD5"'})
        return False

    async def _options(self, _: Request) -> None:
        self._answer(200, {"Public": ", ".join(METHODS)})

    async def _describe(self, request: Request) -> None:
        name, stream = self._find(request)
        if stream is None:
            self._answer(404)
            return
        text = description(stream.parameter_sets, name, version=stream.version, ipv6=":" in self.peer)
        base = request.uri.partition("?")[0].rstrip("/")
        self._answer(200, {"Content-Type": "application/sdp", "Content-Base": f"{base}/"}, text.encode())

    async def _setup(self, request: Request) -> None:
        _, stream = self._find(request)
        if stream is None:
            self._answer(404)
        elif self._player is not None:
            self._answer(455 if self._player.playing else 459)
        else:
            wire, transport = await self._wire(request.headers.get("transport", ""))
            if wire is None:
                self._answer(461)
                return
            self._interleaved = isinstance(wire, Interleaved)
            self._player = Player(stream, wire, self.writer.close)
            self._session = secrets.token_hex(8)
            self._answer(200, {"Transport": f"{transport};ssrc={stream.ssrc:08X}"})

    async def _wire(self, wanted: str) -> tuple[Wire | None, str]:
        """The first transport that the client can take and we can, and what it is told of it."""
        for each in wanted.split(",")[:8]:
            parts = [part.strip() for part in each.split(";")]
            if "multicast" in parts or any(part.lower().replace('"', "") == "mode=record" for part in parts):
                continue
            if parts[0].upper() == "RTP/AVP/TCP":
                channels = _pair(parts, "interleaved", 0, 255) or (0, 1)
                wire = Interleaved(self.writer.transport, self.outflow, channels)
                return wire, f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
            ports = _pair(parts, "client_port", 1, 65535)
            if parts[0].upper() in ("RTP/AVP", "RTP/AVP/UDP") and ports is not None:
                return await self._datagrams(ports)
        return None, ""

    async def _datagrams(self, ports: tuple[int, int]) -> tuple[Wire | None, str]:
        wire = Datagrams(self.peer, ports, self._heard)
        try:
            await wire.open(self.writer.get_extra_info("sockname")[0])
        except OSError as error:
            log.warning("%s: no UDP for %s: %s", self._server.address, self.peer, error)
            wire.close()
            return None, ""
        mine, theirs = wire.ports, ports
        told = f"client_port={theirs[0]}-{theirs[1]};server_port={mine[0]}-{mine[1]}"
        return wire, f"RTP/AVP/UDP;unicast;{told}"

    async def _play(self, request: Request) -> None:
        player = self._player
        if player is None or player.playing or player.stream.over:
            self._answer(455)
            return
        url = request.uri.partition("?")[0].rstrip("/")
        if not url.endswith(f"/{TRACK}"):
            url = f"{url}/{TRACK}"
        answered = asyncio.Event()

        def started(unit: AccessUnit | None) -> None:
            headers = {"Range": "npt=now-"}
            if unit is not None:
                headers["RTP-Info"] = f"url={url};seq={unit.sequence};rtptime={unit.timestamp}"
            self._answer(200, headers)
            answered.set()

        player.play(started)
        try:
            await asyncio.wait_for(answered.wait(), KEYFRAME_TIMEOUT_S)  # answers keep the order of requests
        except TimeoutError:
            player.answer_now()

    async def _pause(self, _: Request) -> None:
        if self._player is None:
            self._answer(455)
            return
        self._player.pause()
        self._answer(200)

    async def _teardown(self, _: Request) -> None:
        if self._player is None:
            self._answer(454)
            return
        self.leave()
        self._answer(200)
        self._session = ""

    async def _keep_alive(self, _: Request) -> None:
        self._answer(200)

    def _find(self, request: Request) -> tuple[str, LiveStream | None]:
        name = request.path.removesuffix(TRACK).strip("/")
        return name, self._server.mounts.get(name)

    def _answer(self, status: int, headers: Headers | None = None, body: bytes = b"") -> None:
        if self.writer.is_closing():
            return
        lines = [f"RTSP/1.0 {status} {REASONS[status]}"]
        if self._sequence:
            lines.append(f"CSeq: {self._sequence}")
        if self._session:
            lines.append(f"Session: {self._session};timeout={IDLE_S:.0f}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)


def _pair(parts: list[str], name: str, least: int, most: int) -> tuple[int, int] | None:
    """Two numbers of a transport's parameter, such as ``client_port=5000-5001``."""
    for part in parts:
        match = re.fullmatch(rf"{name}=([0-9]{{1,5}})(?:-([0-9]{{1,5}}))?", part)
        if match is not None:
            first = int(match[1])
            second = int(match[2]) if match[2] else first + 1
            if least <= first <= most and least <= second <= most and first != second:
                return first, second
    return None
