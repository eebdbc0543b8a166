"""Whether the other side of an encrypted connection is who it says it is: who is believed, and why one is not."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult

_PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}
"""The schemes that are encrypted, with their usual ports."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_TIMEOUT_S = 1.0
"""For finding out why a connection failed, which only makes a message better."""


def verification(scheme: str, *, verify: bool) -> dict[str, str]:
    """What libav is told for a scheme: unlike libav, we ask for a certificate that the system's authorities stand for.

    Its own default is to believe anybody, and its build may look for authorities where this system has none.
    """
    if scheme not in _PORTS:
        return {}
    if not verify:
        return {"tls_verify": "0"}
    authorities = _authorities()
    return {"tls_verify": "1"} | ({"ca_file": authorities} if authorities is not None else {})


def mistrusted(address: SplitResult) -> str | None:
    """Why the server's certificate is not believed; None if it is, or if that cannot be found out in a second."""
    port = _PORTS.get(address.scheme)
    if port is None or not address.hostname:
        return None
    context = ssl.create_default_context(cafile=_authorities())
    try:
        with (
            socket.create_connection((address.hostname, address.port or port), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        return None


def _authorities() -> str | None:
    """A file with the certificates of those who are believed; ``SSL_CERT_FILE`` names another one, as for OpenSSL."""
    named = os.environ.get("SSL_CERT_FILE")
    if named:
        return named
    own = ssl.get_default_verify_paths().cafile
    return next((one for one in (own, *_BUNDLES) if one is not None and Path(one).is_file()), None)
