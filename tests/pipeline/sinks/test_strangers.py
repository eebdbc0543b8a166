"""Those who may not look, or have not shown it yet: they take nothing from those who may."""

from __future__ import annotations

import base64
import re
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pipeline.cli.session import more_descriptors
from pipeline.flow.service import Service
from pipeline.sinks import ServeOptions, open_output
from pipeline.sinks.serve.admission import Admission, Guest, network_of
from tests.pipeline.certificates import self_signed
from tests.pipeline.leftovers import held
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.rtsp_client import Client, client, listens, served
from tests.pipeline.sinks.serving import SHOWN, Task, on_air
from tests.pipeline.sinks.test_rtsp_auth import SECRET, digest

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

GUARDED = ServeOptions(auth=f"viewer:{SECRET}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@contextmanager
def idle(port: int, count: int, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        address = ("127.0.0.1", port)
        yield [
            stack.enter_context(socket.create_connection(address, 5, source_address=(source, 0))) for _ in range(count)
        ]


def is_open(wire: socket.socket) -> bool:
    wire.settimeout(0.001)
    try:
        return bool(wire.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def proven(port: int) -> Client:
    """A client that has shown that it may look."""
    one = Client(port)
    nonce = re.search(r'nonce="(\w+)"', one.ask("DESCRIBE").headers["WWW-Authenticate"])
    assert nonce
    assert one.ask("DESCRIBE", Authorization=digest("DESCRIBE", one.url, nonce[1])).status == 200
    return one


# ---- connections


def test_a_network_is_one_peer() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1%eth0") == "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:3::4") != network_of("2001:db8:1:2::4")
    assert network_of("10.0.0.7") == "10.0.0.7"


def test_the_peer_with_the_most_strangers_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.admission.STRANGERS", 4)
    monkeypatch.setattr("pipeline.sinks.serve.admission.CONNECTIONS_OF_ONE_PEER", 6)
    gone: list[Guest] = []

    def dismiss(guest: Guest) -> None:
        gone.append(guest)

    monkeypatch.setattr(Guest, "dismiss", dismiss)
    admission = Admission()

    class Known:
        known = True

    guests = [Guest(peer) for peer in ("quiet", "loud", "loud", "other")]
    assert all(admission.admit(each) for each in guests)
    assert admission.admit(Guest("third"))
    assert gone == [guests[1]]
    for each in guests:
        each.visitor = Known()
    several = [Guest("loud") for _ in range(5)]
    for each in several:
        assert admission.admit(each)
        each.visitor = Known()
    assert not admission.admit(Guest("loud")), "those who may be here are never sent away"


def test_clients_count_before_tls_begins(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty that never shake hands hold a few descriptors, for a short time, and keep nobody out."""
    monkeypatch.setattr("pipeline.sinks.serve.server.HANDSHAKE_S", 3)
    cert, key = certificate
    port = free_port()
    sink = open_output(f"https://@:{port}/", serve=ServeOptions(tls_cert=cert, tls_key=key))
    with on_air(sink, SHOWN):
        until(lambda: listens(port), 10)
        time.sleep(0.1)  # the probe's own connection has gone
        before = len(held().descriptors)
        with idle(port, 40, "127.0.0.2") as silent:
            trusting = ssl.create_default_context(cafile=str(cert))
            with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
                assert len(held().descriptors) - before - len(silent) <= 20
                with trusting.wrap_socket(plain, server_hostname="localhost") as wire:
                    wire.sendall(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert wire.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert any(map(is_open, silent))
            until(lambda: not any(map(is_open, silent)), 15, "the end of those who say nothing")


def test_a_burst_of_clients_does_not_delay_the_next() -> None:
    service = Service.join()
    try:
        with served() as (port, _):
            busy = Task(lambda: service.run(time.sleep, 0.9))
            began = time.monotonic()
            with idle(port, 60):
                assert time.monotonic() - began < 0.9, "the system does not have them try again, after a second"
                busy.result()
    finally:
        service.leave()


def test_without_descriptors_others_wait(caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with served() as (port, sink), ExitStack() as stack:
        wires = [stack.enter_context(socket.socket()) for _ in range(3)]
        last = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        with socket.socket() as probe:
            full = max(last, probe.fileno()) + 1
        fillers = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (full, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    fillers.append(stack.enter_context(socket.socket()))
            for wire in wires:
                wire.settimeout(5)
                wire.connect(("127.0.0.1", port))
                wire.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            until(lambda: "cannot be accepted: Too many open files" in caplog.text, 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert [wire.recv(12) for wire in wires] == [b"RTSP/1.0 200"] * 3
        assert caplog.text.count("cannot be accepted") == 1
        assert sink.name


def test_a_run_may_open_more_files_than_a_shell_gives() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
        more_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(limits[1], 65536), limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_strangers_make_room_and_players_do_not() -> None:
    with served(GUARDED) as (port, _):
        player = proven(port)
        with idle(port, 16) as strangers:
            time.sleep(0.1)
            others = [proven(port) for _ in range(3)]
            assert [is_open(each) for each in strangers] == [False] * 1 + [True] * 15
        for one in (player, *others):
            assert one.ask("OPTIONS", "*").status == 200
            one.close()


@pytest.mark.parametrize("said", [b"$\0\0\0", b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"], ids=["packets", "OPTIONS"])
def test_what_anybody_may_say_keeps_nobody_alive(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.server.FIRST_REQUEST_S", 0.5)
    with served(GUARDED) as (port, _), client(port) as one:
        deadline = time.monotonic() + 4
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < deadline:
                one.wire.sendall(said)
                time.sleep(0.1)


# ---- guesses


def guesses(port: int, seconds: float) -> int:
    """Wrong tries that were looked at, each over a connection of its own, given up soon."""
    seen, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with client(port) as one:
            nonce = re.search(r'nonce="(\w+)"', one.ask("DESCRIBE").headers["WWW-Authenticate"])
            assert nonce
            one.wire.settimeout(0.05)
            try:
                wrong = digest("DESCRIBE", one.url, nonce[1], "guess")
                seen += one.ask("DESCRIBE", Authorization=wrong).status == 401
            except (OSError, EOFError):
                pass
    return seen


def test_guessing_by_new_connections_gains_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.guessing.PAUSE_S", 0.3)
    monkeypatch.setattr("pipeline.sinks.serve.guessing.LONGEST_PAUSE_S", 0.3)
    with served(GUARDED) as (port, _), closing(proven(port).wire):
        assert 4 <= guesses(port, 1.0) <= 8
        proven(port).close()
    lines = [line for line in caplog.text.splitlines() if "wrong credentials" in line]
    assert len(lines) == 2
    assert re.search(r"wrong credentials from 127\.0\.0\.1, \d+ times in the last minute", lines[1])
    assert SECRET not in caplog.text


def test_too_many_guesses_over_http_are_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.guessing.WAITING", 0)
    port = free_port()
    with on_air(open_output(f"http://@:{port}/", serve=GUARDED)):
        until(lambda: listens(port), 10)

        def ask(text: str, source: str = "127.0.0.1") -> bytes:
            proof = base64.b64encode(text.encode()).decode()
            with socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0)) as wire:
                wire.sendall(f"GET /info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {proof}\r\n\r\n".encode())
                return wire.recv(4096)[9:12]

        assert [ask("viewer:guess") for _ in range(4)] == [b"401"] * 4
        assert ask(f"viewer:{SECRET}") == b"429", "nothing is learnt of it"
        assert ask(f"viewer:{SECRET}", "127.0.0.2") == b"200", "another machine is not concerned"
        monkeypatch.setattr("pipeline.sinks.serve.guessing.WAITING", 4)
        assert ask(f"viewer:{SECRET}") == b"200"
