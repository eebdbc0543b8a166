"""Who may look at what is served over RTSP."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import av
import pytest

from pipeline.sinks import ServeOptions
from tests.pipeline.sinks.rtsp_client import client, served
from tests.pipeline.sinks.serving import play, run_peer

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

SECRET = "s3cret-word"


def digest(method: str, url: str, nonce: str, password: str = SECRET) -> str:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    proof = md5(f"{md5(f'viewer:deeplab-stream:{password}')}:{nonce}:{md5(f'{method}:{url}')}")
    return f'Digest username="viewer", realm="deeplab-stream", nonce="{nonce}", uri="{url}", response="{proof}"'


def test_credentials_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "users").write_text(f"# who may look\n\nother:word\nviewer:{SECRET}\n")
    serve = ServeOptions(auth_file=tmp_path / "users")
    with served(serve) as (port, _):
        with client(port) as one:
            asked = one.ask("DESCRIBE")
            assert asked.status == 401
            nonce = re.search(r'nonce="(\w+)"', asked.headers["WWW-Authenticate"])
            assert nonce
            for wrong in (
                digest("DESCRIBE", one.url, nonce[1], "guess"),
                digest("DESCRIBE", one.url, "0" * 32),
                digest("PLAY", one.url, nonce[1]),
            ):
                assert one.ask("DESCRIBE", Authorization=wrong).status == 401
            right = digest("DESCRIBE", one.url, nonce[1])
            assert one.ask("DESCRIBE", Authorization=right).status == 200
            assert one.ask("SETUP", one.url + "/trackID=0", Transport="RTP/AVP/TCP").status == 401, "each time"
        with client(port) as one:
            assert one.ask("DESCRIBE", Authorization=right).status == 401, "a proof is of one connection"
        url = f"rtsp://viewer:{SECRET}@127.0.0.1:{port}/cam"
        assert len(play(url, 5)) == 5
        user = ("user-id=viewer", f"user-pw={SECRET}", "protocols=tcp", "!", "fakesink", "num-buffers=3")
        run_peer("gst-launch-1.0", "-q", "rtspsrc", f"location=rtsp://127.0.0.1:{port}/cam", *user)
        with pytest.raises(av.HTTPUnauthorizedError):
            play(f"rtsp://127.0.0.1:{port}/cam", 1)
    assert SECRET not in caplog.text
    assert SECRET not in repr(serve)


def test_guessing_ends_the_connection() -> None:
    with served(ServeOptions(auth=f"viewer:{SECRET}")) as (port, _), client(port) as one:
        statuses = [one.ask("DESCRIBE", Authorization="Digest nonsense").status for _ in range(3)]
        one.wire.sendall(f"DESCRIBE {one.url} RTSP/1.0\r\nCSeq: 9\r\nAuthorization: Basic eDp5\r\n\r\n".encode())
        statuses.append(one.answer().status)
        assert statuses == [401] * 4
        with pytest.raises((EOFError, ConnectionResetError)):
            one.answer()
