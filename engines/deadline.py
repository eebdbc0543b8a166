"""HTTP under one deadline: names, connections, proxies, handshakes, headers and body together.

A socket's time-out is for one operation, so a peer that sends a byte now and then holds its client
for ever; and the C library's resolver knows no time-out at all.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import math
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO, Any

_RESOLVE = """
import json, socket, sys
try:
    found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)
except OSError as error:
    print(json.dumps([error.errno, error.strerror]))
    sys.exit(1)
print(json.dumps(list(dict.fromkeys(address[0] for *_, address in found))))
"""


class Deadline:
    """The end of patience, which what arrives puts off.

    Args:
        begin_s: seconds until the first byte.
        pace: bytes that buy another second.
        finish_s: seconds until the last byte.  Once ``begin_s`` have passed, the speed since the first byte must
            promise that: a share of the bytes must be there when that share of the time has passed.

    Attributes:
        gained: bytes that have arrived.
        rest: bytes still to come, None where nobody knows; told by whoever begins to count.
    """

    def __init__(self, begin_s: float, pace: float, finish_s: float = math.inf) -> None:
        self.gained = 0
        self.rest: int | None = None
        self._pace = pace
        self._begin = time.monotonic() + begin_s
        self._finish = self._begin - begin_s + finish_s
        self._first: float | None = None

    def gain(self, count: int) -> None:
        """Bytes have arrived."""
        self._first = self._first or time.monotonic()
        self.gained += count
        if self.rest is not None:
            self.rest -= count

    def left(self) -> float:
        """Seconds left; below 0 when it has passed."""
        end = min(self._begin + self.gained / self._pace, self._finish)
        if self._first is not None and self.rest is not None and math.isfinite(self._finish):
            share = self.gained / max(1, self.gained + self.rest)
            end = min(end, max(self._begin, self._first + (self._finish - self._first) * share))
        return end - time.monotonic()


class Watch:
    """Cuts connections off when a deadline passes, whatever they are doing; a context manager.

    Args:
        deadline: looked at again whenever it seems to have passed.
        silence_s: longest wait for one connection, and for the next byte.

    Attributes:
        cut: the deadline has passed and the connections are dead.
    """

    def __init__(self, deadline: Deadline, silence_s: float) -> None:
        self.cut = False
        self._deadline = deadline
        self._silence_s = silence_s
        # Duplicates: TLS takes a connection's own descriptor over, in the middle of its life.
        self._sockets: list[socket.socket] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="fetch-deadline", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens addresses through the environment's proxies of this moment, on watched connections."""
        opener = urllib.request.OpenerDirector()
        # urllib's own set has handlers for files, FTP and data, too, none of which is watched.
        for handler in (
            urllib.request.ProxyHandler(), _Handler(self), _Redirects(), urllib.request.UnknownHandler(),
            urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(),
        ):  # fmt: skip
            opener.add_handler(handler)
        return opener

    def connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """A watched connection to a host by name or number; see `socket.create_connection`.

        Raises:
            OSError: there is none in time.
        """
        host, port = address
        failure: OSError = TimeoutError("timed out")
        for number in resolve(host, self._deadline.left()):
            wait = min(self._silence_s, self._deadline.left())
            if wait <= 0:
                raise TimeoutError("timed out")
            try:
                connected = socket.create_connection((number, port), wait)
            except OSError as error:
                failure = error
                continue
            connected.settimeout(self._silence_s)
            self._sockets.append(connected.dup())
            if self.cut:  # it has passed meanwhile, and nobody looks at this one any more
                connected.close()
                raise TimeoutError("timed out")
            return connected
        raise failure

    def _wait(self) -> None:
        while not self._done.wait(max(0.0, self._deadline.left())):
            if self._deadline.left() <= 0:
                self.cut = True
                for each in self._sockets:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                return


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Takes the place of urllib's own two."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._maker(http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._maker(http.client.HTTPSConnection), req)

    def _maker(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:
            connection = kind(host, **options)
            # The one place before a proxy's answer and the handshake, which must be watched as well.
            connection._create_connection = self._watch.connect  # type: ignore[attr-defined]
            return connection

        return make


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https alone, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, *rest: Any
    ) -> urllib.request.Request | None:
        headers, new_url = rest
        before, after = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, new_url))
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"it leads from {before} to {after}", headers, fp)
        return super().redirect_request(req, fp, code, msg, *rest)


def resolve(host: str, timeout: float) -> list[str]:
    """The numeric addresses of a host, best first.

    The C library's resolver can take half a minute offline, hence a process of its own.

    Raises:
        OSError: it has none, or none came within ``timeout`` seconds.
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    command = [sys.executable, "-IS", "-c", _RESOLVE, host]
    try:
        done = subprocess.run(command, timeout=max(0.0, timeout), capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError("timed out") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise socket.gaierror(socket.EAI_FAIL, f"cannot look {host} up") from error
    if done.returncode:
        raise socket.gaierror(*answer)
    return [str(number) for number in answer]
