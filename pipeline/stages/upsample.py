"""Labels at the picture's size from scores at the network's, in one native pass.

Scores are interpolated bilinearly between score cells and the best class is kept, as
``argmax(resize(scores))`` would, but no score array of the picture's size ever exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import _native
from pipeline.frame import Float32, Geometry, UInt8

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """Labels that hold on.

    Attributes:
        labels: frame_height×frame_width uint8, rows contiguous, of the frame before.
        margin: h×w float32, at least 0, interpolated as the scores are: a pixel keeps its label unless another class
            scores higher by more than this.
        ahead: C×h×w float32, contiguous, the next frame's scores, or None.  Another class needs as much less as it
            leads by in these, and as much more as it falls behind, up to the margin.
    """

    labels: UInt8
    margin: Float32
    ahead: Float32 | None = None


def upsample_argmax(
    scores: Float32, geometry: Geometry, out: UInt8 | None = None, before: Before | None = None
) -> tuple[UInt8, Counts]:
    """Label every pixel of the frame by its best interpolated score.

    Equal to ``argmax`` over the bilinearly interpolated scores, the lowest class where
    two are equal; pixels beyond the outermost score centres take the edge's scores.

    Args:
        scores: C×h×w float32, contiguous, 1 to 255 classes.
        geometry: where the scores lie in the frame.
        out: frame_height×frame_width uint8 to fill, rows contiguous (they may lie apart).
        before: labels that hold on; not in ``out``'s memory.

    Returns:
        labels: ``out``, or a new array.
        counts: C int64, the number of pixels a class.

    Raises:
        ValueError: wrong shape, type or layout, or a score that takes part is NaN, infinite
            or beyond 2^126 (``out`` is then undefined).
    """
    shape = (geometry.frame_height, geometry.frame_width)
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape:
        raise ValueError(f"out is {out.shape}, the frame {shape}")
    elif not out.flags.writeable:
        raise ValueError("out cannot be written to")
    if scores.ndim != 3:
        raise ValueError(f"scores are {scores.shape}, not classes×height×width")
    counts = np.zeros(scores.shape[0], np.int64)
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(*scores.shape[1:])
    held = () if before is None else (before.labels, before.margin, before.ahead)
    _native.upsample_argmax(scores, scale_y, offset_y, scale_x, offset_x, out, counts, 0, shape[0], *held)
    return out, counts


def class_counts(labels: UInt8, classes: int) -> Counts:
    """The number of pixels a class, C int64, of H×W uint8 labels; values that are no class are left out.

    Raises:
        ValueError: wrong shape, type or layout.
    """
    counts = np.zeros(256, np.int64)
    _native.count_labels(labels, counts)
    return counts[:classes]


def coarse_winners(scores: Float32) -> UInt8:
    """The best class of every score cell: h×w uint8 from C×h×w float32 scores.

    Raises:
        ValueError: as `upsample_argmax`.
    """
    out = np.empty(scores.shape[1:], np.uint8)
    _native.coarse_winners(scores, out)
    return out


def alive_classes(scores: Float32) -> NDArray[np.intp]:
    """The classes that are best somewhere on the score grid, ascending.

    A class that would show only between two score centres, where two others meet, does
    not count: it is an artefact of interpolation, and whoever refines need not carry it.

    Args:
        scores: C×h×w float32, contiguous.

    Raises:
        ValueError: as `upsample_argmax`.
    """
    return np.flatnonzero(np.bincount(coarse_winners(scores).ravel(), minlength=scores.shape[0]))
