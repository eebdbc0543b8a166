"""A small HTTP server: pages and endless responses, and sites that take a short message."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from urllib.parse import quote

from pipeline.errors import ConfigError
from pipeline.sinks.serve.address import Address
from pipeline.sinks.serve.admission import network_of
from pipeline.sinks.serve.auth import REALM, Credentials
from pipeline.sinks.serve.feed import Feed
from pipeline.sinks.serve.message import BadRequest, Request, read_request
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.serve.server import FIRST_REQUEST_S, IDLE_S, Connection, Server

log = logging.getLogger(__name__)

REASONS = {
    200: "OK",
    201: "Created",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

STRICT = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is all there."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Site(Protocol):
    """What is mounted at an HTTP server."""

    def respond(self, resource: str) -> Response | Feed | None:
        """The answer to a request for a resource of this site; ``""`` for its root, None for one that is not there."""


@runtime_checkable
class ActiveSite(Site, Protocol):
    """A site with resources that take more than GET."""

    def takes(self, method: str, resource: str) -> bool:
        """Whether a resource takes POST or DELETE."""

    async def act(self, request: Request, resource: str, local: str, peer: str) -> Response:
        """The answer to a request that it takes.

        Args:
            request: with a bounded body.
            resource: as for `respond`.
            local: the address at which the client has reached the server.
            peer: whose request it is, see `network_of`.
        """


class HttpServer(Server[Site]):
    """Serves sites by the first parts of their paths.

    Args:
        address: where.
        options: TLS, and the names that it goes by.
        credentials: who may look; None for everybody.
        open_paths: paths that need no credentials.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """

    def __init__(
        self,
        address: Address,
        options: ServeOptions,
        credentials: Credentials | None,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        self.tls = tls_context(options)
        super().__init__(address, lambda _, reader, writer: HttpConnection(self, reader, writer), self.tls)
        self.credentials = credentials
        self.open_paths = open_paths
        self._names = {"localhost", address.host.lower(), socket.gethostname().lower(), *map(str.lower, options.hosts)}

    def goes_by(self, host: str) -> bool:
        """Whether a ``Host`` header means this server.

        A page of somebody else's can make its own name lead to this machine (DNS rebinding), so names must be
        known; addresses cannot be made to lead elsewhere.
        """
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self._names
        return True

    def find(self, path: str) -> Response | Feed | None:
        """The answer to a request for a path without slashes around it."""
        found = self._mounted(path)
        return found[0].respond(found[1]) if found is not None else None

    def active(self, method: str, path: str) -> tuple[ActiveSite, str] | None:
        """The site that takes a method other than GET at a path, and its name for the resource."""
        match self._mounted(path):
            case (ActiveSite() as site, resource) if site.takes(method, resource):
                return site, resource
        return None

    def _mounted(self, path: str) -> tuple[Site, str] | None:
        parts = path.split("/") if path else []
        for count in range(len(parts), -1, -1):
            site = self.mounts.get("/".join(parts[:count]))
            if site is not None:
                return site, "/".join(parts[count:])
        return None


class HttpConnection(Connection):
    """One client; each connection takes one request."""

    def __init__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._server = server
        self._feed: Feed | None = None

    async def serve(self) -> None:
        """Answer one request."""
        try:
            request = await read_request(self.reader)
            await self._answer_to(request)
        except BadRequest as error:
            self._answer(Response(f"{error}\n".encode(), status=error.status))
            return
        except (OSError, EOFError):
            raise
        except Exception as error:
            log.warning("%s: %s: %s", self._server.address, type(error).__name__, error)
            self._answer(Response(b"something went wrong\n", status=500))
            return
        if self._feed is not None:
            while await self.reader.read(1024):  # until the client leaves; what it says is of no interest
                pass

    def tick(self, now: float) -> None:
        """Who looks on may be silent."""
        if self._feed is not None:
            self.deadline = now + IDLE_S
        super().tick(now)

    def leave(self) -> None:
        """It looks on no more."""
        if self._feed is not None:
            self._feed.leave(self)

    async def _answer_to(self, request: Request) -> None:
        self._check(request)
        head = request.method == "HEAD"
        path = request.path
        if path not in self._server.open_paths and not await self._allowed(request):
            challenge = {"WWW-Authenticate": f'Basic realm="{REALM}", charset="UTF-8"'}
            self._answer(Response(b"credentials are needed\n", status=401, headers=challenge), head=head)
            return
        self.known = True
        self.deadline = time.monotonic() + FIRST_REQUEST_S
        active = self._server.active(request.method, path)
        if active is not None:
            site, resource = active
            local = self.writer.get_extra_info("sockname")[0]
            self._answer(await site.act(request, resource, local, network_of(self.peer)))
            return
        if path in self._server.mounts and path and not request.uri.partition("?")[0].endswith("/"):
            there = f"/{quote(path)}/"
            self._answer(Response(b"", status=308, headers={"Location": there}), head=head)
            return
        found = self._server.find(path)
        if found is None:
            self._answer(Response(b"there is nothing here\n", status=404), head=head)
        elif isinstance(found, Response):
            self._answer(found, head=head)
        else:
            self._head(200, {"Content-Type": found.kind})
            if not head:
                self._feed = found
                found.join(self)

    def _check(self, request: Request) -> None:
        headers = request.headers
        if request.protocol != "HTTP" or not request.version.startswith("1."):
            raise BadRequest(505, "this is HTTP/1.1")
        active = self._server.active(request.method, request.path) is not None
        if request.method not in ("GET", "HEAD") and not active:
            raise BadRequest(405, "there is nothing but GET and HEAD here")
        if request.body and not (active and request.method == "POST"):
            raise BadRequest(413, "a body is not wanted")
        host = headers.get("host", "")
        if not self._server.goes_by(host):
            raise BadRequest(421, "this server does not go by that name (--serve-host adds one)")
        scheme = "http" if self._server.tls is None else "https"
        if headers.get("origin", f"{scheme}://{host}").lower() != f"{scheme}://{host}".lower():
            raise BadRequest(403, "pages of other origins have no business here")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and (
            headers.get("sec-fetch-mode") != "navigate"  # a link may lead here
        ):
            raise BadRequest(403, "pages of other sites have no business here")

    async def _allowed(self, request: Request) -> bool:
        credentials = self._server.credentials
        if credentials is None:
            return True
        given = request.headers.get("authorization")
        if given is None:
            return False
        peer = network_of(self.peer)
        if not await self._server.guessing.turn(peer, self.gone):
            raise BadRequest(429, "there were too many wrong tries from your address")
        if credentials.allows_basic(given):
            return True
        self._server.guessing.wrong(peer)
        self._server.tally.note(f"wrong credentials from {peer}")
        return False

    def _answer(self, response: Response, *, head: bool = False) -> None:
        self._head(
            response.status,
            {"Content-Type": response.kind, "Content-Length": str(len(response.body)), **response.headers},
        )
        if not head:
            self.writer.write(response.body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {REASONS[status]}"]
        lines += [f"{name}: {value}" for name, value in {**STRICT, **headers, "Connection": "close"}.items()]
        self.writer.write("\r\n".join((*lines, "", "")).encode())


def tls_context(options: ServeOptions) -> ssl.SSLContext | None:
    """What encrypts, or None without a certificate.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_passphrase() -> str:  # else it would be asked for at the terminal
        raise ConfigError(f"TLS key {options.tls_key}: is encrypted; give one without a passphrase")

    try:
        context.load_cert_chain(options.tls_cert, options.tls_key, no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        told = f"{options.tls_cert} and {options.tls_key}: {reason}"
        raise ConfigError(f"TLS certificate and key cannot be used: {told}") from error
    return context
