"""Downloads over real sockets: a server that behaves, and one that does what bad networks do."""

from __future__ import annotations

import hashlib
import http.server
import logging
import multiprocessing
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engines.fetch import FetchError, Patience, fetch, resolvable

pytestmark = pytest.mark.timeout(30)

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
SHORT = Patience(silence_s=1.0, total_s=5.0)


@dataclass
class Behaviour:
    """What the server does; and what it saw."""

    body: bytes = BODY
    tag: str | None = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes of each of the next answers
    status: list[int] = field(default_factory=list)  # of each of the next answers, before 200
    pause_s: float = 0.0  # between chunks
    with_length: bool = True
    wrong_range: bool = False
    seen: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        does = self.server.does
        does.seen.append({key.lower(): value for key, value in self.headers.items()})
        does.paths.append(self.path)
        if does.status:
            self.send_error(does.status.pop(0))
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and does.ranges and self.headers.get("If-Range", does.tag) == does.tag:
            start = int(asked[1])
            if start >= len(does.body):
                self.send_error(416)
                return
            self.send_response(206)
            shift = 1 if does.wrong_range else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(does.body) - 1}/{len(does.body)}")
        else:
            self.send_response(200)
        if does.tag:
            self.send_header("ETag", does.tag)
        if does.with_length:
            self.send_header("Content-Length", str(len(does.body) - start))
        self.end_headers()
        stop = start + does.break_after.pop(0) if does.break_after else len(does.body)
        for at in range(start, min(stop, len(does.body)), 20_000):
            self.wfile.write(does.body[at : min(at + 20_000, stop)])
            time.sleep(does.pause_s)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.does = Behaviour()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/net.tflite"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("engines.fetch.PAUSE_S", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {target.name, target.name + ".lock"}


def test_whole(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "net.tflite"
    assert fetch(server.url, target, sha256=SHA256) == target
    assert target.read_bytes() == BODY
    assert leftovers(target) == set()
    assert fetch(server.url, target, sha256=SHA256) == target
    assert len(server.does.seen) == 1, "what is there is not fetched again"


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "net"
    target.write_bytes(BODY[:-1])
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.does.break_after = [100_000, 50_000, 1]
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY
    assert [seen.get("range") for seen in server.does.seen] == [
        None, "bytes=100000-", "bytes=150000-", "bytes=150001-",
    ]  # fmt: skip
    assert server.does.seen[1]["if-range"] == '"one"'
    assert leftovers(tmp_path / "net") == set()


def test_an_earlier_process_part_is_resumed(server: Server, tmp_path: Path) -> None:
    server.does.break_after = [70_000, 0, 0, 0]
    with pytest.raises(FetchError, match="connection broke after 70000 of 300000 bytes"):
        fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert leftovers(tmp_path / "net") == {"net.part", "net.part.tag"}
    server.does.seen.clear()
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert [seen.get("range") for seen in server.does.seen] == ["bytes=70000-"]
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_server_that_ignores_ranges_is_taken_from_the_start(server: Server, tmp_path: Path) -> None:
    server.does.ranges = False
    server.does.break_after = [100_000]
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_taken_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.part").write_bytes(b"old" * 1000)
    (tmp_path / "net.part.tag").write_text('"older"')
    fetch(server.url, tmp_path / "net", sha256=None)
    assert server.does.seen[0]["if-range"] == '"older"'
    assert (tmp_path / "net").read_bytes() == BODY


def test_two_versions_joined_without_a_tag_are_noticed(server: Server, tmp_path: Path) -> None:
    """No ETag to tell by: the hash does, and the file is taken again in one piece."""
    server.does.tag = None
    (tmp_path / "net.part").write_bytes(b"old" * 1000)
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert [seen.get("range") for seen in server.does.seen] == ["bytes=3000-", None]
    assert (tmp_path / "net").read_bytes() == BODY


def test_without_hash_and_tag_nothing_is_joined(server: Server, tmp_path: Path) -> None:
    server.does.tag = None
    (tmp_path / "net.part").write_bytes(b"old" * 1000)
    fetch(server.url, tmp_path / "net", sha256=None)
    assert "range" not in server.does.seen[0]
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.part").write_bytes(bytes(len(BODY) + 5))
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY


def test_another_part_than_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.does.wrong_range = True
    server.does.break_after = [100_000]
    with pytest.raises(FetchError, match="another part than was asked for"):
        fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert not (tmp_path / "net").exists()


def test_a_wrong_hash_is_deleted_and_told(server: Server, tmp_path: Path) -> None:
    server.does.body = BODY[::-1]
    actual = hashlib.sha256(BODY[::-1]).hexdigest()
    with pytest.raises(FetchError, match=f"SHA-256 {actual}, not {SHA256} .*: deleted"):
        fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert not (tmp_path / "net").exists()
    assert leftovers(tmp_path / "net") == set()


def test_an_unknown_hash_is_recorded_once_and_holds(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "net"
    fetch(server.url, target, sha256=None)
    assert (tmp_path / "net.sha256").read_text() == f"{SHA256}  net\n"
    assert f"recorded that of this first download: {SHA256}" in caplog.text
    target.unlink()
    caplog.clear()
    fetch(server.url, target, sha256=None)
    assert not caplog.text
    target.unlink()
    server.does.body = BODY[::-1]
    with pytest.raises(FetchError, match=f"not {SHA256} as it should"):
        fetch(server.url, target, sha256=None)


def test_missing_is_one_line(server: Server, tmp_path: Path) -> None:
    server.does.status = [404]
    with pytest.raises(FetchError, match=r"cannot fetch http://127.0.0.1:\d+/net.tflite: HTTP 404 Not Found$"):
        fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert len(server.does.seen) == 1, "no use in asking again"


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.does.status = [503, 500]
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_slow_server_is_left_in_time_and_resumed_later(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.1  # 15 chunks
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"too slow: 0\.5 s are over; the next try continues"):
        fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.5))
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


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.fetch.PAUSE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match=r"Connection refused \(offline, or behind a proxy") as caught:
        fetch(f"http://127.0.0.1:{port}/net", tmp_path / "net", sha256=SHA256)
    assert "\n" not in str(caught.value)
    with pytest.raises(FetchError, match=r"cannot fetch http://nowhere\.invalid/net: .* known"):
        fetch("http://nowhere.invalid/net", tmp_path / "net", sha256=SHA256)
    with pytest.raises(FetchError, match=r"nowhere\.invalid carries a password") as caught:
        fetch("http://anna:secret@nowhere.invalid/net", tmp_path / "net", sha256=SHA256)
    assert "secret" not in str(caught.value)
    with pytest.raises(FetchError, match="no http or https address"):
        fetch("file:///etc/passwd", tmp_path / "net", sha256=None)


