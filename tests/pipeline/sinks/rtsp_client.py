"""A client that speaks RTSP as it is told to, and a stream that is served to it."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pipeline.sinks import ServeOptions, open_output
from pipeline.sinks.base import Sink
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.serving import SHOWN, on_air


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Speaks RTSP as it is told to."""

    def __init__(self, port: int, host: str = "127.0.0.1", name: str = "cam") -> None:
        self.url = f"rtsp://{f'[{host}]' if ':' in host else host}:{port}/{name}"
        self.wire = socket.create_connection((host, port), timeout=10)
        self.data = b""
        self.number = 0
        self.packets: list[tuple[int, bytes]] = []
        self.order: list[str] = []

    def read(self, count: int) -> bytes:
        while len(self.data) < count:
            more = self.wire.recv(1 << 16)
            if not more:
                raise EOFError
            self.data += more
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def packet(self) -> tuple[int, bytes]:
        """The next packet within the connection."""
        assert self.read(1) == b"$"
        channel, length = struct.unpack(">BH", self.read(3))
        self.order.append("packet")
        self.packets.append((channel, self.read(length)))
        return self.packets[-1]

    def answer(self) -> Answer:
        while (first := self.read(1)) == b"$":
            self.data = first + self.data
            self.packet()
        head = first
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        self.order.append("answer")
        line, *lines = head.decode().split("\r\n")[:-2]
        match = re.fullmatch(r"RTSP/1\.0 (\d{3}) .+", line)
        assert match, line
        headers = dict(each.split(": ", 1) for each in lines)
        return Answer(int(match[1]), headers, self.read(int(headers.get("Content-Length", "0"))))

    def ask(self, method: str, url: str | None = None, body: bytes = b"", **headers: str) -> Answer:
        self.number += 1
        given = {"CSeq": str(self.number), **{k.replace("_", "-"): v for k, v in headers.items()}}
        if body:
            given["Content-Length"] = str(len(body))
        lines = [f"{method} {url or self.url} RTSP/1.0", *(f"{k}: {v}" for k, v in given.items()), "", ""]
        self.wire.sendall("\r\n".join(lines).encode() + body)
        answer = self.answer()
        assert answer.headers.get("CSeq") == str(self.number)
        return answer

    def play(self) -> Answer:
        self.ask("SETUP", self.url + "/trackID=0", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        return self.ask("PLAY")

    def close(self) -> None:
        self.wire.close()


@contextmanager
def served(serve: ServeOptions | None = None, rate: float = 25) -> Iterator[tuple[int, Sink]]:
    port = free_port()
    sink = open_output(f"rtsp://@:{port}/cam", serve=serve)
    with on_air(sink, SHOWN, rate):
        until(lambda: listens(port), 10, "a listening port")
        yield port, sink


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def client(port: int, host: str = "127.0.0.1", name: str = "cam") -> Iterator[Client]:
    with closing(Client(port, host, name)) as made:
        yield made
