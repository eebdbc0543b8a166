"""A server on this machine that behaves, or does what bad networks do."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from engines import zoo
from engines.catalogue import ZOO

PUBLISHED = "deeplabv3_mnv2_pascal_quant.tflite"
BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Behaviour:
    """What the server does; and what it saw."""

    body: bytes = BODY
    tag: str | None = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes of each of the next answers
    status: list[int] = field(default_factory=list)  # of each of the next answers, before 200
    location: list[str] = field(default_factory=list)  # where each of the next answers leads
    chunk: int = 20_000
    pause_s: float = 0.0  # between chunks
    stall_after: int | None = None  # bytes of the body; what is behind them does not come until `go_on`
    go_on: threading.Event = field(default_factory=threading.Event)
    with_length: bool = True
    length_off: int = 0  # the lie in Content-Length
    wrong_range: bool = False
    seen: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        does = self.server.does
        does.seen.append({key.lower(): value for key, value in self.headers.items()})
        does.paths.append(self.path)
        if does.status:
            self.send_error(does.status.pop(0))
            return
        if does.location:
            self.send_response(302)
            self.send_header("Location", does.location.pop(0))
            self.end_headers()
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and does.ranges and self.headers.get("If-Range", does.tag) == does.tag:
            start = int(asked[1])
            if start >= len(does.body):
                self.send_error(416)
                return
            self.send_response(206)
            shift = 1 if does.wrong_range else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(does.body) - 1}/{len(does.body)}")
        else:
            self.send_response(200)
        if does.tag:
            self.send_header("ETag", does.tag)
        if does.with_length:
            self.send_header("Content-Length", str(len(does.body) - start + does.length_off))
        self.end_headers()
        stop = start + does.break_after.pop(0) if does.break_after else len(does.body)
        for at in range(start, min(stop, len(does.body)), does.chunk):
            if does.stall_after is not None and at >= does.stall_after:
                does.go_on.wait(30)
                return
            self.wfile.write(does.body[at : min(at + does.chunk, stop)])
            time.sleep(does.pause_s)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.does = Behaviour()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/net.tflite"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the tests."""


def point_at(url: str, patch: pytest.MonkeyPatch) -> None:
    """Let ``voc`` come from another address."""
    entry = ZOO["voc"]
    assert entry.download
    moved = replace(entry, download=replace(entry.download, url=url))
    patch.setattr(zoo, "VOC_MOBILENET", moved)
    patch.setitem(ZOO, "voc", moved)


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {target.name, target.name + ".lock"}
