"""Who is let in at a port, and who makes room for whom."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Protocol

CONNECTIONS = 64
CONNECTIONS_OF_ONE_PEER = 32

STRANGERS = 16
"""Connections that have shown no right to anything so far, of all peers."""


class Visitor(Protocol):
    """Whoever talks to the client."""

    @property
    def known(self) -> bool:
        """It has asked for something that it may have."""


class Guest:
    """One connection, from the moment at which it is accepted.

    Args:
        peer: whose it is, see `network_of`.

    Attributes:
        visitor: who talks to the client, once TLS is agreed upon.
        task: serves it.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.visitor: Visitor | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def known(self) -> bool:
        """It never makes room for another."""
        return self.visitor is not None and self.visitor.known

    def dismiss(self) -> None:
        """End it at once."""
        if self.task is not None:
            self.task.cancel()


class Admission:
    """The guests of one port, counted from before TLS begins; used in the service thread alone."""

    def __init__(self) -> None:
        self._guests: dict[Guest, None] = {}  # the oldest first

    def admit(self, guest: Guest) -> bool:
        """Take a guest in; False where there is no room.

        Where there is none, the oldest connection that has shown no right to be here is dismissed: of the
        same peer if that has too many, else of the peer that has the most of them.
        """
        strangers = [each for each in self._guests if not each.known]
        if sum(each.peer == guest.peer for each in self._guests) >= CONNECTIONS_OF_ONE_PEER:
            leaving = [each for each in strangers if each.peer == guest.peer]
        elif len(strangers) >= STRANGERS or len(self._guests) >= CONNECTIONS:
            greedy = Counter(each.peer for each in strangers).most_common(1)
            leaving = [each for each in strangers if each.peer == greedy[0][0]]
        else:
            self._guests[guest] = None
            return True
        if not leaving:
            return False
        self.leave(leaving[0])
        leaving[0].dismiss()
        self._guests[guest] = None
        return True

    def leave(self, guest: Guest) -> None:
        """It has gone; harmless when repeated."""
        self._guests.pop(guest, None)


def network_of(address: str) -> str:
    """What belongs to one peer: an IPv4 address, or 64 bits of an IPv6 address, all of which one machine may have."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
