"""WebRTC by WHEP: other people's clients see our numbers, and everybody who misbehaves is refused or forgotten."""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import json
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from packaging.requirements import Requirement

from pipeline.frame import Result
from pipeline.sinks import ServeOptions, open_output
from pipeline.sinks.base import Live
from tests.pipeline.painting import paint, read_number
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.chromium import browser, unexpected
from tests.pipeline.sinks.made import Take
from tests.pipeline.sinks.serving import SHOWN, on_air

aiortc = pytest.importorskip("aiortc")

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

SDP = "application/sdp"


class Numbers(Take):
    """Each picture carries its number."""

    def result(self, index: int) -> Result:
        result = super().result(index)
        planes = paint(index, self.height, self.width, result.frame.format)
        return replace(result, frame=replace(result.frame, planes=planes))


NUMBERS = Numbers("numbers", 180, 320, ticks=tuple(range(0, 1000 * 512, 512)), live=True)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def post(port: int, offer: str | bytes, path: str = "/cam/whep", **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = offer.encode() if isinstance(offer, str) else offer
    return ask(port, "POST", path, body, **{"Content_Type": SDP, **headers})


@contextmanager
def served(serve: ServeOptions | None = None, take: Take = SHOWN, rate: float = 25) -> Iterator[tuple[int, Live]]:
    port = free_port()
    sink = open_output(f"http://@:{port}/cam", serve=serve)
    assert isinstance(sink, Live)
    with on_air(sink, take, rate):
        until(lambda: ask(port, "GET", "/cam/info")[0] in (200, 401), 10, "an answer")
        yield port, sink


class Viewer:
    """aiortc as a client."""

    def __init__(self, sound: bool = False) -> None:
        self.connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        if sound:
            self.connection.addTransceiver("audio", direction="sendrecv")
        self.track = self.connection.addTransceiver("video", direction="recvonly").receiver.track
        self.place = ""
        self.answer = ""

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        sdp: str = self.connection.localDescription.sdp
        return sdp

    async def join(self, port: int) -> None:
        status, headers, body = await asyncio.to_thread(post, port, await self.offer())
        assert status == 201, body
        assert headers["Content-Type"] == SDP
        self.place, self.answer = headers["Location"], body.decode()
        await self.connection.setRemoteDescription(aiortc.RTCSessionDescription(self.answer, "answer"))

    def protocols(self) -> list[Any]:
        """Its sockets."""
        return list(self.connection.getReceivers()[0].transport.transport._connection._protocols)

    async def see(self, count: int) -> list[av.VideoFrame]:
        (receiver,) = [each for each in self.connection.getReceivers() if each.track and each.track.kind == "video"]
        return [await asyncio.wait_for(receiver.track.recv(), 15) for _ in range(count)]


def offer_of_aiortc() -> str:
    async def make() -> str:
        viewer = Viewer()
        try:
            return await viewer.offer()
        finally:
            await viewer.connection.close()

    return asyncio.run(make())


@pytest.fixture(scope="module")
def an_offer() -> str:
    return offer_of_aiortc()


# ---- those who watch


def test_a_client_sees_numbers_that_rise() -> None:
    """Two clients, one of which also offers sound; one ends by DELETE, the other with the stream."""

    async def watch(port: int, sink: Live) -> None:
        one, two = Viewer(), Viewer(sound=True)
        try:
            await one.join(port)
            await two.join(port)
            for viewer in (one, two):
                numbers = [read_number(frame.to_ndarray()[:180, :320]) for frame in await viewer.see(12)]
                assert all(a < b for a, b in pairwise(numbers)), numbers
            await asyncio.to_thread(until, lambda: sink.clients == 2, 5, "both clients")
            candidates = [line.split() for line in one.answer.splitlines() if line.startswith("a=candidate:")]
            assert [(parts[4], parts[7]) for parts in candidates] == [("127.0.0.1", "host")]
            assert "a=inactive" in two.answer
            assert (await asyncio.to_thread(ask, port, "DELETE", one.place))[0] == 200
            await asyncio.to_thread(until, lambda: sink.clients == 1, 5, "one client less")
            assert (await asyncio.to_thread(ask, port, "DELETE", one.place))[0] == 404
        finally:
            await one.connection.close()
            await two.connection.close()

    with served(take=NUMBERS) as (port, sink):
        asyncio.run(watch(port, sink))


def test_a_keyframe_comes_when_it_is_asked_for_and_after_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(port: int, sink: Live) -> None:
        viewer = Viewer()
        try:
            await viewer.join(port)
            (receiver,) = viewer.connection.getReceivers()
            assert not any(frame.key_frame for frame in (await viewer.see(20))[1:])
            await receiver._send_rtcp_pli(int(viewer.answer.partition("a=ssrc:")[2].split()[0]))
            assert sum(frame.key_frame for frame in await viewer.see(12)) == 1
            monkeypatch.setattr("pipeline.sinks.web.whep._UNSENT_BYTES", -1)  # as if the system took no more
            await asyncio.to_thread(until, lambda: sink.lost > 3, 5, "a loss")
            monkeypatch.setattr("pipeline.sinks.web.whep._UNSENT_BYTES", 1 << 18)
            seen = await viewer.see(25)
            numbers = [read_number(frame.to_ndarray()[:180, :320]) for frame in seen]
            at = next(place for place, (a, b) in enumerate(pairwise(numbers)) if b > a + 1) + 1
            assert seen[at].key_frame
        finally:
            await viewer.connection.close()

    with served(take=NUMBERS, rate=50) as (port, sink):
        asyncio.run(watch(port, sink))


def test_the_size_changes_while_somebody_watches() -> None:
    port = free_port()
    sink = open_output(f"http://@:{port}/cam")
    smaller = replace(NUMBERS, height=96, width=128)

    async def watch() -> list[tuple[int, int]]:
        viewer = Viewer()
        try:
            await viewer.join(port)
            sizes: list[tuple[int, int]] = []
            for take in (NUMBERS, smaller):
                sink.reconfigure(take.info())
                for index in range(12):
                    sink.write(take.result(index))
                    await asyncio.sleep(0.04)
            while len(sizes) < 15:
                frame = (await viewer.see(1))[0]
                sizes.append((frame.width, frame.height))
            return sizes
        finally:
            await viewer.connection.close()

    sink.open(NUMBERS.info())
    try:
        sizes = asyncio.run(watch())
    finally:
        sink.close()
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {(320, 180), (128, 96)}


def test_a_browser_plays_it(tmp_path: Path) -> None:
    """Switched on, the page shows the video instead of pictures; switched off, and when the stream ends, pictures."""
    with browser(tmp_path) as tab:
        with served(take=NUMBERS) as (port, sink):
            tab.go(f"http://127.0.0.1:{port}/cam/")
            tab.until("document.documentElement.dataset.frames > 1")
            tab.click("#by-webrtc")
            tab.until("document.getElementById('video').currentTime > 0")
            assert tab.ask("[video.videoWidth, video.videoHeight, document.querySelector('canvas').hidden]") == [
                320, 180, True,
            ]  # fmt: skip
            numbers = []
            for _ in range(2):
                numbers.append(read_number(tab.picture("video").mean(axis=-1)))
                time.sleep(0.2)
            assert numbers[0] < numbers[1]
            until(lambda: sink.clients == 1, 5, "video alone")
            assert tab.ask("document.getElementById('state').hidden") is True
            tab.click("#by-webrtc")
            frames = int(tab.ask("document.documentElement.dataset.frames"))
            tab.until(f"document.documentElement.dataset.frames > {frames + 3}")
            assert tab.ask("document.querySelector('canvas').offsetParent !== null") is True
            until(lambda: sink.clients == 1, 5, "pictures alone")
            tab.click("#by-webrtc")
            tab.until("document.getElementById('video').currentTime > 0")
        tab.until("!document.getElementById('by-webrtc').checked && !document.getElementById('state').hidden")
    assert not unexpected(tab), tab.complaints


def sockets() -> int:
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of this listing
            count += str(each.readlink()).startswith("socket:")
    return count


def test_nothing_is_left_of_viewers_when_the_stream_ends(an_offer: str) -> None:
    """One who is connected and one who never came: no thread, no socket."""

    async def watch() -> None:
        viewer = Viewer()
        try:
            with served() as (port, sink):
                assert (await asyncio.to_thread(post, port, an_offer))[0] == 201
                await viewer.join(port)
                await viewer.see(2)
                assert sink.clients == 1
        finally:
            await viewer.connection.close()

    gc.collect()
    before = set(threading.enumerate()), sockets()
    asyncio.run(watch())
    assert (set(threading.enumerate()), sockets()) == before


def test_a_viewer_that_vanishes_is_forgotten(monkeypatch: pytest.MonkeyPatch, an_offer: str) -> None:
    """One who stops talking, and eight who never came and stood in the way of others."""
    monkeypatch.setattr("pipeline.sinks.web.whep.JOINING", 8)

    async def watch(port: int, sink: Live) -> None:
        viewer = Viewer()
        try:
            await viewer.join(port)
            await viewer.see(2)
            assert sink.clients == 1
            for _ in range(7):
                assert (await asyncio.to_thread(post, port, an_offer))[0] == 201
            assert (await asyncio.to_thread(post, port, an_offer))[0] == 503
            monkeypatch.setattr("pipeline.sinks.web.whep.GONE_S", 1.0)
            for each in viewer.protocols():
                each.transport.close()  # as a machine that loses its network
            await asyncio.to_thread(until, lambda: sink.clients == 0, 10, "the viewer's end")
            assert (await asyncio.to_thread(post, port, an_offer))[0] == 201
        finally:
            await viewer.connection.close()

    with served() as (port, sink):
        asyncio.run(watch(port, sink))


def test_those_who_never_come_take_few_places(monkeypatch: pytest.MonkeyPatch, an_offer: str) -> None:
    monkeypatch.setattr("pipeline.sinks.web.whep.JOIN_S", 0.6)
    with served() as (port, _):
        assert [post(port, an_offer)[0] for _ in range(4)] == [201, 201, 503, 503]
        until(lambda: post(port, an_offer)[0] == 201, 5, "a place that is free again")


def test_what_is_installed_is_what_was_tried() -> None:
    """Private parts of these packages are used, so their versions have an upper bound."""
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    for line in extras["optional-dependencies"]["webrtc"]:
        wanted = Requirement(line)
        assert "<" in str(wanted.specifier)
        assert version(wanted.name) in wanted.specifier


# ---- those who are refused


def test_what_is_no_offer_is_refused(an_offer: str) -> None:
    twice = an_offer + an_offer[an_offer.index("m=video") :]
    refused = {
        b"": 400,
        b"v=0\r\n": 400,
        b"\xff\xfe": 400,
        twice.encode(): 400,
        an_offer.replace("m=video", "m=application").encode(): 400,
        an_offer.replace("a=fingerprint", "a=finger").encode(): 400,
        an_offer.replace("a=ice-pwd", "a=ice-pw").encode(): 400,
        an_offer.replace("m=video ", "m=video x").encode(): 400,
        an_offer.replace("H264", "H265").encode(): 406,
        b"x" * 20_000: 413,
    }
    with served() as (port, sink):
        for body, status in refused.items():
            assert post(port, body)[0] == status, body[:80]
        assert post(port, an_offer, Content_Type="text/plain")[0] == 415
        assert ask(port, "DELETE", "/cam/whep/nobody")[0] == 404
        for method, path in (("POST", "/cam/info"), ("POST", "/cam/"), ("DELETE", "/cam/whep"), ("PATCH", "/cam/whep"),
                             ("PUT", "/cam/whep"), ("POST", "/whep")):  # fmt: skip
            assert ask(port, method, path)[0] == 405, (method, path)
        assert sink.clients == 0
        assert post(port, an_offer)[0] == 201


def test_offers_that_are_damaged_do_no_harm(an_offer: str) -> None:
    """Lines left out, doubled, cut and altered: each is answered, and the next good one is taken."""
    noise = np.random.default_rng(5)
    lines = an_offer.splitlines()
    with served() as (port, _):
        for _round in range(40):
            damaged = list(lines)
            for _ in range(3):
                at = int(noise.integers(len(damaged)))
                line = damaged[at]
                cut = int(noise.integers(len(line) + 1))
                damaged[at : at + 1] = ([], [line, line], [line[:cut]], [line[:cut] + "9" + line[cut + 1 :]])[
                    int(noise.integers(4))
                ]
            status, headers, _body = post(port, "\r\n".join((*damaged, "")))
            assert status in (201, 400, 406), damaged
            if status == 201:
                assert ask(port, "DELETE", headers["Location"])[0] == 200
        until(lambda: post(port, an_offer)[0] == 201, 10, "an answer to a good offer")


def test_strangers_are_refused(an_offer: str) -> None:
    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    with served(ServeOptions(auth="viewer:word")) as (port, _):
        good = basic("viewer:word")
        assert post(port, an_offer)[0] == 401
        assert post(port, an_offer, Authorization=basic("viewer:wrong"))[0] == 401
        assert ask(port, "DELETE", "/cam/whep/x")[0] == 401
        assert post(port, an_offer, Authorization=good, Origin="http://evil.example")[0] == 403
        assert post(port, an_offer, Authorization=good, Host="evil.example")[0] == 421
        assert post(port, an_offer, Authorization=good, Origin=f"http://127.0.0.1:{port}")[0] == 201


def test_without_aiortc_it_is_told_what_to_install(an_offer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with served() as (port, _):
        status, _, body = post(port, an_offer)
        assert (status, body.count(b"\n")) == (501, 1)
        assert b"pip install 'deeplab-stream[webrtc]'" in body
        assert json.loads(ask(port, "GET", "/cam/info")[2])["webrtc"] is False
