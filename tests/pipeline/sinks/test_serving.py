"""What may be served, and to whom."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
from pathlib import Path

import pytest

from pipeline.cli.main import make_options, make_parser
from pipeline.errors import ConfigError, SinkError
from pipeline.sinks import ServeOptions, check_writable, open_output
from pipeline.sinks.serve.address import Address
from pipeline.sinks.serve.http import HttpServer
from tests.pipeline.sinks.made import TAKES

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


@pytest.mark.parametrize(
    ("uri", "serve", "said"),
    [
        ("rtsp://@0.0.0.0:8554/cam", ServeOptions(), "--auth"),
        ("rtsp://@[::]:8554/cam", ServeOptions(), "--auth"),
        ("rtsp://me:secret@:8554/cam", ServeOptions(), "do not go into its address"),
        ("rtsp://@:99999/cam", ServeOptions(), "port"),
        ("rtsp://@a:b:c/cam", ServeOptions(), "rtsp://@:8554/NAME"),
        ("gopher://@:70/cam", ServeOptions(), "rtsp://@:8554/NAME"),
        ("rtsp://@:8554/cam", ServeOptions(auth_file=Path("/nowhere")), "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(uri: str, serve: ServeOptions, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        open_output(uri, serve=serve)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_machines_may_be_served_with_credentials_or_on_purpose() -> None:
    open_output("rtsp://@0.0.0.0:8554/cam", serve=ServeOptions(auth="viewer:word"))
    open_output("rtsp://@0.0.0.0:8554/cam", serve=ServeOptions(insecure=True))
    open_output("rtsp://@127.0.0.1:8554/cam")


def test_what_is_shown_can_be_typed() -> None:
    """A name with a space as players want it, and a page by what it speaks."""
    named = [open_output(f"rtsp://@:8554/{typed}").name for typed in ("my cam", "my%20cam", "Straße/50%")]
    assert named == ["rtsp://@:8554/my%20cam"] * 2 + ["rtsp://@:8554/Straße/50%25"]


def test_a_password_on_the_command_line_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWER", "s3cret")
    for auth, warned in (("viewer:${VIEWER}", 0), ("viewer:s3cret", 1)):
        make_options(make_parser().parse_args(["--input", "sample", "--output", "null", "--auth", auth]))
        assert caplog.text.count("list of processes") == warned
    assert "s3cret" not in caplog.text


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        uri = f"rtsp://@:{other.getsockname()[1]}/cam"
        with pytest.raises(SinkError, match="is in use"):
            check_writable(uri, uri)
        sink = open_output(uri)
        with pytest.raises(SinkError, match="is in use"):
            sink.open(TAKES[0].info())
        sink.abort()


def test_who_comes_while_a_server_closes_is_hung_up_on() -> None:
    """However far it was taken in: nobody is left to wait for an answer."""

    async def come(passes: int) -> bytes:
        server = HttpServer(Address("http", "127.0.0.1", 0, "cam"), ServeOptions(), None)
        await server.open()
        await asyncio.sleep(0.01)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            for _ in range(passes):
                await asyncio.sleep(0)
            await server.close()
            client.settimeout(5)
            try:
                return await asyncio.to_thread(client.recv, 1)
            except ConnectionResetError:
                return b""

    gc.disable()  # it would hang up as well, some time
    try:
        assert [asyncio.run(come(passes)) for passes in range(8)] == [b""] * 8
    finally:
        gc.enable()
