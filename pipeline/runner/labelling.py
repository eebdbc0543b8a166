"""The end of a frame's way: its scores, or refined labels, become a painted picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.errors import StageError
from pipeline.flow import PoolLane
from pipeline.frame import Frame, Result
from pipeline.runner.epoch import Ticket
from pipeline.runner.failing import failing_as
from pipeline.runner.meters import LaneMeters
from pipeline.stages.hold import Hold
from pipeline.stages.refine import CRFWork
from pipeline.stages.render import Renderer
from pipeline.stages.upsample import Counts, class_counts, upsample_argmax

REFINE_TIMEOUT_S = 180.0
"""Longer than the two tries that the pool gives a frame before it passes unrefined."""


class Labelling:
    """Makes the results of one input, in the order of its frames.

    Args:
        meters: of the input.
        renderer: paints the results, or None where no sink shows pictures.
        hold: labels that hold on from frame to frame, or None.
        plain: results also carry the picture without paint.

    Attributes:
        unrefined: frames that passed without the refinement that was asked for.
    """

    def __init__(self, meters: LaneMeters, renderer: Renderer | None, hold: Hold | None, *, plain: bool) -> None:
        self.unrefined = 0
        self._meters = meters
        self._renderer = renderer
        self._hold = hold
        self._plain = plain

    def result(self, ticket: Ticket) -> Result:
        """Of a frame whose scores, or labels, are in its slot; nothing in it refers to the slot.

        Raises:
            StageError: a stage failed; it says which, and at which frame.
        """
        epoch, frame = ticket.epoch, ticket.frame
        slot = epoch.ring[ticket.slot]
        refined = epoch.refining is not None and self._collect_refined(epoch.refining, frame)
        if refined or epoch.where is not None:
            counts = class_counts(slot.labels, slot.scores.shape[0])
        else:
            with failing_as("upsample", frame.source, frame.index), self._meters.upsample:
                counts = self._label(ticket)
        with failing_as("render", frame.source, frame.index), self._meters.render:
            plain = _own(frame) if self._plain or self._renderer is None else None
            painted = self._renderer.render(frame, slot.labels, counts) if self._renderer is not None else plain
        assert painted is not None
        shares = tuple((counts / slot.labels.size).tolist())
        whole = refined or epoch.refining is None
        return Result(painted, slot.labels.copy(), shares, whole, plain if self._plain else None)

    def _label(self, ticket: Ticket) -> Counts:
        """Fill the slot's labels; returns the number of pixels of each class."""
        geometry, slot = ticket.epoch.geometry, ticket.epoch.ring[ticket.slot]
        if self._hold is not None and ticket.known is not None:
            return self._hold.label(
                slot.scores, geometry, ticket.motion, slot.labels, known=ticket.known, ahead=ticket.ahead
            )
        scores = slot.scores.astype(np.float32, copy=False)  # half where the CRF was to take them
        _, counts = upsample_argmax(scores, geometry, slot.labels)
        return counts

    def _collect_refined(self, refining: PoolLane, frame: Frame) -> bool:
        try:
            with failing_as("refine", frame.source, frame.index), self._meters.for_refined:
                outcome = refining.next(REFINE_TIMEOUT_S)
        except StageError as error:
            if not str(error).startswith(frame.source):  # a worker knows frames, but not of which input
                told = StageError(f"{frame.source}: {error}", stage=error.stage, index=error.index)
                raise told from error.__cause__
            raise
        self._meters.refine.add(outcome.busy_s)
        if isinstance(outcome.value, CRFWork):
            self._meters.crf.add(outcome.busy_s, outcome.value.classes, outcome.value.iterations)
        self.unrefined += not outcome.refined
        return outcome.refined


def _own(frame: Frame) -> Frame:
    """A copy that outlives the frame's slot."""
    y, u, v = (plane.copy() for plane in frame.planes)
    return replace(frame, planes=(y, u, v))
