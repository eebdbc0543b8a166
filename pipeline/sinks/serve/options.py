"""How this machine serves what it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Who may reach the servers of a run, and how; without any of it they are for this machine alone.

    Attributes:
        auth: ``USER:PASSWORD`` that clients must give (Digest over RTSP, Basic over HTTP); in a preset or a
            flag write ``USER:${NAME}`` to take the password from the environment.
        auth_file: file of such lines, one a user; empty lines and those that begin with ``#`` are passed over.
        tls_cert, tls_key: certificate chain and private key, PEM, for the page.
        insecure: serve other machines without what is wanted then (credentials; TLS for the page).
        metrics: where metrics and health are told: ``PORT``, for this machine alone, or ``ADDRESS:PORT``.
        hosts: names by which browsers may call the page, besides addresses, ``localhost`` and this
            machine's own name.
    """

    auth: str | None = field(default=None, repr=False)
    auth_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    metrics: str | int | None = None
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.auth is not None and not all(self.auth.partition(":")):
            raise ConfigError("auth is USER:PASSWORD, such as viewer:${VIEWER_PASSWORD}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate (tls_cert) and its private key (tls_key)")

    @property
    def protected(self) -> bool:
        """Clients must give credentials."""
        return self.auth is not None or self.auth_file is not None
