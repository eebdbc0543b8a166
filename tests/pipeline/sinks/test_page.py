"""The live page: in a real browser, and request by request."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.frame import Result
from pipeline.sinks import ServeOptions, open_output, wants_plain
from pipeline.sinks.base import Live, Sink
from tests.pipeline.certificates import self_signed
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.chromium import Browser, browser, unexpected
from tests.pipeline.sinks.made import TAKES, Take, labels_of
from tests.pipeline.sinks.serving import NOISE, on_air, page_pieces, play

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_error_logged")]

LARGE = replace(TAKES[0], width=320, height=180, live=True)


GUARDED = ServeOptions(auth="viewer:pw")


class Still(Take):
    """Always the first picture, with its plain one."""

    def result(self, index: int) -> Result:  # noqa: ARG002
        first = super().result(0)
        return replace(first, picture=first.frame)


STILL = Still("still", 180, 320, live=True)


@contextmanager
def served(serve: ServeOptions | None = None, take: Take = LARGE, path: str = "") -> Iterator[tuple[int, Sink]]:
    port = free_port()
    sink = open_output(f"http://@:{port}/{path}", serve=serve)
    with on_air(sink, take):
        until(lambda: _listens(port), 10, "a listening port")
        yield port, sink


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(
    port: int, path: str = "/", host: str = "127.0.0.1", method: str = "GET", **headers: str
) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


# ---- in a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


def expected(take: Take, alpha: float, hidden: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """What the page must show: the plain picture in RGB, with the labels' colours over it."""
    result = take.result(0)
    rgb = np.stack([plane_rgb(result)[channel] for channel in range(3)], axis=-1)
    palette = np.array(take.info().labels.palette, float)
    over = palette[result.labels]
    opaque = np.where(np.isin(result.labels, hidden), 0.0, alpha)[..., None]
    return rgb * (1 - opaque) + over * opaque


def plane_rgb(result: Result) -> list[NDArray[np.float64]]:
    frame = result.frame
    y, u, v = (np.asarray(plane, float) for plane in frame.planes)
    u, v = (np.kron(plane, np.ones((2, 2)))[: y.shape[0], : y.shape[1]] - 128 for plane in (u, v))
    y = (y - 16) * 255 / 219
    kr, kb = frame.colour.luma_weights
    u, v = u * 255 / 224, v * 255 / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return [np.clip(c, 0, 255) for c in (red, (y - kr * red - kb * blue) / (1 - kr - kb), blue)]


def check(tab: Browser, want: NDArray[np.float64]) -> None:
    """The canvas shows that, but for edges."""
    until(lambda: _difference(tab, want) < 6, 5, "the picture")


def _difference(tab: Browser, want: NDArray[np.float64]) -> float:
    seen = Image.fromarray(tab.picture()).resize((want.shape[1], want.shape[0]), Image.Resampling.BOX)
    return float(np.quantile(np.abs(np.asarray(seen, float) - want).max(axis=-1), 0.9))


def test_what_is_seen_and_switched(tab: Browser) -> None:
    """Overlay, opacity, a class, mask and picture, each at once, on this page alone and without a complaint."""
    with served(take=STILL) as (port, sink):
        assert isinstance(sink, Live)
        tab.complaints.clear()
        tab.go(f"http://127.0.0.1:{port}/")
        tab.until("document.documentElement.dataset.frames > 3")
        assert sink.clients == 1
        assert tab.ask("document.title") == "still"
        assert tab.ask("document.getElementById('state').hidden") is True
        check(tab, expected(STILL, 0.5))
        largest = int(np.bincount(labels_of(0, 180, 320).ravel()).argmax())
        assert tab.ask(f"document.getElementById('share-{largest}').textContent").endswith("%")
        tab.click(f"#class-{largest}")
        check(tab, expected(STILL, 0.5, (largest,)))
        tab.click(f"#class-{largest}")
        tab.ask("o = document.getElementById('opacity'), o.value = 100, o.dispatchEvent(new Event('input')), 0")
        check(tab, expected(STILL, 1.0))
        tab.click("input[value=picture]")
        check(tab, expected(STILL, 0.0))
        tab.ask("o.value = 30, o.dispatchEvent(new Event('input')), 0")
        tab.click("input[value=mask]")
        check(tab, expected(STILL, 1.0))
        tab.click("#show-legend")
        assert tab.ask("document.getElementById('legend').offsetParent === null") is True
        piece = page_pieces(f"http://127.0.0.1:{port}/frames", 1)[0]
        assert Image.open(io.BytesIO(piece[2])).info.get("transparency") is None, "nobody else's labels change"
        tab.until("parseFloat(document.getElementById('rate').textContent) > 5")
        assert 0 <= float(tab.ask("parseFloat(document.getElementById('latency').textContent)")) < 3000
        assert tab.ask("document.getElementById('viewers').textContent") in ("1", "2")
    tab.until("!document.getElementById('state').hidden")
    assert not unexpected(tab), tab.complaints


