"""Encrypted inputs: whose certificate is believed."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import Decoded, SourceOptions, open_source
from tests.pipeline.certificates import self_signed
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.served import rtsp_camera, talker, web_server

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]

ONCE = SourceOptions(open_timeout=5, read_timeout=5, reconnect=0)
BLIND = SourceOptions(open_timeout=5, read_timeout=5, reconnect=0, tls_verify=False)


def context_of(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    cert, key = self_signed(folder, names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


def seen(uri: str, options: SourceOptions) -> int:
    with closing(open_source(uri, options)) as source:
        return sum(isinstance(item, Decoded) for item, _ in zip(source.read(), range(5), strict=False))


def test_a_web_server_is_believed_only_with_its_certificate(
    clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cert = context_of(tmp_path)
    path = clip("late ts").path
    with web_server(path.parent, context) as root:
        uri = f"{root.replace('://', '://user:secret@')}/{path.name}"
        with pytest.raises(SourceError, match=r"certificate is not believed \(self-signed certificate\)") as caught:
            seen(uri, ONCE)
        assert "secret" not in str(caught.value)
        assert "tls_verify" in str(caught.value)
        assert seen(uri, BLIND) == 5
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert seen(uri, ONCE) == 5


def test_a_certificate_for_another_name_is_not_believed(
    clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cert = context_of(tmp_path, "DNS:camera.invalid")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    path = clip("late ts").path
    with web_server(path.parent, context) as root, pytest.raises(SourceError, match="certificate is not believed"):
        seen(f"{root}/{path.name}", ONCE)


def test_an_encrypted_camera_is_believed_only_with_its_certificate(
    clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cert = context_of(tmp_path)
    camera = rtsp_camera(clip("late ts").path, lambda _, over: over.wait(5))

    def answer(plain: socket.socket, over: threading.Event) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            camera(connection, over)

    with talker(answer) as port:
        uri = f"rtsps://127.0.0.1:{port}/cam"
        with pytest.raises(SourceError, match="certificate is not believed"):
            seen(uri, ONCE)
        assert seen(uri, BLIND) == 5
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert seen(uri, ONCE) == 5
