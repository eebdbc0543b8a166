"""What wrong credentials cost a peer, and what is logged of clients."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

FREE_TRIES = 4
"""Wrong tries of a peer that cost nothing: people mistype, and players try what they knew."""

PAUSE_S = 0.5
"""Time between the tries that are looked at afterwards, at first; it doubles with each that is wrong."""

LONGEST_PAUSE_S = 2.0
WAITING = 4
"""Tries of a peer that may wait; more are refused unseen."""

FORGET_S = 120.0
"""Time without a wrong try after which a peer begins anew."""

PEERS = 1024
CAUSES = 64
REPEAT_S = 60.0


@dataclass(slots=True)
class _Record:
    wrong: int = 0
    waiting: int = 0
    last: float = 0.0
    next: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Guessing:
    """Paces those who guess, whatever number of connections they use; in the service thread alone.

    Tries of a peer that has guessed too often are looked at one after the other, ever further apart, so that
    hanging up before the answer gains nothing.
    """

    def __init__(self) -> None:
        self._peers: dict[str, _Record] = {}

    async def turn(self, peer: str, gone: Callable[[], bool]) -> bool:
        """Wait until a try of this peer may be looked at; False where it may not.

        Args:
            peer: see `network_of`.
            gone: whether the client has left meanwhile.
        """
        record = self._peers.get(peer)
        if record is None or record.wrong < FREE_TRIES:
            return True
        if time.monotonic() - record.last > FORGET_S:
            del self._peers[peer]
            return True
        if record.waiting >= WAITING:
            return False
        record.waiting += 1
        try:
            async with record.turn:
                if gone():
                    return False
                await asyncio.sleep(record.next - time.monotonic())
                if gone():
                    return False
                record.next = time.monotonic() + min(PAUSE_S * 2 ** min(record.wrong - FREE_TRIES, 8), LONGEST_PAUSE_S)
                return True
        finally:
            record.waiting -= 1

    def wrong(self, peer: str) -> None:
        """A try was wrong."""
        record = self._peers.pop(peer, None) or _Record()
        record.wrong += 1
        record.last = time.monotonic()
        if record.wrong == FREE_TRIES:
            record.next = record.last + PAUSE_S
        self._peers[peer] = record
        if len(self._peers) > PEERS:
            del self._peers[next(iter(self._peers))]


class Tally:
    """Warnings that clients can cause at will: the first of a kind is logged, of more their number once a minute.

    Args:
        name: of the server.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: dict[str, int] = {}
        self._began = time.monotonic()

    def note(self, cause: str) -> None:
        """It has happened."""
        if cause not in self._counts and len(self._counts) >= CAUSES:
            cause = "more of the kind from others"
        count = self._counts.get(cause, 0)
        self._counts[cause] = count + 1
        if count == 0:
            log.warning("%s: %s", self._name, cause)

    def tick(self, now: float) -> None:
        """Called now and then."""
        if now - self._began >= REPEAT_S:
            self._began = now
            self.flush()

    def flush(self) -> None:
        """Log what was held back."""
        for cause, count in self._counts.items():
            if count > 1:
                log.warning("%s: %s, %d times in the last minute", self._name, cause, count)
        self._counts.clear()
