"""Labels drawn to the picture's edges by the guided filter, in a few milliseconds.

Sources: K. He, J. Sun, X. Tang, "Guided Image Filtering", TPAMI 2013; K. He, J. Sun, "Fast Guided
Filter", arXiv 1505.00996, 2015.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from pipeline import _native
from pipeline.frame import Float32, Geometry, UInt8

FINEST = 1 / 45
"""Share of the picture's short side below which a score cell is fine enough for the filter's window."""

EPSILON = 1e-4
"""Variance of the guide (levels 0–1) that still counts as flat."""

_WINDOW = 1  # radius in squares: 3×3, for wider ones wash out what is thin
_REACH = 1  # squares: looking further was not seen to change the labels


class GuidedRefiner:
    """Refines the labels of pictures of one size; keeps its memory between them.

    The probabilities of the classes that are best somewhere become, in every window, the
    affine function of the picture's levels that fits them best; where the picture has an edge
    the labels then take it over.  A pixel takes a class only if that is the best of some score
    cell next to it.  Threads that share one wait for each other.
    """

    def __init__(self, height: int, width: int, *, epsilon: float = EPSILON, finest: float = FINEST) -> None:
        """Prepare for pictures of one size.

        Args:
            height, width: the pictures, in pixels.
            epsilon: see `EPSILON`; smaller follows weaker edges.
            finest: see `FINEST`.

        Raises:
            ValueError: a number out of range.
        """
        if height < 1 or width < 1:
            raise ValueError(f"no picture of {height}×{width}")
        if not 0 < finest <= 1 or not 0 < epsilon <= 1:
            raise ValueError(f"epsilon {epsilon} or finest {finest} is out of range: 0 to 1")
        self.height, self.width = height, width
        self._epsilon = epsilon
        self._largest = max(2.0, finest * min(height, width))
        self._filter = _native.GuidedFilter()

    def labels(self, image: UInt8, scores: Float32, geometry: Geometry, out: UInt8 | None = None) -> UInt8:
        """Label a picture.

        Args:
            image: H×W×3 uint8 RGB, or H×W uint8 luma (a third faster, blind to edges of colour alone);
                rows may lie apart.
            scores: C×h×w float32 logits, contiguous, 1 to 255 classes.
            geometry: where the scores lie in the picture.
            out: H×W uint8 to fill, rows contiguous.

        Returns:
            ``out``, or a new array.

        Raises:
            ValueError: wrong shape, type or layout, or a score that is NaN, infinite or beyond 2^126.
        """
        shape = (self.height, self.width)
        if image.shape[:2] != shape or (geometry.frame_height, geometry.frame_width) != shape:
            raise ValueError(
                f"the image is {image.shape} and the geometry's frame "
                f"{geometry.frame_height}×{geometry.frame_width}, not {self.height}×{self.width}"
            )
        if scores.ndim != 3:
            raise ValueError(f"scores are {scores.shape}, not classes×height×width")
        if out is None:
            out = np.empty(shape, np.uint8)
        elif not out.flags.writeable:
            raise ValueError("out cannot be written to")
        scale_y, offset_y, scale_x, offset_x = geometry.score_map(*scores.shape[1:])
        squares = self._squares(scale_y), self._squares(scale_x)
        reach = ceil(_REACH / min(1.0, *squares))
        self._filter.labels(
            image, scores, scale_y, offset_y, scale_x, offset_x, *squares, _WINDOW, reach, self._epsilon, out
        )
        return out

    def _squares(self, scale: float) -> float:
        """Squares of the filter's grid a score cell, along an axis with ``scale`` cells a pixel.

        One wherever cells are neither coarse nor smaller than a few pixels: then the filter works on
        the network's own probabilities; interpolated ones were seen to cost half of its gain.
        """
        if scale <= 0:
            return 1.0
        cell = 1 / scale
        return float(ceil(cell / self._largest)) if cell >= 2 else 1 / ceil(2 / cell)
