"""Messages and descriptors between our own processes, over a pair of sockets with one writer a side.

A stream with length prefixes: a process that is killed in the middle of a message leaves half
of one and then the end, which readers tell apart from a whole one.  Nothing here is locked
between processes, so nobody can die holding what another waits for.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.slots import SlotLayout

_HEADER = struct.Struct("<IB")
_MAX_FDS = 8
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class Spawn:
    """To the host: fork a worker; `serial` is never used twice in a run, `name` may be."""

    serial: int
    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """To the host: SIGKILL this worker if it still lives."""

    serial: int


@dataclass(frozen=True, slots=True)
class Spawned:
    """From the host, with two descriptors: the worker's job socket and its log socket."""

    serial: int
    pid: int


@dataclass(frozen=True, slots=True)
class Died:
    """From the host: a worker ended, in words ("killed by SIGKILL")."""

    serial: int
    how: str


@dataclass(frozen=True, slots=True)
class CannotSpawn:
    """From the host: the system gives no more processes."""

    message: str


@dataclass(frozen=True, slots=True)
class Setup:
    """To a worker, first: what it shall do.

    Attributes:
        target: ``"module:callable"``; called with the specification it gives the job function.
        spec: the specification, pickled here so that only the worker needs its module.
        levels: log levels by logger name, ``""`` for the root.
    """

    target: str
    spec: bytes
    levels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Attach:
    """To a worker, with one descriptor: map this ring."""

    lane: int
    layout: SlotLayout
    count: int


@dataclass(frozen=True, slots=True)
class Detach:
    """To a worker: let go of a ring."""

    lane: int


@dataclass(frozen=True, slots=True)
class Job:
    """To a worker: do this slot.

    Attributes:
        lane, slot: where it is.
        index: the frame's, for messages.
        deadline: ``time.monotonic()`` when it should be done, None if it may take what it takes.
    """

    lane: int
    slot: int
    index: int
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: set up, jobs may come."""


@dataclass(frozen=True, slots=True)
class Done:
    """From a worker: the job is done; `value` is what the job function returned."""

    busy_s: float
    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker: the job raised, or something else did that makes the worker useless (``job=False``)."""

    job: bool
    kind: str
    message: str
    traceback: str


class Wire:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._bytes = bytearray()
        self._fds: deque[int] = deque()

    @classmethod
    def adopt(cls, fd: int) -> Wire:
        """The end that came as a descriptor."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def settimeout(self, seconds: float) -> None:
        """A peer that takes nothing for so long makes `send` raise an OSError."""
        self._socket.settimeout(seconds)

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send one message; callers see to it that only one thread does.

        Raises:
            OSError: the peer is gone.
        """
        payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        data = memoryview(_HEADER.pack(len(payload), len(fds)) + payload)
        if fds:
            data = data[socket.send_fds(self._socket, [data], list(fds)) :]
        self._socket.sendall(data)

    def receive(self) -> list[tuple[bytes, list[int]]]:
        """Wait for bytes; return the messages that are complete now, still pickled, with their descriptors.

        Raises:
            EOFError: the peer is gone (an unfinished message is forgotten).
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, 1 << 16, _MAX_FDS, _CLOEXEC)
        except ConnectionError as error:
            raise EOFError from error
        for fd in fds:
            os.set_inheritable(fd, False)  # where the flag does not exist
        self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise PipelineError("too many open files to talk to the worker processes (see `ulimit -n`)")
        if not data:
            raise EOFError
        self._bytes += data
        return self._complete()

    def _complete(self) -> list[tuple[bytes, list[int]]]:
        messages = []
        while len(self._bytes) >= _HEADER.size:
            length, fds = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + length
            if len(self._bytes) < end:
                break
            messages.append((bytes(self._bytes[_HEADER.size : end]), [self._fds.popleft() for _ in range(fds)]))
            del self._bytes[:end]
        return messages

    def shutdown(self) -> None:
        """End the conversation at both ends, also for copies of this one that a fork elsewhere has made."""
        with contextlib.suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this copy of the end and what came down the wire and was not taken."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.popleft())
