"""One picture size and format of one input, and all that was made for it.

A change of size or format in mid-stream ends an epoch: its frames drain, its ring is
given back, and the next one gets a ring, a compiled session and a way of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from av.video.reformatter import VideoReformatter

from engines.base import Engine, Session
from pipeline.flow import Buffer, PoolLane, WorkerPool
from pipeline.frame import Frame, Geometry
from pipeline.sinks.base import OutputInfo
from pipeline.slots import Ring, SlotLayout
from pipeline.sources.base import Decoded
from pipeline.stages.prepare import geometry_for, prepare


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
        reformatter: libswscale's tables, kept from picture to picture.
    """

    geometry: Geometry
    session: Session
    ring: Ring
    free: Buffer[int]
    refining: PoolLane | None
    info: OutputInfo
    reformatter: VideoReformatter

    @classmethod
    def open(
        cls, frame: Frame, engine: Engine, *, size: int, slots: int, pool: WorkerPool | None, info: OutputInfo
    ) -> Epoch:
        """Make everything for frames like ``frame``.

        Args:
            frame: the first frame.
            engine: the network.
            size: short side of the network's input, in pixels.
            slots: how many frames may be in flight.
            pool: refining workers, or None.
            info: what sinks are told.

        Raises:
            EngineError: the network cannot take this size.
            PipelineError: not enough memory.
        """
        geometry = geometry_for(frame, engine.model, size)
        session = engine.session(geometry.input_height, geometry.input_width)
        layout = SlotLayout(
            format=frame.format,
            colour=frame.colour,
            height=frame.height,
            width=frame.width,
            geometry=geometry,
            score_shape=session.score_shape,
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
        return cls(geometry, session, ring, free, refining, info, VideoReformatter())

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

    def load(self, number: int, decoded: Decoded) -> Frame:
        """Copy a picture into a slot, make the network's input there, and return the frame that lives there."""
        slot = self.ring[number]
        for ours, theirs in zip(slot.planes, decoded.frame.planes, strict=True):
            np.copyto(ours, theirs)
        prepare(decoded.picture, self.geometry, slot.image, decoded.frame.colour, self.reformatter)
        return replace(decoded.frame, planes=slot.planes)

    def drain(self) -> None:
        """Wait until no frame is in flight, then give the memory back."""
        for _ in range(len(self.ring)):
            self.free.get()
        self.close()

    def close(self) -> None:
        """Give the memory back, drained or not; harmless when repeated."""
        if self.refining is not None:
            self.refining.close()
        self.ring.close()
