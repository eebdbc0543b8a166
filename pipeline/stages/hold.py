"""Labels that hold on: a pixel changes its class only where another one has come to score clearly higher.

Scores of two classes cross along every outline, and what tips them there from one frame to the next is noise.
"""

from __future__ import annotations

from pipeline.frame import Float32, Geometry, UInt8
from pipeline.stages.motion import Motion, same_scene
from pipeline.stages.upsample import Before, Counts, upsample_argmax

MARGIN = 0.15
"""Of two logits: a class that is e^0.15 = 1.16 times as probable as the pixel's own does not take it yet.  More makes
outlines that move come late."""

MARGIN_FORESEEN = 0.3
"""The same where a frame's scores contain what the next one shows: an outline that moves is known to do so."""


class Hold:
    """The labels of one stream's last frame, which its next one holds on to.

    Args:
        margin: see `MARGIN`.
    """

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._labels: UInt8 | None = None

    def label(self, scores: Float32, geometry: Geometry, motion: Motion | None, out: UInt8) -> Counts:
        """Label the next frame.

        Args:
            scores: C×h×w float32 logits, contiguous.
            geometry: where they lie in the frame.
            motion: from this frame to the one before; None where they have nothing to do with one another.
            out: H×W uint8, to be filled.

        Returns:
            C int64, the number of pixels a class.

        Raises:
            ValueError: as `upsample_argmax`.
        """
        before = None
        if self._labels is not None and same_scene(motion):
            before = Before(self._labels, self._margin)
        _, counts = upsample_argmax(scores, geometry, out, before)
        self._labels = out.copy()
        return counts
