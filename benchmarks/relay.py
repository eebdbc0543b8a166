"""A relay between an RTSP client and its server that can lose media packets: the network between them on a bad day."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

FRAME = b"$"
"""First byte of a packet between the lines of RTSP over TCP (RFC 2326, 10.12)."""


class Relay:
    """What the one who measures holds of it.

    Attributes:
        port: to connect to in place of the server's.
    """

    def __init__(self, port: int, loss: Synchronized[float]) -> None:
        self.port = port
        self._loss = loss

    def lose(self, share: float) -> None:
        """Lose this share of the packets from now on, 0 to 1."""
        self._loss.value = share


@contextmanager
def relaying(server: int) -> Iterator[Relay]:
    """Relay to a server's port, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    loss = context.Value("d", 0.0)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(server, loss, there), daemon=True)
    process.start()
    try:
        if not here.poll(20):
            raise RuntimeError("the relay does not run after 20 s")
        yield Relay(here.recv(), loss)
    finally:
        process.kill()
        process.join(10)


def _run(server: int, loss: Synchronized[float], ready: Connection) -> None:
    asyncio.run(_serve(server, loss, ready))


async def _serve(server: int, loss: Synchronized[float], ready: Connection) -> None:
    dice = random.Random(1)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asks = await asyncio.open_connection("127.0.0.1", server)
        except OSError:
            writer.close()
            return
        ways = {asyncio.create_task(_copy(reader, asks)), asyncio.create_task(_thin(answers, writer, loss, dice))}
        _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for one in rest:
            one.cancel()
        asks.close()
        writer.close()

    listening = await asyncio.start_server(meet, "127.0.0.1", 0)
    ready.send(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _thin(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loss: Synchronized[float], dice: random.Random
) -> None:
    with suppress(OSError):
        async for part in _parts(reader):
            if part[:1] != FRAME or dice.random() >= loss.value:
                writer.write(part)
                await writer.drain()


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Packets, and answers of the server between them."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            first = await reader.readexactly(1)
            if first == FRAME:
                head = await reader.readexactly(3)
                yield first + head + await reader.readexactly(int.from_bytes(head[1:]))
                continue
            answer = first + await reader.readuntil(b"\r\n\r\n")
            lines = answer.decode("latin-1").lower().split("\r\n")
            length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
            yield answer + await reader.readexactly(length)
