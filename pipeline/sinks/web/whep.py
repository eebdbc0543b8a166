"""Live video by WebRTC for viewers who ask by WHEP (draft-ietf-wish-whep); needs the package aiortc."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast
from urllib.parse import quote

from aioice import Candidate, Connection
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.exceptions import OperationError
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.stats import RTCTransportStats
from av.packet import Packet
from av.stream import Stream

from pipeline.sinks.rtsp.h264 import CLOCK, AccessUnit
from pipeline.sinks.serve.http import Response
from pipeline.sinks.serve.message import Request

log = logging.getLogger(__name__)

VIEWERS = 8
"""Each costs its own encryption and sending."""

JOINING = 2
"""Viewers of one peer that are not connected yet."""

JOIN_S = 6.0
"""How long one may take for that."""

GONE_S = 10.0
"""A viewer of whom nothing was heard for so long has gone, or never came."""

_TICK_S = 0.5
_CLOSE_S = 3.0
_BEHIND = 3
"""Pictures that may wait for one viewer's sender."""

_UNSENT_BYTES = 1 << 18
"""What may wait for the system to take it, which then is slower than the stream."""

_KIND = "application/sdp"


class _Track(MediaStreamTrack):
    """What one viewer is sent: pictures that are encoded already."""

    kind = "video"

    def __init__(self, viewers: WhepViewers) -> None:
        super().__init__()
        self.connection: Connection | None = None
        self._viewers = viewers
        self._units: deque[AccessUnit] = deque()
        self._came = asyncio.Event()
        self._keyless = True

    async def recv(self) -> Packet[Stream]:
        """The next picture; asked for the first time when the viewer is connected."""
        self._viewers.begin(self)
        while not self._units:
            self._came.clear()
            await self._came.wait()
        unit = self._units.popleft()
        packet: Packet[Stream] = Packet(unit.picture)
        packet.pts, packet.time_base = unit.tick, Fraction(1, CLOCK)
        return packet

    def take(self, unit: AccessUnit) -> bool:
        """Have it sent; False where it is left out, since earlier ones still wait: it goes on at a keyframe."""
        if len(self._units) >= _BEHIND or self._unsent() > _UNSENT_BYTES:
            self._units.clear()
            self._keyless = True
            self._viewers.want_keyframe()
            return False
        if self._keyless and not unit.keyframe:
            return True
        self._keyless = False
        self._units.append(unit)
        self._came.set()
        return True

    def _unsent(self) -> int:
        if self.connection is None:
            return 0
        wires = (cast(asyncio.WriteTransport, each.transport) for each in self.connection._protocols)
        return sum(each.get_write_buffer_size() for each in wires)


@dataclass(eq=False, slots=True)
class _Viewer:
    connection: RTCPeerConnection
    track: _Track
    peer: str
    over: asyncio.Event = field(default_factory=asyncio.Event)


