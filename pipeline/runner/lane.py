"""The way of one input's frames: read → prepare → (engine) → [propagate] → label → render → outlets.

Frames keep their order, every buffer between two threads is bounded, and the slots bound
what is in flight.  A method that says "Thread" runs in one of its own.  It hands the end on
when what it reads from has ended, and then alone: where it fails, or is sent home because
another one has, outputs would be finished as if they were whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from engines.base import CancelledError, Engine
from pipeline.errors import SourceError
from pipeline.flow import Buffer, Crew, WorkerPool
from pipeline.frame import Frame, Geometry
from pipeline.options import PropagateOptions
from pipeline.runner.deadline import Deadlines
from pipeline.runner.epoch import Epoch, Ticket
from pipeline.runner.failing import failing_as
from pipeline.runner.labelling import Labelling
from pipeline.runner.meters import LaneMeters
from pipeline.runner.outlet import Delivery, Outlet
from pipeline.runner.places import Places
from pipeline.runner.propagation import Pace, Propagation
from pipeline.runner.waiting import Sides, Waiting
from pipeline.sinks.base import OutputInfo
from pipeline.sources.base import AudioPacket, Decoded, Source
from pipeline.stages.hold import Hold
from pipeline.stages.render import Renderer

log = logging.getLogger(__name__)

AHEAD = 2
"""Decoded pictures that wait for a slot; in live mode a single one, the newest."""

MAX_AGE_NS = 200_000_000
"""Age at which a live frame is too old for the engine, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """How a lane is dimensioned.

    Attributes:
        size: short side of the network's input, in pixels.
        slots: frames in flight between prepare and render.
        live: drop the oldest frame where something is slow, instead of waiting.
        max_latency_ns: since its arrival, at which a live frame is too old for the engine, or is labelled by the
            motion rather than wait for it; None for what is usual.
        workers: refining workers that this input has for itself, less than one where several share them.
        plain: results also carry the picture without paint.
        propagate: what frames take over from those before them.
    """

    size: int
    slots: int
    live: bool
    max_latency_ns: int | None
    workers: float
    propagate: PropagateOptions
    plain: bool = False


