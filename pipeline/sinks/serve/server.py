"""A port with clients: shared by the outputs that name it, bounded in everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from pipeline.errors import PipelineError, SinkError
from pipeline.flow.service import Service
from pipeline.sinks.serve.address import Address, listen
from pipeline.sinks.serve.admission import Admission, Guest, network_of
from pipeline.sinks.serve.guessing import Guessing, Tally
from pipeline.sinks.serve.message import HEAD_BYTES
from pipeline.sinks.serve.outflow import Outflow

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""How long a client may take to agree on TLS."""

FIRST_REQUEST_S = 10.0
"""How long a client may take for a request, until it has sent one that was good."""

IDLE_S = 60.0
"""How long it may stay silent afterwards, where nothing is sent to it."""

LINGER_S = 5.0
"""How long one may take what was written last, and the end of TLS."""

_TICK_S = 0.5
_FLUSH_S = 1.0


class Connection(ABC):
    """One client; made and used in the service thread alone.

    Attributes:
        deadline: ``time.monotonic()`` at which it is cut off if it stays silent.
        outflow: what waits to be sent to it.
        known: it has asked for something that it may have, so it makes no room for others.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.outflow = Outflow(writer.transport)
        self.deadline = time.monotonic() + FIRST_REQUEST_S
        self.known = False
        peer = writer.get_extra_info("peername")
        self.peer: str = peer[0] if peer else ""

    def gone(self) -> bool:
        """The client has hung up, and everything that it has said is read."""
        return self.reader.at_eof() or self.writer.is_closing()

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
        self._sockets: list[socket.socket] = []
        self._ticking: asyncio.Task[None] | None = None
        self._admission = Admission()
        self._tasks: set[asyncio.Task[None]] = set()
        self.guessing = Guessing()
        self.tally = Tally(str(address))

    async def open(self) -> None:
        """Listen.

        Raises:
            SinkError: as `listen`.
        """
        self._sockets = listen(self.address)
        self.port = self._sockets[0].getsockname()[1]
        for each in self._sockets:
            self._listen(each)
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Give what is written a moment to be sent, and hang up."""
        if self._ticking is not None:
            self._ticking.cancel()
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            each.close()
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
        self.tally.flush()

    def _listen(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Take a client in; it is counted before TLS begins.

        No task does it: one that is cancelled may hold a client already, who then would wait for ever.
        """
        loop = asyncio.get_running_loop()
        try:
            wire, where = listening.accept()
        except BlockingIOError:  # it has gone already
            return
        except OSError as error:  # no descriptor is left
            self.tally.note(f"a client cannot be accepted: {error.strerror}")
            loop.remove_reader(listening)
            loop.call_later(_TICK_S, self._listen, listening)
            return
        wire.setblocking(False)
        guest = Guest(network_of(where[0]))
        if self._admission.admit(guest):
            guest.task = loop.create_task(self._attend(wire, guest))
            self._tasks.add(guest.task)
            guest.task.add_done_callback(self._tasks.discard)
        else:
            self.tally.note(f"too many clients, {guest.peer} is turned away")
            wire.close()

    async def _attend(self, wire: socket.socket, guest: Guest) -> None:
        try:
            reader, writer = await self._connected(wire)
        except (OSError, asyncio.CancelledError):
            wire.close()
            self._admission.leave(guest)
            return
        connection = guest.visitor = self._connect(self, reader, writer)
        self.connections.add(connection)
        try:
            await connection.serve()
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), LINGER_S)
        except (OSError, EOFError, TimeoutError):
            pass  # it has gone: nobody is left to tell
        except asyncio.CancelledError:
            pass
        finally:
            self.connections.discard(connection)
            self._admission.leave(guest)
            connection.leave()
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()

    async def _connected(self, wire: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        limits = {} if self._tls is None else {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": LINGER_S}
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, wire, ssl=self._tls, **limits)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self.tally.tick(now)
            for connection in tuple(self.connections):
                connection.tick(now)


class Mounted(Generic[M]):
    """One thing at one server: joins the service, opens the server if it is the first, and undoes both.

    For one thread, that of a sink.

    Args:
        make: the server, if nobody listens at the address yet.
        address: where; its path is the thing's name.
        thing: what is served.
        page: what clients ask for below the address.

    Raises:
        SinkError: the port or the name is taken.
    """

    def __init__(self, make: Callable[[Address], Server[M]], address: Address, thing: M, page: str = "") -> None:
        self._address = address
        self.service = Service.join()
        try:
            self.server = self.service.call(self._mount(make, thing))
        except BaseException:
            self.service.leave()
            raise
        log.info("serving %s%s", address.reached(self.server.port), page)

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