def test_the_page_finds_its_stream_again(tab: Browser) -> None:
    port = free_port()
    with on_air(open_output(f"http://@:{port}/"), STILL):
        until(lambda: _listens(port), 10)
        tab.go(f"http://127.0.0.1:{port}/")
        tab.until("document.documentElement.dataset.frames > 1")
    tab.until("!document.getElementById('state').hidden")
    with on_air(open_output(f"http://@:{port}/"), LARGE):
        tab.until("document.getElementById('state').hidden && document.title === 'plain'")


def test_an_address_with_credentials(tab: Browser) -> None:
    """What a bookmark holds: fetch() refuses such an address, so the page asks at the one without."""
    with served(GUARDED, STILL, "my cam") as (port, sink):
        tab.complaints.clear()
        tab.go(f"http://viewer:pw@localhost:{port}/my%20cam/")
        tab.until("document.documentElement.dataset.frames > 1")
        assert tab.complaints == []
        assert sink.name.endswith("/my%20cam")


def test_the_page_says_why_it_shows_nothing(tab: Browser) -> None:
    port = free_port()
    state = "document.getElementById('state')"
    with on_air(open_output(f"http://@:{port}/"), STILL):
        until(lambda: _listens(port), 10)
        tab.go(f"http://127.0.0.1:{port}/")
        tab.until("document.documentElement.dataset.frames > 1")
    tab.until(f"{state}.textContent.startsWith('the server does not answer (')")
    with socket.create_server(("127.0.0.1", port)) as other:
        other.settimeout(10)
        for status, body, told in (
            (503, "come later", "the server says 503: come later;"),
            (200, "{a}", "SyntaxError: "),
        ):
            with other.accept()[0] as wire:
                wire.recv(4096)
                head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                wire.sendall((head + body).encode())
                tab.until(f"{state}.textContent.startsWith('{told}')")
        assert tab.ask(f"{state}.hidden") is False


def test_each_switch_stands_beside_its_label(tab: Browser) -> None:
    with served(take=STILL) as (port, _):
        tab.go(f"http://127.0.0.1:{port}/")
        for width in (1000, 1050, 1100, 1400, 400):
            tab.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False)
            heights = tab.ask(
                "Array.from(document.querySelectorAll('#views label'), label => {"
                " const range = document.createRange(); range.selectNodeContents(label);"
                " return range.getBoundingClientRect().height })"
            )
            assert max(heights) < 30, f"{heights} at a width of {width}"
        tab.call("Emulation.clearDeviceMetricsOverride")


# ---- what is sent


def test_pieces_carry_picture_labels_and_numbers() -> None:
    with served() as (port, sink):
        assert isinstance(sink, Live)
        told = json.loads(get(port, "/info")[2])
        assert told["classes"][3] == {"name": "road", "colour": [128, 64, 128]}
        pieces = page_pieces(f"http://127.0.0.1:{port}/frames", 5)
        numbers = [said["number"] for said, _, _ in pieces]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        for said, jpeg, png in pieces:
            labels = np.array(Image.open(io.BytesIO(png)))
            index = (said["number"] - 1) % len(LARGE.ticks)
            np.testing.assert_array_equal(labels, labels_of(index, 180, 320))
            assert Image.open(io.BytesIO(jpeg)).size == (320, 180)
            assert 0 <= said["inside"] < 5000
            assert sum(said["shares"]) == pytest.approx(1, abs=0.01)
        until(lambda: sink.clients == 0, 5, "the end of the viewer")


def test_players_get_the_overlay_as_it_is_rendered() -> None:
    with served() as (port, _):
        frames = play(f"http://127.0.0.1:{port}/overlay.mjpeg", 5, f="mpjpeg")
        assert [(frame.width, frame.height) for frame in frames] == [(320, 180)] * 5


