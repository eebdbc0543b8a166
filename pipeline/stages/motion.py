"""Motion between two frames on the grid of the scores, and how far it can be trusted.

Measured on small grey pictures of the frames (`Guide`) by native kernels, in a few milliseconds.
Source of the flow: T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast Optical Flow using Dense Inverse
Search", ECCV 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from pipeline import _native
from pipeline.frame import Float32, Frame, Geometry

SHORT_SIDE = 192
"""Of a guide, in pixels: larger ones find more of what is thin, and take longer by the square."""

SMALLEST = 16
"""Shortest side of a guide, in pixels; smaller pictures are enlarged."""

CUT = 0.2
"""Mean trust below which two frames show different scenes: pairs of a drive's frames half a second apart and
more were seen at 0.1 and below, neighbours at 0.6 and above."""


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What motion is measured on: a frame's luma at a short side of `SHORT_SIDE` pixels, with its pyramid.

    Attributes:
        height, width: of the small picture, in pixels.
        native: the kernels' own form of it; immutable.
    """

    height: int
    width: int
    native: _native.MotionGuide

    @classmethod
    def of(cls, frame: Frame) -> Guide:
        """Make the guide of a frame."""
        scale = min(1.0, SHORT_SIDE / min(frame.height, frame.width))
        height, width = (max(SMALLEST, round(side * scale)) for side in (frame.height, frame.width))
        return cls(height, width, _native.MotionGuide(frame.planes[0], frame.format.depth, height, width))


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """From each cell of a frame's scores to where the same thing lay in an earlier frame.

    Attributes:
        path: h×w×2 float32: rows and columns from the cell to there, in cells.
        trust: h×w float32, 0 (nothing is known: covered, beyond the edge, changed) to 1 (the same, for sure).
    """

    path: Float32
    trust: Float32

    @property
    def confidence(self) -> float:
        """Mean trust of the picture."""
        return float(self.trust.mean())

    def after(self, earlier: Motion) -> Motion:
        """This motion and then ``earlier``'s: from this frame to the one that ``earlier`` leads to.

        Raises:
            ValueError: their grids differ.
        """
        path, trust = np.empty_like(self.path), np.empty_like(self.trust)
        _native.compose_paths(self.path, self.trust, earlier.path, earlier.trust, path, trust)
        return Motion(path, trust)


def same_scene(motion: Motion | None) -> TypeGuard[Motion]:
    """Whether what lies at the two ends of a motion has to do with one another: there is one, and it is no `CUT`."""
    return motion is not None and motion.confidence >= CUT


def measure(now: Guide, before: Guide, geometry: Geometry, cells: tuple[int, int]) -> Motion:
    """The motion from ``now`` to ``before``.

    A cell is trusted as far as the way there and the way back agree and both ends look alike.

    Args:
        now, before: guides of two frames of one size.
        geometry: where the scores lie in these frames.
        cells: (height, width) of the scores.

    Raises:
        ValueError: the guides differ in size.
    """
    found = _empty(cells)
    _native.measure_motion(now.native, before.native, *_grid(now, geometry, cells), found.path, found.trust)
    return found


def measure_both(now: Guide, before: Guide, geometry: Geometry, cells: tuple[int, int]) -> tuple[Motion, Motion]:
    """As `measure`, and the motion from ``before`` to ``now``.

    The way back is what `measure` checks by, at half the resolution, so it costs next to nothing.
    """
    found, back = _empty(cells), _empty(cells)
    _native.measure_motion(
        now.native, before.native, *_grid(now, geometry, cells), found.path, found.trust, back.path, back.trust
    )
    return found, back


def _empty(cells: tuple[int, int]) -> Motion:
    return Motion(np.empty((*cells, 2), np.float32), np.empty(cells, np.float32))


def _grid(guide: Guide, geometry: Geometry, cells: tuple[int, int]) -> tuple[float, float, float, float]:
    """Scales and offsets of rows and columns, from score cells to pixels of the guide."""
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(*cells)
    rows = _to_guide(scale_y, offset_y, geometry.frame_height, guide.height)
    columns = _to_guide(scale_x, offset_x, geometry.frame_width, guide.width)
    return *rows, *columns


def _to_guide(scale: float, offset: float, frame: int, guide: int) -> tuple[float, float]:
    """The affine map from score cells to guide pixels along an axis, from that of frame pixels to cells."""
    if scale <= 0:  # a single cell with corners aligned: it lies in the middle
        return float(guide), (guide - 1) / 2
    ratio = guide / frame
    return ratio / scale, (0.5 - offset / scale) * ratio - 0.5
