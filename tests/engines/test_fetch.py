"""Downloads over real sockets: a server that behaves, and one that does what bad networks do."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.fetch import FetchError, Patience, fetch
from tests.engines.serving import BODY, SHA256, Server, leftovers
from tests.pipeline.certificates import self_signed

pytestmark = pytest.mark.timeout(30)

SHORT = Patience(silence_s=1.0, begin_s=5.0)


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


def test_the_published_head_of_a_hash_is_held_to_and_the_rest_recorded(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, head = tmp_path / "net", SHA256[:8]
    with pytest.raises(FetchError, match=rf"has the SHA-256 {SHA256}, not 00000000… as it should: deleted"):
        fetch(server.url, target, sha256="00000000")
    assert leftovers(target) == set()
    assert not target.exists()
    server.does.break_after = [100_000]
    fetch(server.url, target, sha256=head)
    assert target.read_bytes() == BODY
    assert f"no more than {head}… is published of the hash of net; recorded that of this first" in caplog.text
    assert (tmp_path / "net.sha256").read_text() == f"{SHA256}  net\n"
    caplog.clear()
    fetch(server.url, target, sha256=head)
    assert not caplog.text
    target.write_bytes(BODY[:-1])
    fetch(server.url, target, sha256=head)
    assert target.read_bytes() == BODY, "damaged, so fetched again"


def test_missing_is_one_line(server: Server, tmp_path: Path) -> None:
    server.does.status = [404]
    with pytest.raises(FetchError, match=r"cannot fetch http://127.0.0.1:\d+/net.tflite: HTTP 404 Not Found$"):
        fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert len(server.does.seen) == 1, "no use in asking again"


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.does.status = [503, 500]
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert (tmp_path / "net").read_bytes() == BODY


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


def test_redirects_are_followed_to_http_alone(server: Server, tmp_path: Path) -> None:
    server.does.location = ["/elsewhere"]
    fetch(server.url, tmp_path / "net", sha256=SHA256)
    assert server.does.paths == ["/net.tflite", "/elsewhere"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # urllib's own FTP would wait here for ever
        for place in (f"ftp://127.0.0.1:{silent.getsockname()[1]}/net", "file:///etc/passwd", "data:,net"):
            server.does.location = [place]
            with pytest.raises(FetchError, match=r"cannot fetch http.*: HTTP 302 .*(it leads|[Rr]edirect)") as caught:
                fetch(server.url, tmp_path / "other", sha256=None, patience=SHORT)
            assert str(caught.value).isprintable()
    server.does.location = ["/net.tflite"] * 20
    with pytest.raises(FetchError, match="infinite loop") as caught:
        fetch(server.url, tmp_path / "other", sha256=None)
    assert str(caught.value).isprintable()
    assert leftovers(tmp_path / "net") <= {"other.lock"}


def test_an_encrypted_download_stays_so(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    plain = server.url
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    secure = plain.replace("http:", "https:")
    fetch(secure, tmp_path / "net", sha256=SHA256)
    server.does.location = [plain]
    with pytest.raises(FetchError, match="HTTP 302 it leads from https to http"):
        fetch(secure, tmp_path / "other", sha256=None, patience=SHORT)


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_nothing_is_no_file(sha256: str | None, server: Server, tmp_path: Path) -> None:
    server.does.body = b""
    with pytest.raises(FetchError, match="is empty: deleted"):
        fetch(server.url, tmp_path / "net", sha256=sha256)
    assert leftovers(tmp_path / "net") == set()
    assert not (tmp_path / "net").exists()


def test_a_hash_is_recorded_of_what_may_be_the_file_alone(server: Server, tmp_path: Path) -> None:
    def doubt(path: Path) -> str:
        return "is a page" if path.read_bytes().startswith(b"<html") else ""

    target, server.does.body = tmp_path / "net", b"<html>log in first</html>"
    with pytest.raises(FetchError, match=r"net\.tflite is a page: deleted"):
        fetch(server.url, target, sha256=None, doubt=doubt)
    assert leftovers(target) == set()
    target.write_bytes(server.does.body)  # an older version may have kept it
    server.does.body = BODY
    fetch(server.url, target, sha256=None, doubt=doubt)
    assert target.read_bytes() == BODY
    assert (tmp_path / "net.sha256").read_text() == f"{SHA256}  net\n"


def test_published_head_and_record_hold_both(server: Server, tmp_path: Path) -> None:
    target, record = tmp_path / "net", tmp_path / "net.sha256"
    fetch(server.url, target, sha256=SHA256[:8])
    target.unlink()
    with pytest.raises(FetchError, match=r"not 00000000… as it should: deleted"):
        fetch(server.url, target, sha256="00000000")
    record.write_text(f"{SHA256[:8]}{'0' * 56}  net\n")
    with pytest.raises(FetchError, match=rf"as it should by {record}: deleted; .* delete {record}$"):
        fetch(server.url, target, sha256=SHA256[:8])
    record.unlink()
    fetch(server.url, target, sha256=SHA256[:8])
    assert record.read_text() == f"{SHA256}  net\n"


@pytest.mark.parametrize("off", [-1, 1])
def test_another_length_than_known_is_refused_at_once(server: Server, tmp_path: Path, off: int) -> None:
    server.does.break_after = [1000, 1000]  # a part of it must not get a name either
    with pytest.raises(FetchError, match=rf"is 300000 bytes long, not {300_000 + off} as it should"):
        fetch(server.url, tmp_path / "net", sha256=None, size=len(BODY) + off)
    assert leftovers(tmp_path / "net") == set()
    assert not (tmp_path / "net").exists()


def test_a_body_that_goes_on_is_refused(server: Server, tmp_path: Path) -> None:
    server.does.with_length = False
    with pytest.raises(FetchError, match="sends more than 250000 bytes"):
        fetch(server.url, tmp_path / "net", sha256=None, size=250_000)
    assert leftovers(tmp_path / "net") == set()
    assert not (tmp_path / "net").exists()


def test_a_body_shorter_than_told_is_resumed_and_then_refused(server: Server, tmp_path: Path) -> None:
    server.does.length_off = 5
    with pytest.raises(FetchError, match=r"broke after 300000 of 300005 bytes|refuses to continue"):
        fetch(server.url, tmp_path / "net", sha256=None)
    assert not (tmp_path / "net").exists()


def test_a_body_without_length_that_ends_early_is_resumed(server: Server, tmp_path: Path) -> None:
    server.does.with_length = False
    server.does.break_after = [100_000]
    fetch(server.url, tmp_path / "net", sha256=None, size=len(BODY))
    assert [seen.get("range") for seen in server.does.seen] == [None, "bytes=100000-"]
    assert (tmp_path / "net").read_bytes() == BODY


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


def fetching(url: str, target: Path) -> subprocess.Popen[bytes]:
    """A process that fetches."""
    program = (
        "import sys, pathlib, engines.fetch as f; f.fetch(sys.argv[1], pathlib.Path(sys.argv[2]), sha256=sys.argv[3])"
    )
    return subprocess.Popen([sys.executable, "-c", program, url, str(target), SHA256])


def test_two_processes_fetch_one_file_once(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.02
    workers = [fetching(server.url, tmp_path / "net") for _ in range(2)]
    assert [worker.wait(25) for worker in workers] == [0, 0]
    assert (tmp_path / "net").read_bytes() == BODY
    assert len(server.does.seen) == 1


def test_a_killed_process_leaves_no_lock(server: Server, tmp_path: Path) -> None:
    server.does.pause_s = 0.2
    worker = fetching(server.url, tmp_path / "net")
    deadline = time.monotonic() + 20
    while not (tmp_path / "net.part").exists() or not (tmp_path / "net.part").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(FetchError, match="another process is still fetching"):
        fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.3, pace=1e9))
    worker.kill()
    worker.wait(10)
    server.does.pause_s = 0
    fetch(server.url, tmp_path / "net", sha256=SHA256, patience=SHORT)
    assert (tmp_path / "net").read_bytes() == BODY


def test_a_waiting_process_says_so(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tmp_path / "net.lock").open("ab") as lock, caplog.at_level(logging.INFO, "engines"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process"):
            fetch(server.url, tmp_path / "net", sha256=SHA256, patience=Patience(1.0, 0.2))
    assert caplog.text.count("another process is fetching net") == 1
    fetch(server.url, tmp_path / "net", sha256=SHA256)
