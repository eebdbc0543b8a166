"""Requests as RTSP and HTTP write them, with a limit on everything that a client sends."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import unquote

HEAD_BYTES = 8192
HEADERS = 64
BODY_BYTES = 16384

_LINE = re.compile(r"([A-Z_]{1,32}) (\S{1,2048}) (RTSP|HTTP)/([0-9]\.[0-9])")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ONCE = ("host", "content-length", "transfer-encoding", "authorization", "cseq", "session", "transport", "origin")


class BadRequest(Exception):  # noqa: N818 - named as HTTP names it
    """The client has sent something that is answered by an error.

    Attributes:
        status: code of the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method, uri, protocol, version: of its first line.
        headers: by name in lower case; where one comes twice, joined by commas.
        body: what came with it.
    """

    method: str
    uri: str
    protocol: str
    version: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path alone, decoded, without query, scheme and host, without slashes around it."""
        path = re.sub(r"^[a-z]+://[^/?]*", "", self.uri.partition("?")[0], flags=re.IGNORECASE)
        return unquote(path, errors="replace").strip("/")


async def read_request(reader: asyncio.StreamReader, first: bytes = b"") -> Request:
    """The next request.

    Args:
        reader: made with a limit of `HEAD_BYTES`.
        first: what was read of it already.

    Raises:
        BadRequest: it is malformed or too large.
        asyncio.IncompleteReadError: the connection has ended.
    """
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadRequest(431, "the header is too large") from None
    try:
        lines = head.decode("utf-8").split("\r\n")[:-2]
    except UnicodeDecodeError:
        raise BadRequest(400, "the header is not UTF-8") from None
    request = _parsed(lines)
    length = request.headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,9}", length):
        raise BadRequest(400, "the content's length is no number")
    if "transfer-encoding" in request.headers:
        raise BadRequest(501, "bodies are taken by their length alone")
    if int(length) > BODY_BYTES:
        raise BadRequest(413, "the body is too large")
    if not int(length):
        return request
    body = await reader.readexactly(int(length))
    return Request(request.method, request.uri, request.protocol, request.version, request.headers, body)


def _parsed(lines: list[str]) -> Request:
    match = _LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest(400, "the first line is no request")
    if len(lines) > HEADERS:
        raise BadRequest(431, "there are too many headers")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise BadRequest(400, "a header is malformed")
        name, value = name.lower(), value.strip(" \t")
        if name in headers and name in _ONCE:
            raise BadRequest(400, f"the header {name} comes twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(match[1], match[2], match[3], match[4], headers)