def test_several_pages_share_a_port() -> None:
    port = free_port()
    door, yard = (open_output(f"http://@:{port}/{name}") for name in ("door", "yard"))
    with on_air(door), on_air(yard):
        until(lambda: _listens(port), 10)
        status, _, body = get(port)
        assert (status, body.count(b"<a ")) == (200, 2)
        assert get(port, "/door")[1]["Location"] == "/door/"
        assert b"<canvas" in get(port, "/door/")[2]
        assert json.loads(get(port, "/yard/info")[2])["model"] == "street"
        assert get(port, "/info")[0] == 404


def test_headers_are_strict_and_no_script_is_inline() -> None:
    with served() as (port, _):
        for path in ("/", "/page.js", "/page.css", "/info", "/icon.svg", "/nothing"):
            status, headers, body = get(port, path)
            assert status == (404 if path == "/nothing" else 200)
            policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert int(headers["Content-Length"]) == len(body)
        page = get(port)[2]
        assert page.count(b"<script") == 1
        assert b"<script src=" in page
        assert b"style=" not in page
        status, headers, body = get(port, "/", method="HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(page)))


def test_names_and_origins_that_are_not_ours_are_refused() -> None:
    with served(ServeOptions(hosts=("street.example",))) as (port, _):
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "street.example", "LOCALHOST"):
            assert get(port, Host=host)[0] == 200, host
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "a b", ""):
            assert get(port, Host=host)[0] in (400, 421), host
        assert get(port, "/info", Origin=f"http://127.0.0.1:{port}")[0] == 200
        for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
            assert get(port, "/info", Origin=origin)[0] == 403, origin
        assert get(port, "/info", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403
        assert get(port, "/overlay.mjpeg", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
        assert get(port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


RUBBISH = {
    b"GET / HTTP/1.1\r\n\r\n": 421,
    b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n": 405,
    b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n": 505,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc": 413,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n": 413,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n": 501,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n": 400,
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n": 431,
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /%2e%2e/sink.py HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /jpeg.py HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
}


def test_rubbish_is_refused() -> None:
    with served() as (port, _):
        for data, status in RUBBISH.items():
            with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
                wire.sendall(data)
                head = wire.recv(4096)
            assert head.startswith(b"HTTP/1.1 %d " % status), (data[:60], head[:60])


def test_a_slow_viewer_loses_its_own_pictures() -> None:
    with served(take=NOISE) as (port, sink):
        assert isinstance(sink, Live)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.sendall(b"GET /frames HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: sink.lost > 3, 30, "a loss")
            numbers = [said["number"] for said, _, _ in page_pieces(f"http://127.0.0.1:{port}/frames", 20)]
            assert numbers == list(range(numbers[0], numbers[0] + 20)), "the other viewer gets everything"


# ---- who may look


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls_and_credentials(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    port = free_port()
    serve = ServeOptions(auth="viewer:wörd", tls_cert=cert, tls_key=key)
    trusting = ssl.create_default_context(cafile=str(cert))
    assert open_output("http://@:8080/", serve=serve).name == "https://@:8080/"
    with on_air(open_output(f"https://@0.0.0.0:{port}/", serve=serve)):
        until(lambda: _listens(port), 10)

        def ask(**headers: str) -> int:
            connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=trusting)
            connection.request("GET", "/info", headers=headers)
            status = connection.getresponse().status
            connection.close()
            return status

        def basic(text: str) -> str:
            return "Basic " + base64.b64encode(text.encode()).decode()

        assert ask() == 401
        assert ask(Authorization=basic("viewer:word")) == 401
        assert ask(Authorization=basic("nobody:")) == 401
        assert ask(Authorization="Basic ====") == 401
        assert ask(Authorization=basic("viewer:wörd")) == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port)


def test_what_cannot_be_served_is_refused_at_once(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    (tmp_path / "junk.pem").write_text("junk")
    for uri, serve, said in (
        ("http://@0.0.0.0:8080/", ServeOptions(), "--auth"),
        ("http://@0.0.0.0:8080/", ServeOptions(auth="a:b"), "--tls-cert"),
        ("https://@:8443/", ServeOptions(), "--tls-cert"),
        ("http://@:8080/", ServeOptions(tls_cert=tmp_path / "no.pem", tls_key=key), "no such file"),
        ("http://@:8080/", ServeOptions(tls_cert=tmp_path / "junk.pem", tls_key=key), "cannot be used"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_output(uri, serve=serve)
    with pytest.raises(ConfigError, match="needs both"):
        ServeOptions(tls_cert=cert)
    open_output("http://@0.0.0.0:8080/", serve=ServeOptions(insecure=True))
    assert wants_plain("http://@:8080/")
    assert not wants_plain("rtsp://@:8554/cam")
