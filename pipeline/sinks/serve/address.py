"""Addresses that this machine serves at: ``SCHEME://@[HOST]:PORT/NAME``."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from pipeline.errors import ConfigError, SinkError
from pipeline.sinks.serve.options import ServeOptions

_FORM = re.compile(r"^([a-z]+)://@(\[[0-9A-Fa-f:.%\w]*\]|[^/:\[\]@?#]*)(?::(\d{1,5}))?(/[^?#]*)?$")
_NAMELESS_WITH_USER = re.compile(r"^[a-z]+://[^/@]+@(:|/|$)")
_PORTS = {"rtsp": 8554, "http": 8080, "https": 8443, "tcp": None}
_LOOPBACK = ("127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::")
BACKLOG = 128
"""Clients that the system keeps until they are taken in; one more would try again after a second."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        scheme: ``rtsp``, ``http``, ``https`` or ``tcp``.
        host: as the user gave it, without brackets; empty for this machine alone.
        port: TCP port; 0 for any that is free.
        path: what comes after it, decoded, without slashes around it.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """Addresses to bind: by default loopback's two, for ``[::]`` all of both families."""
        if self.host in ("", "localhost"):
            return _LOOPBACK
        return _EVERYWHERE if self.host == "::" else (self.host,)

    @property
    def private(self) -> bool:
        """Only this machine can connect."""
        return all(_is_loopback(host) for host in self.hosts)

    def overlaps(self, other: Address) -> bool:
        """Some address of this machine belongs to both."""
        return any(
            a == b or ((":" in a) == (":" in b) and (a in _EVERYWHERE or b in _EVERYWHERE))
            for a in self.hosts
            for b in other.hosts
        )

    def reached(self, port: int) -> str:
        """As clients type it: from another machine where that may connect, else from this one.

        Args:
            port: the one that is listened at, since 0 means any.
        """
        host = self.host or "localhost"
        return self._at(socket.gethostname() if host in _EVERYWHERE else host, port)

    def __str__(self) -> str:
        return self._at(f"@{self.host}", self.port)

    def _at(self, host: str, port: int) -> str:
        host = re.sub(r"^(@?)(.*:.*)$", r"\1[\2]", host)
        path = re.sub(r"[^\w/{}.~!$&'()*+,;=:@-]", lambda match: quote(match[0]), self.path)
        return f"{self.scheme}://{host}:{port}/{path}"


def serve_address(uri: str) -> Address | None:
    """The address to serve at, or None where ``uri`` names another machine or a file.

    Raises:
        ConfigError: it begins as an address to serve at, and is none.
    """
    if _NAMELESS_WITH_USER.match(uri):
        raise ConfigError("credentials of a server do not go into its address: give --auth 'USER:${NAME}'")
    if not re.match(r"^[a-z]+://@", uri):
        return None
    match = _FORM.match(uri)
    if match is None or match[1] not in _PORTS:
        raise ConfigError(f"{uri!r} is no address to serve at: give rtsp://@:8554/NAME, http://@:8080/ or tcp://@:PORT")
    port = int(match[3]) if match[3] else _PORTS[match[1]]
    if port is None or port > 65535:
        raise ConfigError(f"{uri!r} needs a port from 1 to 65535")
    return Address(match[1], match[2].strip("[]"), port, unquote(match[4] or "").strip("/"))


def as_served(address: Address, options: ServeOptions) -> Address:
    """The address of a page, named by what it speaks: with TLS, ``https``."""
    return replace(address, scheme="https") if options.tls_cert is not None else address


def metrics_address(place: str | int) -> Address:
    """Where metrics are told: ``PORT``, for this machine alone, or ``ADDRESS:PORT``.

    Raises:
        ConfigError: it is neither.
    """
    host, _, port = str(place).rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"metrics port {place!r}: give a port from 0 to 65535, or ADDRESS:PORT")
    return Address("http", host.strip("[]"), int(port), "")


def refuse_open_door(address: Address, options: ServeOptions) -> None:
    """See that other machines reach a server only as the user allows.

    Raises:
        ConfigError: they would reach it without credentials or, a page, without TLS; or there is no TLS for
            ``https``.
    """
    if address.scheme == "https" and options.tls_cert is None:
        raise ConfigError(f"{address}: TLS needs --tls-cert and --tls-key")
    if address.private or options.insecure:
        return
    if address.scheme == "tcp":
        raise ConfigError(f"{address}: other machines could read it without credentials: bind it to this one alone "
                          "(tcp://@:PORT), or say --insecure")  # fmt: skip
    if not options.protected:
        raise ConfigError(f"{address}: other machines could read it without credentials: give --auth or --auth-file, "
                          "or say --insecure")  # fmt: skip
    if address.scheme == "http" and options.tls_cert is None:
        raise ConfigError(f"{address}: credentials and pictures would cross the network in clear: give --tls-cert and "
                          "--tls-key, or say --insecure")  # fmt: skip


def listen(address: Address) -> list[socket.socket]:
    """Sockets that listen at an address, all with one port number.

    Raises:
        SinkError: the port is taken or not allowed, or the address is not this machine's.
    """
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, host in _resolved(address):
            try:
                made = _bound(family, host, port)
            except OSError as error:
                if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                raise
            sockets.append(made)
            port = made.getsockname()[1]
    except OSError as error:
        for made in sockets:
            made.close()
        raise SinkError(f"{address} cannot be served: {_reason(error, port)}") from error
    return sockets


def check_free(address: Address) -> None:
    """See that `listen` would succeed.

    Raises:
        SinkError: as `listen`.
    """
    for made in listen(address):
        made.close()


def _resolved(address: Address) -> list[tuple[socket.AddressFamily, str]]:
    found: list[tuple[socket.AddressFamily, str]] = []
    for host in address.hosts:
        for family, _, _, _, place in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM):
            if (family, place[0]) not in found:
                found.append((family, str(place[0])))
    return found


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _reason(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} is not allowed to this user"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the address is not one of this machine"
    return error.strerror or str(error)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
