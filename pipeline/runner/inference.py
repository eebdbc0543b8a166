"""The one engine, fed by all inputs in turn.

One thread starts requests and another collects them in the same order.  A frame's place in
the engine is free as soon as its scores are there, whatever its own input does next: an
input that is stuck holds no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from engines.base import Request
from pipeline.flow import Buffer, Closed, FairReader
from pipeline.runner.epoch import Ticket
from pipeline.runner.failing import failing_as
from pipeline.runner.lane import Lane

REQUEST_TIMEOUT_S = 60.0
"""A request that takes longer has hung: the largest network on one old core takes a few seconds."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A request in the engine, or the end of a lane (no ticket)."""

    lane: Lane
    ticket: Ticket | None = None
    request: Request | None = None
    started_ns: int = 0


class Inference:
    """Between the lanes' ``ready`` and ``scored`` buffers.

    Args:
        lanes: the inputs.
        requests: how many requests the engine takes at once.
    """

    def __init__(self, lanes: Sequence[Lane], requests: int) -> None:
        self._lanes = tuple(lanes)
        self._reader = FairReader([lane.ready for lane in self._lanes])
        # A permit is a place in the engine; a started request is never waited for by the starter.
        self._permits: Buffer[None] = Buffer(requests)
        for _ in range(requests):
            self._permits.put(None)
        self._started: Buffer[_Started] = Buffer(requests + len(self._lanes))

    @property
    def buffers(self) -> tuple[Buffer[None], Buffer[_Started]]:
        """Every buffer, for whoever must wake the threads at once."""
        return (self._permits, self._started)

    def start(self) -> None:
        """Thread: hand frames to the engine, one of each input in turn, until all inputs have ended."""
        open_lanes = len(self._lanes)
        while open_lanes:
            self._permits.get()
            index, ticket = self._reader.get()
            if ticket is None:
                open_lanes -= 1
                self._permits.put(None)
                self._started.put(_Started(self._lanes[index]))
                continue
            if not self._lanes[index].admit(ticket):
                self._permits.put(None)
                continue
            began = time.perf_counter_ns()
            with failing_as("infer", ticket.frame.source, ticket.frame.index):
                request = ticket.epoch.session.start(ticket.image, ticket.scores)
            self._started.put(_Started(self._lanes[index], ticket, request, began))
        self._started.close()

    def collect(self) -> None:
        """Thread: wait for each request in turn and hand the frame back to its input."""
        while True:
            try:
                item = self._started.get()
            except Closed:
                return
            if item.ticket is None or item.request is None:
                item.lane.end()
                continue
            with failing_as("infer", item.ticket.frame.source, item.ticket.frame.index):
                item.request.wait(REQUEST_TIMEOUT_S)
            item.lane.meters.infer.add((time.perf_counter_ns() - item.started_ns) / 1e9)
            self._permits.put(None)
            item.lane.submit(item.ticket)
