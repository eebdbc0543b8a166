"""A port with clients: shared by the outputs that name it, bounded in everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from pipeline.errors import PipelineError, SinkError
from pipeline.flow.service import Service
from pipeline.sinks.serve.address import Address, listen
from pipeline.sinks.serve.message import HEAD_BYTES
from pipeline.sinks.serve.outflow import Outflow

log = logging.getLogger(__name__)

CONNECTIONS = 64
CONNECTIONS_OF_ONE_PEER = 32

FIRST_REQUEST_S = 10.0
"""How long a client may take for a request, until it has sent one that was good."""

IDLE_S = 60.0
"""How long it may stay silent afterwards, where nothing is sent to it."""

_TICK_S = 0.5
_FLUSH_S = 1.0


class Connection(ABC):
    """One client; made and used in the service thread alone.

    Attributes:
        deadline: ``time.monotonic()`` at which it is cut off if it stays silent.
        outflow: what waits to be sent to it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.outflow = Outflow(writer.transport)
        self.deadline = time.monotonic() + FIRST_REQUEST_S
        peer = writer.get_extra_info("peername")
        self.peer: str = peer[0] if peer else ""

    @abstractmethod
    async def serve(self) -> None:
        """Talk to the client until either has enough."""

    def tick(self, now: float) -> None:
        """Called twice a second: cut it off if its time is up."""
        if now > self.deadline or self.outflow.stuck:
            self.writer.transport.abort()

    @abstractmethod
    def leave(self) -> None:
        """The connection has ended, whatever the reason."""


M = TypeVar("M")


class Server(Generic[M]):
    """Listens at an address; its clients ask for one of the things mounted there by name.

    All of it happens in the service thread, but for what `Mounted` does.

    Args:
        address: where.
        connect: makes the connection of a client.
        tls: encrypt.
    """

    _all: ClassVar[dict[tuple[str, int], Server[object]]] = {}

    def __init__(
        self,
        address: Address,
        connect: Callable[[Server[M], asyncio.StreamReader, asyncio.StreamWriter], Connection],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.mounts: dict[str, M] = {}
        self.connections: set[Connection] = set()
        self.port = 0
        self._connect = connect
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._ticker: asyncio.Task[None] | None = None
        self._peers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen.

        Raises:
            SinkError: as `listen`.
        """
        sockets = listen(self.address)
        self.port = sockets[0].getsockname()[1]
        for each in sockets:
            server = await asyncio.start_server(self._accept, sock=each, limit=HEAD_BYTES, ssl=self._tls)
            self._servers.append(server)
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Give what is written a moment to be sent, and hang up."""
        for server in self._servers:
            server.close()
        if self._ticker is not None:
            self._ticker.cancel()
        until = time.monotonic() + _FLUSH_S
        while time.monotonic() < until and any(not each.outflow.clear for each in self.connections):
            await asyncio.sleep(0.01)
        for connection in tuple(self.connections):
            connection.writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FLUSH_S / 2)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FLUSH_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._connect(self, reader, writer)
        full = len(self.connections) >= CONNECTIONS or self._peers[connection.peer] >= CONNECTIONS_OF_ONE_PEER
        if full:
            log.warning("%s: too many clients, %s is turned away", self.address, connection.peer)
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections.add(connection)
        self._peers[connection.peer] += 1
        try:
            await connection.serve()
        except (OSError, EOFError, ssl.SSLError):
            pass  # it has gone: nobody is left to tell
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            self.connections.discard(connection)
            self._peers -= Counter([connection.peer])
            connection.leave()
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            for connection in tuple(self.connections):
                connection.tick(now)


class Mounted(Generic[M]):
    """One thing at one server: joins the service, opens the server if it is the first, and undoes both.

    For one thread, that of a sink.

    Args:
        make: the server, if nobody listens at the address yet.
        address: where; its path is the thing's name.
        thing: what is served.

    Raises:
        SinkError: the port or the name is taken.
    """

    def __init__(self, make: Callable[[Address], Server[M]], address: Address, thing: M) -> None:
        self._address = address
        self.service = Service.join()
        try:
            self.server = self.service.call(self._mount(make, thing))
        except BaseException:
            self.service.leave()
            raise

    async def _mount(self, make: Callable[[Address], Server[M]], thing: M) -> Server[M]:
        key = (self._address.host, self._address.port)
        known = Server._all.get(key)
        if known is None:
            server = make(self._address)
            await server.open()
            if self._address.port:
                Server._all[key] = server  # type: ignore[assignment]
        elif known.address.scheme != self._address.scheme:
            raise SinkError(f"{self._address} cannot be served: {known.address} has the port")
        else:
            server = known  # type: ignore[assignment]
        if self._address.path in server.mounts:
            raise SinkError(f"{self._address} is served already: give each output its own name")
        server.mounts[self._address.path] = thing
        return server

    def close(self) -> None:
        """Take it away; the server ends with the last."""
        try:
            self.service.call(self._unmount())
        except PipelineError as error:
            log.warning("%s: %s", self._address, error)
        finally:
            self.service.leave()

    async def _unmount(self) -> None:
        server = self.server
        server.mounts.pop(self._address.path, None)
        if not server.mounts:
            Server._all.pop((self._address.host, self._address.port), None)
            await server.close()
