"""One picture size and format of one input, and all that was made for it.

A change of size or format in mid-stream ends an epoch: its frames drain, its ring is
given back, and the next one gets a ring, a compiled session and a way of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from av.video.reformatter import VideoReformatter

from engines.base import Engine, EngineError, FrameMap, FrameSession, PageLocking, RawFrame, Session
from pipeline.flow import Buffer, PoolLane, WorkerPool
from pipeline.frame import Float32, Frame, Geometry, UInt8
from pipeline.runner.propagation import Key, Propagation
from pipeline.sinks.base import OutputInfo
from pipeline.slots import Ring, SlotLayout
from pipeline.sources.base import Decoded, StreamInfo
from pipeline.stages.colour import yuv_to_rgb
from pipeline.stages.motion import Motion
from pipeline.stages.prepare import geometry_for, prepare
from pipeline.stages.propagate import State

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ticket:
    """A frame on its way, and the slot that holds it.

    Attributes:
        motion: to the frame before, where that is looked at.
        back: from that to this one, where frames wait for the next key frame.
        key: where the network works on it, if not in the slot.
        known: what its scores were made from, where frames take over any.
        ahead: the next frame's scores, see `Sides`.
    """

    epoch: Epoch
    slot: int
    frame: Frame
    motion: Motion | None = None
    back: Motion | None = None
    key: Key | None = None
    known: State | None = None
    ahead: Float32 | None = None

    @property
    def scored(self) -> bool:
        """Whether it passes the network."""
        return self.epoch.propagation is None or self.key is not None

    @property
    def image(self) -> UInt8:
        """The network's input."""
        return self.epoch.ring[self.slot].image if self.key is None else self.key.image

    @property
    def raw(self) -> RawFrame | None:
        """The frame for an engine that labels it by itself, None where that gives scores."""
        slot, where = self.epoch.ring[self.slot], self.epoch.where
        return None if where is None else RawFrame(slot.planes, where, slot.labels)

    @property
    def scores(self) -> Float32:
        """The network's answer."""
        return self.epoch.ring[self.slot].scores if self.key is None else self.key.scores


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the frames of one size and format share.

    Attributes:
        geometry: where the network's input lies in these frames.
        session: the network compiled for it.
        ring: memory of the frames in flight.
        free: numbers of the slots that hold no frame.
        refining: the way through the refining workers, or None.
        info: what sinks are told.
        propagation: what its frames take over from those before, or None.
        where: what these frames are to an engine that labels them by itself, None where it gives scores.
        reformatter: libswscale's tables, kept from picture to picture.
        unlock: lets the ring's memory be paged again, where an engine copies straight from it.
    """

    geometry: Geometry
    session: Session
    ring: Ring
    free: Buffer[int]
    refining: PoolLane | None
    info: OutputInfo
    propagation: Propagation | None
    where: FrameMap | None
    reformatter: VideoReformatter
    unlock: Callable[[], None]

    @classmethod
    def open(
        cls,
        frame: Frame,
        engine: Engine,
        *,
        size: int,
        slots: int,
        pool: WorkerPool | None,
        info: OutputInfo,
        propagation: Callable[[Geometry, tuple[int, int, int]], Propagation | None],
    ) -> Epoch:
        """Make everything for frames like ``frame``.

        Args:
            frame: the first frame.
            engine: the network.
            size: short side of the network's input, in pixels.
            slots: how many frames may be in flight.
            pool: refining workers, or None.
            info: what sinks are told.
            propagation: makes what its frames take over, from the geometry and the scores' shape.

        Raises:
            EngineError: the network cannot take this size.
            PipelineError: not enough memory.
        """
        geometry = geometry_for(frame, engine.model, size)
        session = engine.session(geometry.input_height, geometry.input_width)
        following = propagation(geometry, session.score_shape)
        where = get_ready(frame, geometry, session, on_scores=pool is not None or following is not None)
        layout = SlotLayout(
            format=frame.format,
            colour=frame.colour,
            height=frame.height,
            width=frame.width,
            geometry=geometry,
            score_shape=session.score_shape,
            half_scores=engine.info.half_scores,
        )
        ring = Ring(layout, slots)
        try:
            refining = pool.lane(ring) if pool else None
        except BaseException:  # the pool has failed: nobody else knows of the ring yet
            ring.close()
            raise
        free: Buffer[int] = Buffer(slots)
        for number in range(slots):
            free.put(number)
        unlock = _page_locked(ring, engine)
        return cls(geometry, session, ring, free, refining, info, following, where, VideoReformatter(), unlock)

    def takes(self, frame: Frame) -> bool:
        """Whether ``frame`` is of this epoch."""
        layout = self.ring.layout
        return (
            frame.height == layout.height
            and frame.width == layout.width
            and frame.format == layout.format
            and frame.colour == layout.colour
            and frame.sample_aspect_ratio == self.info.stream.sample_aspect_ratio
        )

    def load(self, number: int, decoded: Decoded) -> Ticket:
        """Copy a picture into a slot and, if it passes the network, make the network's input."""
        slot = self.ring[number]
        for ours, theirs in zip(slot.planes, decoded.frame.planes, strict=True):
            np.copyto(ours, theirs)
        frame = replace(decoded.frame, planes=slot.planes)
        ticket = Ticket(self, number, frame)
        if self.propagation is not None:
            ticket.motion, ticket.back, ticket.key = self.propagation.look(frame)
        if ticket.scored and self.where is None:
            prepare(decoded.picture, self.geometry, ticket.image, frame.colour, self.reformatter)
        return ticket

    def drain(self) -> None:
        """Wait until no frame is in flight, then give the memory back."""
        for _ in range(len(self.ring)):
            self.free.get()
        self.close()

    def close(self) -> None:
        """Give the memory back, drained or not; harmless when repeated."""
        if self.refining is not None:
            self.refining.close()
        self.unlock()
        self.ring.close()


