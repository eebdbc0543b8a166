"""Downloads from peers that are slow, silent, or send a byte now and then: left in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.deadline import resolve
from engines.fetch import FetchError, Patience, fetch
from tests.engines.serving import BODY, SHA256, Server

pytestmark = pytest.mark.timeout(30)


def test_a_slow_server_is_left_in_time_and_resumed_later(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.1  # 15 chunks
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"too slow: \d+ bytes so far; the next try continues there"):
        fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.5, pace=1e6))
    assert time.monotonic() - began < 3
    server.does.pause_s = 0
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert int(server.does.seen[-1]["range"].strip("bytes=-")) >= 20_000
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_silent_server_is_left_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.fetch.PAUSE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net"
        began = time.monotonic()
        with pytest.raises(FetchError, match="no answer in time"):
            fetch(url, tmp_path / "net", sha256=SHA256, patience=Patience(0.2, 5.0))
        assert time.monotonic() - began < 3


def test_names_have_a_time_limit_of_their_own() -> None:
    assert {"127.0.0.1", "::1"} & set(resolve("localhost", 5.0))
    assert resolve("::1", 0.0) == ["::1"], "nothing to look up"
    with pytest.raises(OSError, match="known"):
        resolve("nowhere.invalid", 5.0)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        resolve("localhost", 0.001)
    assert time.monotonic() - began < 2


OK = b"HTTP/1.1 200 OK\r\n"
DRIPPED = [  # how it is reached, what comes at once, what comes byte by byte
    pytest.param("direct", b"", OK + b"X: " + BODY.hex().encode(), id="headers"),
    pytest.param("direct", OK + b"Content-Length: 300000\r\n\r\n", BODY, id="body"),
    pytest.param("direct", OK + b"\r\n", BODY, id="body without a length"),
    pytest.param("direct", OK + b"Transfer-Encoding: chunked\r\n\r\n40000\r\n", BODY, id="chunk"),
    pytest.param("http_proxy", b"", OK + b"X: " + BODY.hex().encode(), id="proxy"),
    pytest.param("https_proxy", b"", OK + b"X: " + BODY.hex().encode(), id="tunnel"),
    pytest.param("https_proxy", OK + b"\r\n", b"\x16\x03\x03\x3f\xff\x02\x00\x3f\x00" + BODY, id="handshake"),
]


@pytest.mark.parametrize(("way", "at_once", "slowly"), DRIPPED)
def test_a_dripping_peer_is_left_in_time(
    way: str, at_once: bytes, slowly: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps every operation's time-out away; the deadline is for all of them."""
    monkeypatch.setenv("no_proxy", "")
    with dripping(at_once, slowly) as port:
        monkeypatch.setenv(way, f"http://127.0.0.1:{port}")
        peer = f"127.0.0.1:{port}" if way == "direct" else "weights.invalid"
        scheme = "https" if way == "https_proxy" else "http"
        began = time.monotonic()
        with pytest.raises(FetchError, match=r"no answer in time|too slow: \d+ bytes so far") as caught:
            fetch(f"{scheme}://{peer}/net", tmp_path / "net", sha256=None, patience=Patience(5.0, 0.5, pace=1e5))
        assert 0.4 < time.monotonic() - began < 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


@contextlib.contextmanager
def dripping(at_once: bytes, slowly: bytes) -> Iterator[int]:
    """The port of a server that answers with some bytes at once, and then with one every 50 ms."""
    stop = threading.Event()

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(at_once)
                for byte in slowly:
                    if stop.wait(0.05):
                        break
                    connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield listening.getsockname()[1]
        stop.set()
        thread.join(10)


def test_a_steady_download_outlasts_the_time_to_begin(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.05  # 15 chunks: 0.75 s
    began = time.monotonic()
    fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.4, pace=100_000))
    assert time.monotonic() - began > 0.7
    assert (tmp_path / "net").read_bytes() == BODY