class Lane:
    """One input on its way to its outlets.

    Args:
        source: opened.
        outlets: where results go.
        engine: shared by all lanes.
        pool: refining workers shared by all lanes, or None.
        renderer: paints the results, or None where no sink shows pictures.
        options: see `LaneOptions`.
        crew: the run's threads, told of every buffer that is waited on.
    """

    def __init__(
        self,
        source: Source,
        outlets: tuple[Outlet, ...],
        *,
        engine: Engine,
        pool: WorkerPool | None,
        renderer: Renderer | None,
        options: LaneOptions,
        crew: Crew,
        stopping: Callable[[], bool],
    ) -> None:
        self.source = source
        self.outlets = outlets
        self.meters = LaneMeters.new()
        # Workers refine frames side by side, so none of them knows the labels of the one before.
        holds = options.propagate.temporal and pool is None
        hold = Hold(probabilities=engine.model.probabilities) if holds else None
        self.labelling = Labelling(self.meters, renderer, hold, plain=options.plain)
        self.lost: SourceError | None = None
        self.overtaken = self.late_unprepared = self.late_prepared = 0
        self.reading_s = 0.0
        self._engine = engine
        self._pool = pool
        self._renderer = renderer
        self._options = options
        self._crew = crew
        self._stopping = stopping
        self._epoch: Epoch | None = None
        self._expected = 0
        self._max_age_ns = (options.max_latency_ns or MAX_AGE_NS) if options.live else None
        self._deadlines = Deadlines(options.workers) if options.live else None
        self._decoding = 0.0
        # A live source spends its time waiting for the world, which is no work.
        self._clock = self._worked_s if source.info.live else time.perf_counter
        live = options.live
        self.decoded: Buffer[Decoded] = Buffer(1 if live else AHEAD, "oldest" if live else "never", self._count_drop)
        # None is the end: the engine serves all lanes and learns from it that this one is done.
        # As few live frames as can be wait where they grow old; a key frame may not hold up those that follow it.
        self.ready: Buffer[Ticket | None] = Buffer(1 if live and not self.propagates else options.slots + 1)
        # Key frames are chosen by what the engine is at.
        self.places = Places(crew, bounded=live and not self.propagates)
        # Where frames take over something: all of them, in their order, whether they pass the engine or not.
        # None: whatever waits for the next key frame shall wait no longer.
        self.looked: Buffer[Ticket | None] = Buffer(options.slots + 1)
        self.scored: Buffer[Ticket] = Buffer(options.slots + 1)
        crew.watch(self.decoded, self.ready, self.looked, self.scored, *(outlet.buffer for outlet in outlets))

    def _count_drop(self, _: Decoded) -> None:
        self.overtaken += 1

    @property
    def dropped(self) -> int:
        """Pictures dropped between decoder and engine (live mode only)."""
        return self.overtaken + self.late_unprepared + self.late_prepared

    def read(self) -> None:
        """Thread: decode until the end, a stop, or the loss of the stream.

        A loss is kept in `lost`: what came before it is finished first.
        """
        began = time.monotonic()
        try:
            self._read()
        finally:
            self.reading_s = time.monotonic() - began
            self.source.close()

    def _read(self) -> None:
        try:
            items = self.source.read()
            while self._wanted() and (item := self._next(items)) is not None:
                if isinstance(item, AudioPacket):
                    for outlet in self.outlets:
                        outlet.buffer.put(item)
                else:
                    self.decoded.put(item)
        except SourceError as error:
            if not self._stopping():
                self.lost = error
        self.decoded.close()

    def _worked_s(self) -> float:
        """Processor seconds spent on reading and decoding so far."""
        return time.thread_time() + self.source.own_thread_s

    def _wanted(self) -> bool:
        return not self._stopping() and not all(outlet.gone for outlet in self.outlets)

    def _next(self, items: Iterator[Decoded | AudioPacket]) -> Decoded | AudioPacket | None:
        """The next item, None at the end; the time that a picture took is counted."""
        began = self._clock()
        with failing_as("decode", self.source.info.name, self.read_frames):
            item = next(items, None)
        self._decoding += self._clock() - began
        if isinstance(item, Decoded):
            self.meters.decode.add(self._decoding)
            self._decoding = 0.0
        return item

    def prepare(self) -> None:
        """Thread: give each picture a slot, and make the network's input in it."""
        for decoded in self._chosen():
            frame = decoded.frame
            if self._deadlines is not None:
                self._deadlines.came(frame)
            epoch = self._epoch_of(frame)
            if epoch is None:
                break
            number = epoch.free.get()
            if self._too_old(frame):
                self.late_unprepared += 1
                epoch.free.put(number)
                self.places.admitted()
                self.places.give()
                continue
            with failing_as("prepare", frame.source, frame.index), self.meters.prepare:
                ticket = epoch.load(number, decoded)
            if epoch.propagation is not None:
                self._mark(ticket)
                self.looked.put(ticket)
            if ticket.scored:
                self.ready.put(ticket)
        self.looked.close()
        self.ready.put(None)
        if self._epoch is not None:
            self._epoch.drain()

    def _chosen(self) -> Iterator[Decoded]:
        """Pictures to the end, each once there is a place for it: the newest then."""
        self.places.take()
        for decoded in self.decoded:
            yield decoded
            self.places.take()

    def _epoch_of(self, frame: Frame) -> Epoch | None:
        """Where the frame belongs: a new one once that before it has drained; None where the input ends before it."""
        epoch = self._epoch
        if epoch is not None and epoch.takes(frame):
            return epoch
        if epoch is not None:
            if epoch.propagation is not None:
                self.looked.put(None)
            epoch.drain()
            self._epoch = None
        with failing_as("prepare", frame.source, frame.index):
            epoch = self._epoch = self._open_epoch(frame)
        return epoch

    def _too_old(self, frame: Frame) -> bool:
        """Whether the frame has waited too long to be worth the engine's time."""
        return self._max_age_ns is not None and time.monotonic_ns() - frame.captured_ns > self._max_age_ns

    def admit(self, ticket: Ticket) -> bool:
        """Whether the engine, which is free now, should take a frame; one that is too old gives its slot back."""
        if ticket.key is not None:
            return True  # frames that follow wait for it
        self.places.admitted()
        if self._too_old(ticket.frame):
            self.late_prepared += 1
            ticket.epoch.free.put(ticket.slot)
            self.places.give()
            return False
        self._mark(ticket)
        return True

    def _mark(self, ticket: Ticket) -> None:
        """Say of the frame that goes on whether it is the next one."""
        if ticket.frame.index != self._expected:
            ticket.frame = replace(ticket.frame, discontinuity=True)
        self._expected = ticket.frame.index + 1

    def close(self) -> None:
        """Give back what a run that ended early has left; only after its threads have ended."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None  # and with it the network compiled for it

    def _open_epoch(self, frame: Frame) -> Epoch | None:
        """For frames like this one; None where the engine was called off, and the input ends before it."""
        shown = (frame.height, frame.width)
        if self._renderer is not None:
            shown = self._renderer.output_size(*shown)
        stream = replace(
            self.source.info,
            height=frame.height,
            width=frame.width,
            format=frame.format,
            colour=frame.colour.resolved(frame.height),
            sample_aspect_ratio=frame.sample_aspect_ratio,
        )
        model = self._engine.model
        info = OutputInfo(stream, *shown, model.labels, model.name, model.sha256)
        options = self._options
        try:
            epoch = Epoch.open(
                frame,
                self._engine,
                size=options.size,
                slots=options.slots,
                pool=self._pool,
                info=info,
                propagation=self._propagation,
            )
        except CancelledError as error:
            size = f"{frame.width}×{frame.height}"
            log.warning("%s ends before frame %d, of %s: %s", frame.source, frame.index, size, error)
            self.decoded.abort()  # the reader may be waiting for room
            return None
        self._crew.watch(epoch.free)
        return epoch

    @property
    def propagates(self) -> bool:
        """Whether frames take over anything from those before them."""
        return self._options.propagate.active

    def _propagation(self, geometry: Geometry, score_shape: tuple[int, int, int]) -> Propagation | None:
        if not self.propagates:
            return None
        requests, infer = self._engine.info.requests, self.meters.infer
        made = Propagation(
            self._options.propagate,
            geometry=geometry,
            score_shape=score_shape,
            keys=requests + 2,
            pace=Pace(
                interval=lambda: self._deadlines.interval if self._deadlines is not None else None,
                network=lambda: infer.busy_ns / 1e9 / infer.frames / requests if infer.frames else 0.0,
                live=self._options.live,
                max_latency_ns=self._options.max_latency_ns,
            ),
            meter=self.meters.propagation,
        )
        self._crew.watch(*made.buffers)
        return made

    @property
    def read_frames(self) -> int:
        """Pictures decoded so far."""
        return self.meters.decode.frames

    def submit(self, ticket: Ticket) -> None:
        """Take a frame back from the engine; never waits, since there is room for every slot."""
        self.places.give()
        if ticket.epoch.propagation is None:
            self._label(ticket)
        elif ticket.key is not None:
            ticket.epoch.propagation.arrive(ticket.key)

    def end(self) -> None:
        """The engine has given back all that it was given."""
        if not self.propagates:
            self.scored.close()

    def propagate(self) -> None:
        """Thread: give each frame the scores that it is labelled by."""
        waiting: Waiting[Ticket] = Waiting(foresees=self._options.propagate.temporal)
        for ticket in self.looked:
            if ticket is None:
                self._settle(waiting.end())
                continue
            with failing_as("propagate", ticket.frame.source, ticket.frame.index), self.meters.propagate:
                self._settle(self._follow(ticket, waiting))
        self._settle(waiting.end())
        self.scored.close()

    def _follow(self, ticket: Ticket, waiting: Waiting[Ticket]) -> list[Sides[Ticket]]:
        """The frames that may be labelled now."""
        propagation = ticket.epoch.propagation
        assert propagation is not None
        state = propagation.follow(ticket.frame, ticket.motion, ticket.key)
        return waiting.add(ticket, state, ticket.back) if propagation.withholds else [Sides(ticket, state)]

    def _settle(self, done: list[Sides[Ticket]]) -> None:
        for each in done:
            ticket = each.item
            with failing_as("propagate", ticket.frame.source, ticket.frame.index):
                np.copyto(ticket.epoch.ring[ticket.slot].scores, each.scores())
            ticket.known, ticket.ahead = each.earlier, each.ahead
            self._label(ticket)

    def _label(self, ticket: Ticket) -> None:
        if ticket.epoch.refining is not None:
            deadline = self._deadlines.next() if self._deadlines is not None else None
            ticket.epoch.refining.submit(ticket.slot, ticket.frame.index, deadline)
        self.scored.put(ticket)

    def finish(self) -> None:
        """Thread: turn scores into labels, paint, hand to the outlets, and free the slot."""
        for ticket in self.scored:
            delivery = Delivery(self.labelling.result(ticket), ticket.epoch.info)
            ticket.epoch.free.put(ticket.slot)
            for outlet in self.outlets:
                outlet.buffer.put(delivery)
        for outlet in self.outlets:
            outlet.buffer.close()
