"""Labels that hold on: a pixel changes its class only where another one has come to score clearly higher.

Scores of two classes cross along every outline, and what tips them there from one frame to the next is noise.  Where
the next frame's scores are known, a change that lasts needs no margin, and one that would be taken back twice as much:
that is what the best sequence of labels does that can see as far, if its score is theirs less `MARGIN_AHEAD` a change.
"""

from __future__ import annotations

import numpy as np

from pipeline.frame import Float32, Geometry, UInt8
from pipeline.stages.motion import Motion, same_scene
from pipeline.stages.propagate import State
from pipeline.stages.upsample import Before, Counts, upsample_argmax

MARGIN = 0.15
"""Of two logits: a class that is e^0.15 = 1.16 times as probable as the pixel's own does not take it yet.  More makes
outlines that move come late."""

MARGIN_AHEAD = 0.28
"""The same where the next frame's scores are known: an outline that moves does not come late by it."""

OF_PROBABILITIES = 0.5
"""Margins of probabilities to those of logits: two that sum up to p lie p·tanh(m/2) apart where their logits do m."""

FULL = 4.0
"""Frames in a mean up to which the margin is full: where things move, a mean contains no more."""


class Hold:
    """The labels of one stream's last frame, which its next one holds on to.

    Args:
        probabilities: scores are some, not logits.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        self._scale = OF_PROBABILITIES if probabilities else 1.0
        self._labels: UInt8 | None = None

    def label(
        self,
        scores: Float32,
        geometry: Geometry,
        motion: Motion | None,
        out: UInt8,
        *,
        known: State,
        ahead: Float32 | None = None,
    ) -> Counts:
        """Label the next frame.

        Args:
            scores: C×h×w float32 logits, contiguous; or probabilities, see `Hold`.
            geometry: where they lie in the frame.
            motion: from this frame to the one before; None where they have nothing to do with one another.
            out: H×W uint8, to be filled.
            known: what the scores were made from: says how far the labels before are to be held on to.
            ahead: those of the frame after, if it is known and shows the same scene.

        Returns:
            C int64, the number of pixels a class.

        Raises:
            ValueError: as `upsample_argmax`.
        """
        before = None
        if self._labels is not None and same_scene(motion):
            margin = self._scale * (MARGIN if ahead is None else MARGIN_AHEAD)
            before = Before(self._labels, margin * steadiness(known), ahead)
        _, counts = upsample_argmax(scores, geometry, out, before)
        if self._labels is None or self._labels.shape != out.shape:
            self._labels = np.empty_like(out)
        np.copyto(self._labels, out)
        return counts


def steadiness(known: State) -> Float32:
    """The share of the margin that labels are held on to by: h×w float32, 0 to 1.

    None where nothing before is trusted.  Where a mean of many frames is labelled, ever less: one frame moves such a
    mean little, and labels come to what it says.
    """
    if known.motion is not None:
        return known.motion.trust
    before = 1 - 1 / known.memory.seen
    return np.minimum(1, FULL * np.minimum(before, 1 - before))