def get_ready(frame: Frame | StreamInfo, geometry: Geometry, session: Session, *, on_scores: bool) -> FrameMap | None:
    """Have a session do what the first frames would wait for.

    Args:
        frame: one that is like all that will come, or what is known of the stream.
        geometry: where the network's input lies in them.
        session: the network compiled for that.
        on_scores: something works on scores, so they are needed here.

    Returns:
        What frames are to the engine where it labels them by itself, else None.

    Raises:
        EngineError: the network cannot be run.
    """
    where = None if on_scores else _labelled_there(frame, geometry, session)
    if isinstance(session, FrameSession):
        session.warm_up(None if where is None else _blank(frame, where))
    return where


def _blank(frame: Frame | StreamInfo, where: FrameMap) -> RawFrame:
    """A frame without a picture, like those that will come."""
    shape = (frame.height, frame.width)
    planes = tuple(np.zeros(plane, frame.format.dtype) for plane in frame.format.plane_shapes(*shape))
    return RawFrame(planes, where, np.empty(shape, np.uint8))


def _labelled_there(frame: Frame | StreamInfo, geometry: Geometry, session: Session) -> FrameMap | None:
    """What frames are, where the engine can label them by itself."""
    if not isinstance(session, FrameSession) or not session.takes(frame.format.name):
        return None
    return FrameMap(
        layout=frame.format.name,
        frame=(geometry.frame_height, geometry.frame_width),
        picture=(geometry.picture_height, geometry.picture_width),
        matrix=yuv_to_rgb(frame.colour.resolved(frame.height), 8).tolist(),
        score_map=geometry.score_map(*session.score_shape[1:]),
    )


def _page_locked(ring: Ring, engine: Engine) -> Callable[[], None]:
    """Let the engine copy straight from and to the ring; what undoes it, harmless when repeated."""
    if not isinstance(engine, PageLocking):
        return lambda: None
    memory: UInt8 | None = ring.memory
    assert memory is not None
    try:
        engine.page_lock(memory)
    except EngineError as error:
        _log.warning("the frames' memory is copied twice on its way to the GPU: %s", error)
        return lambda: None

    def unlock() -> None:
        nonlocal memory
        if memory is not None:
            engine.page_unlock(memory)
            memory = None  # the last view of it: the ring can be unmapped

    return unlock