def test_a_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/net.tflite"))
    monkeypatch.setenv("no_proxy", "")
    fetch("http://weights.invalid/net.tflite", tmp_path / "net", sha256=SHA256)
    assert server.does.paths == ["http://weights.invalid/net.tflite"]
    assert resolvable("http://weights.invalid/net.tflite", 5.0), "it is the proxy that must be found"


def test_names_that_do_not_resolve_are_found_out_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not resolvable("https://nowhere.invalid/net", 5.0)
    assert resolvable("https://localhost/net", 5.0)
    began = time.monotonic()
    assert not resolvable("https://localhost/net", 0.001)
    assert time.monotonic() - began < 2


def test_a_directory_that_cannot_be_written_says_the_way_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match=r"cannot write .*file/net: .*choose another directory"):
        fetch(server.url, tmp_path / "file" / "net", sha256=SHA256)


def test_a_disk_that_takes_no_more_is_one_line(server: Server, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FetchError, match=r"cannot write .*File too large; make room or choose"):
            fetch(server.url, tmp_path / "net", sha256=SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY


def _fetch_into(url: str, target: Path, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        fetch(url, target, sha256=SHA256, patience=Patience(5.0, 20.0), progress=False)
        results.put(hashlib.sha256(target.read_bytes()).hexdigest())
    except BaseException as error:
        results.put(repr(error))


def test_two_processes_fetch_one_file_once(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.02
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=_fetch_into, args=(server.url, tmp_path / "net", results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(25)
        assert worker.exitcode == 0
    assert [results.get(), results.get()] == [SHA256, SHA256]
    assert len(server.does.seen) == 1


def test_a_killed_process_leaves_no_lock(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.2
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    worker = context.Process(target=_fetch_into, args=(server.url, tmp_path / "net", results))
    worker.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "net.part").exists() or not (tmp_path / "net.part").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(FetchError, match="another process is still fetching"):
        fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.3))
    worker.kill()
    worker.join(10)
    server.does.pause_s = 0
    fetch(server.url, tmp_path / "net", sha256=SHA256, patience=SHORT)
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_waiting_process_says_so(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import fcntl

    with (tmp_path / "net.lock").open("ab") as lock, caplog.at_level(logging.INFO, "engines"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process"):
            fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.2))
    assert caplog.text.count("another process is fetching net") == 1
    fetch(server.url, tmp_path / "net", sha256=SHA256)
