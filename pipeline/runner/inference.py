"""The one engine, fed by all inputs in turn.

One thread starts requests and another collects them in the same order.  A frame's place in
the engine is free as soon as its scores are there, whatever its own input does next: an
input that is stuck holds no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from engines.base import BatchSession, EngineInfo, FrameSession, Request
from pipeline.flow import Buffer
from pipeline.runner.batching import Batch, Batcher
from pipeline.runner.failing import failing_as
from pipeline.runner.lane import Lane
from pipeline.telemetry import BatchMeter

REQUEST_TIMEOUT_S = 60.0
"""A request that takes longer has hung: the largest network on one old core takes a few seconds."""


@dataclass(frozen=True, slots=True)
class _Started:
    """Frames in the engine, and inputs that have ended after those before (no request where that is all)."""

    batch: Batch
    request: Request | None = None
    started_ns: int = 0


class Inference:
    """Between the lanes' ``ready`` and ``scored`` buffers.

    Args:
        lanes: the inputs.
        info: how many requests the engine takes at once, and how many frames in one.
    """

    def __init__(self, lanes: Sequence[Lane], info: EngineInfo) -> None:
        requests = info.requests
        self.meter = BatchMeter()
        self._batcher = Batcher(lanes, info.max_batch)
        # A permit is a place in the engine; a started request is never waited for by the starter.
        self._permits: Buffer[None] = Buffer(requests)
        for _ in range(requests):
            self._permits.put(None)
        self._started: Buffer[_Started] = Buffer(requests + len(lanes))

    @property
    def buffers(self) -> tuple[Buffer[None], Buffer[_Started]]:
        """Every buffer, for whoever must wake the threads at once."""
        return (self._permits, self._started)

    def start(self) -> None:
        """Thread: hand frames to the engine, one of each input in turn, until all inputs have ended."""
        while not self._batcher.ended:
            self._permits.get()
            batch = self._batcher.next()
            if batch.members:
                began = time.perf_counter_ns()
                with failing_as("infer", batch.name, batch.members[0][1].frame.index):
                    request = _begin(batch)
                self.meter.add(len(batch.members), batch.waited_s)
                self._started.put(_Started(batch, request, began))
                continue
            self._permits.put(None)
            if batch.ended:
                self._started.put(_Started(batch))
        self._started.close()

    def collect(self) -> None:
        """Thread: wait for each request in turn and hand the frames back to their inputs."""
        for item in self._started:
            members = item.batch.members
            if item.request is not None:
                with failing_as("infer", item.batch.name, members[0][1].frame.index):
                    item.request.wait(REQUEST_TIMEOUT_S)
                took = (time.perf_counter_ns() - item.started_ns) / 1e9
                self._batcher.took(took)
                self._permits.put(None)
                for lane, ticket in members:
                    lane.meters.infer.add(took / len(members))
                    lane.submit(ticket)
            for lane in item.batch.ended:
                lane.end()


def _begin(batch: Batch) -> Request:
    """One request for all frames of a batch: the engine labels all of a run's frames by itself, or none."""
    tickets = [ticket for _, ticket in batch.members]
    session = tickets[0].epoch.session
    raw = [raw for ticket in tickets if (raw := ticket.raw) is not None]
    if raw:
        assert isinstance(session, FrameSession)
        return session.start_frames(raw)
    if len(tickets) == 1:
        return session.start(tickets[0].image, tickets[0].scores)
    assert isinstance(session, BatchSession)
    return session.start_batch([ticket.image for ticket in tickets], [ticket.scores for ticket in tickets])