class WhepViewers:
    """Those who watch one stream by WebRTC; used in the service thread but where it says so.

    A viewer sends an offer (SDP) and gets the answer.  Its candidates are not used: it finds the server
    at the very address that it has asked at, so the server opens no other, sends nothing to an address that somebody
    merely names, and asks no STUN server.

    Args:
        name: the output, for messages.

    Attributes:
        requests: how often somebody began to wait for a keyframe; for any thread.
        lost: pictures that viewers did not get because they were late; for any thread.
    """

    def __init__(self, name: str) -> None:
        self.requests = 0
        self.lost = 0
        self._name = name
        self._viewers: dict[str, _Viewer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: set[_Track] = set()
        self._over = False

    @property
    def viewers(self) -> int:
        """How many are connected; for any thread."""
        return len(self._watching)

    def begin(self, track: _Track) -> None:
        """A viewer is there, and is sent pictures from the next keyframe on."""
        if track not in self._watching:
            self._watching.add(track)
            self.want_keyframe()

    def want_keyframe(self) -> None:
        """Somebody cannot go on without."""
        self.requests += 1

    def deliver(self, unit: AccessUnit) -> None:
        """Hand a picture to everybody; never waits for anybody."""
        for track in self._watching:
            self.lost += not track.take(unit)

    async def answer(self, request: Request, local: str, peer: str) -> Response:
        """The answer to an offer.

        Args:
            request: POST with the offer.
            local: the address at which the viewer has reached the server.
            peer: whose viewer it is.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
            return Response(f"an offer is {_KIND}\n".encode(), status=415)
        theirs = [each for each in self._viewers.values() if each.peer == peer and not each.over.is_set()]
        joining = sum(each.track not in self._watching for each in theirs)
        if self._over or len(self._viewers) >= VIEWERS or joining >= JOINING:
            return Response(b"there are too many viewers\n", status=503, headers={"Retry-After": "10"})
        try:
            offer = _without_candidates(request.body)
        except ValueError as error:
            return Response(f"{error}\n".encode(), status=400)
        viewer = _Viewer(RTCPeerConnection(RTCConfiguration(iceServers=[])), _Track(self), peer)
        token = secrets.token_urlsafe(16)
        self._viewers[token] = viewer
        task = asyncio.create_task(self._attend(token, viewer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            answer = await self._negotiate(viewer, offer, local)
        except OperationError:
            viewer.over.set()
            return Response(b"video comes as H.264, which the offer does not take\n", status=406)
        except Exception as error:  # whatever the parser stumbles over, it is the offer's fault
            log.info("%s: an offer is not understood: %s: %s", self._name, type(error).__name__, error)
            viewer.over.set()
            return Response(b"the offer is not understood\n", status=400)
        except BaseException:
            viewer.over.set()
            raise
        return Response(answer.encode(), _KIND, 201, {"Location": f"/{quote(request.path)}/{token}"})

    def hang_up(self, token: str) -> Response:
        """End the session of that name."""
        viewer = self._viewers.get(token)
        if viewer is None or viewer.over.is_set():
            return Response(b"there is no such session\n", status=404)
        viewer.over.set()
        return Response(b"")

    async def end(self) -> None:
        """There is no more: hang up."""
        self._over = True
        for viewer in self._viewers.values():
            viewer.over.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S + 1)

    async def _negotiate(self, viewer: _Viewer, offer: str, local: str) -> str:
        connection = viewer.connection
        video = connection.addTransceiver(viewer.track, direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([each for each in known if each.mimeType in ("video/H264", "video/rtx")])
        vars(video.sender)["_send_keyframe"] = self.want_keyframe  # its own encoder is not used
        await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for each in connection.getTransceivers():
            if each is not video:
                each.direction = "inactive"  # else it would be decoded
            _gather_at(local, each.receiver.transport.transport.iceGatherer)
        viewer.track.connection = video.sender.transport.transport._connection
        await connection.setLocalDescription()
        answer: str = connection.localDescription.sdp
        return answer

    async def _attend(self, token: str, viewer: _Viewer) -> None:
        loop = asyncio.get_running_loop()
        received, began = 0, loop.time()
        heard = began
        try:
            while not viewer.over.is_set() and viewer.connection.connectionState not in ("failed", "closed"):
                now, before = loop.time(), received
                received = await _received(viewer.connection)
                if received != before:
                    heard = now
                if now - heard > GONE_S or (viewer.track not in self._watching and now - began > JOIN_S):
                    log.info("%s: a viewer has gone", self._name)
                    break
                try:
                    await asyncio.wait_for(viewer.over.wait(), _TICK_S)
                except TimeoutError:
                    continue
        finally:
            self._watching.discard(viewer.track)
            try:
                await asyncio.wait_for(viewer.connection.close(), _CLOSE_S)
            except Exception as error:
                log.warning("%s: a viewer's connection does not end: %s", self._name, error or type(error).__name__)
            del self._viewers[token]


async def _received(connection: RTCPeerConnection) -> int:
    """Packets that came from a viewer; browsers report about once a second."""
    told = await connection.getStats()
    return sum(each.packetsReceived for each in told.values() if isinstance(each, RTCTransportStats))


def _gather_at(address: str, gatherer: RTCIceGatherer) -> None:
    """Have it listen at one address instead of all but loopback's."""
    connection = gatherer._connection
    gather = type(connection).get_component_candidates

    async def gather_there(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:  # noqa: ARG001
        found: list[Candidate] = await gather(connection, component, [address], timeout)
        return found

    vars(connection)["get_component_candidates"] = gather_there


def _without_candidates(body: bytes) -> str:
    """An offer of one video, with a sound or without, as text.

    Raises:
        ValueError: it is something else.
    """
    try:
        lines = body.decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError("the offer is not UTF-8") from None
    media = sorted(line[2:].partition(" ")[0] for line in lines if line.startswith("m="))
    if media not in (["video"], ["audio", "video"]):
        raise ValueError("an offer asks for one video, with a sound or without")
    if not any(line.startswith("a=fingerprint:") for line in lines):
        raise ValueError("an offer names the fingerprint of its certificate")
    kept = (line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates")))
    return "".join(f"{line}\r\n" for line in kept)
