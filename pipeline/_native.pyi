"""Native kernels: arrays are checked (ValueError; TypeError for what is no writable array), the GIL is released."""

import numpy as np
from numpy.typing import NDArray

def upsample_argmax(
    scores: NDArray[np.float32],
    scale_y: float,
    offset_y: float,
    scale_x: float,
    offset_x: float,
    out: NDArray[np.uint8],
    counts: NDArray[np.int64],
    begin: int,
    end: int,
    before: NDArray[np.uint8] | None = None,
    margin: NDArray[np.float32] | None = None,
    ahead: NDArray[np.float32] | None = None,
) -> None:
    """Label rows ``[begin, end)`` of ``out`` (H×W) from C×h×w scores and add the pixels a class to ``counts`` (C).

    A pixel keeps its label of ``before`` (H×W) unless another class scores higher by more than ``margin`` (h×w); it
    needs as much less of that as it leads by in ``ahead`` (C×h×w).
    """

def coarse_winners(scores: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """The best class of every score cell: C×h×w → h×w."""

def yuv_to_rgb(
    y: NDArray[np.uint8] | NDArray[np.uint16],
    u: NDArray[np.uint8] | NDArray[np.uint16],
    v: NDArray[np.uint8] | NDArray[np.uint16],
    shift_x: int,
    shift_y: int,
    matrix: NDArray[np.float64],
    out: NDArray[np.uint8],
) -> None:
    """Fill ``out`` (H×W×3) by the 3×4 affine ``matrix`` from samples to levels; chroma is repeated."""

def overlay(
    y: NDArray[np.uint8] | NDArray[np.uint16],
    u: NDArray[np.uint8] | NDArray[np.uint16],
    v: NDArray[np.uint8] | NDArray[np.uint16],
    shift_x: int,
    shift_y: int,
    labels: NDArray[np.uint8],
    paint: NDArray[np.uint32],
    out_y: NDArray[np.uint8] | NDArray[np.uint16],
    out_u: NDArray[np.uint8] | NDArray[np.uint16],
    out_v: NDArray[np.uint8] | NDArray[np.uint16],
) -> None:
    """Lay colours over planes: ``sample · keep + add`` of the pixel's label, rows (keep, add Y, U, V) of ``paint``.

    ``paint`` is 256×4 in units of 1/256 (8-bit samples) or 1/16384 (10-bit in uint16).
    """

def unfold(
    luma: NDArray[np.uint16],
    chroma: NDArray[np.uint16],
    shift_x: int,
    shift_y: int,
    out_y: NDArray[np.uint16],
    out_u: NDArray[np.uint16],
    out_v: NDArray[np.uint16],
) -> None:
    """Fill planes from luma and from U and V in turn (rows × 2·columns), whose ten bits are the upper ones."""

def composite(plane: NDArray[np.uint8] | NDArray[np.uint16], keep: NDArray[np.uint16], add: NDArray[np.uint32]) -> None:
    """Lay a sprite over a plane, in place: ``sample · keep + add`` in units as `overlay`'s."""

def count_labels(labels: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Add the pixels a label of H×W to ``counts`` (256)."""

class GuidedFilter:
    """Keeps the guided filter's memory between pictures; threads that share one wait for each other."""

    def labels(
        self,
        image: NDArray[np.uint8],
        scores: NDArray[np.float32],
        scale_y: float,
        offset_y: float,
        scale_x: float,
        offset_x: float,
        per_cell_y: float,
        per_cell_x: float,
        radius: int,
        reach: int,
        epsilon: float,
        out: NDArray[np.uint8],
    ) -> None:
        """Label ``out`` (H×W) from scores (C×h×w) under the guidance of H×W or H×W×3 ``image``."""

def crf_levels() -> list[str]:
    """Instruction sets of the CRF's kernels that this processor has: "portable", "avx2", "avx512"."""

class DenseCRF:
    """Mean field of the fully connected CRF for pictures of one size; keeps its memory between them.

    Threads that share one wait for each other.
    """

    def __init__(
        self,
        height: int,
        width: int,
        classes: int,
        pos_w: float,
        pos_xy: float,
        bi_w: float,
        bi_xy: float,
        bi_rgb: float,
        symmetric: bool,
        mode: str,
        threads: int,
        level: str,
    ) -> None: ...
    def infer(
        self,
        image: NDArray[np.uint8],
        scores: NDArray[np.float32],
        scale_y: float,
        offset_y: float,
        scale_x: float,
        offset_x: float,
        iterations: int,
        labels: NDArray[np.uint8] | None,
        marginals: NDArray[np.float32] | None,
    ) -> tuple[int, int, int]:
        """Fill ``labels`` (H×W) and ``marginals`` (C×H×W) from H×W×3 ``image`` and C×h×w ``scores``.

        Returns:
            Classes that took part, lattice vertices, bytes moved by an iteration.
        """

class MotionGuide:
    """A small grey picture with its pyramid, immutable."""

    def __init__(self, luma: NDArray[np.uint8] | NDArray[np.uint16], depth: int, height: int, width: int) -> None:
        """Average samples of ``depth`` bits (H×W) over ``height``×``width`` pixels, 16 to 4096 a side."""

def measure_motion(
    now: MotionGuide,
    before: MotionGuide,
    scale_y: float,
    offset_y: float,
    scale_x: float,
    offset_x: float,
    path: NDArray[np.float32],
    trust: NDArray[np.float32],
    back_path: NDArray[np.float32] | None = None,
    back_trust: NDArray[np.float32] | None = None,
) -> None:
    """Fill ``path`` (h×w×2: rows, columns, in cells) and ``trust`` (h×w); the map leads from cells to pixels.

    ``back_path`` and ``back_trust`` are the same from ``before`` to ``now``, at half the resolution.
    """

def compose_paths(
    first: NDArray[np.float32],
    first_trust: NDArray[np.float32],
    second: NDArray[np.float32],
    second_trust: NDArray[np.float32],
    path: NDArray[np.float32],
    trust: NDArray[np.float32],
) -> None:
    """Fill ``path`` and ``trust`` with ``first`` and then ``second``."""

def carry_scores(scores: NDArray[np.float32], path: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill ``out`` (C×h×w) with what lies in ``scores`` at the path's end, by cubic convolution."""

def between_scores(
    earlier: NDArray[np.float32],
    path: NDArray[np.float32],
    trust: NDArray[np.float32],
    later: NDArray[np.float32],
    later_path: NDArray[np.float32],
    later_trust: NDArray[np.float32],
    share: float,
    out: NDArray[np.float32],
) -> None:
    """Fill ``out`` with what `carry_scores` takes from either, by trust, and ``share`` (0 to 1) of the later one."""

def mix_scores(
    scores: NDArray[np.float32],
    seen: NDArray[np.float32],
    path: NDArray[np.float32],
    trust: NDArray[np.float32],
    now: NDArray[np.float32],
    now_seen: NDArray[np.float32],
    out: NDArray[np.float32],
    out_seen: NDArray[np.float32],
) -> None:
    """As `carry_scores`, mixed with ``now`` (C×h×w) by the frames ``seen`` in each (h×w); ``out_seen``: in both."""
