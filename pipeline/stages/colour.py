"""The affine maps between YCbCr samples and RGB, for any matrix, range and depth.

Sources: ITU-R BT.601-7 §2.5, BT.709-6 §3, BT.2020-2 table 4; ITU-T H.273 §8.3 for the
codes and for the quantisation equations 25 to 38.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Colour

Affine = NDArray[np.float64]


@lru_cache(maxsize=64)
def rgb_to_yuv(colour: Colour, depth: int) -> Affine:
    """The 3×4 map from R'G'B' levels (0–255, with a 1 appended) to Y'CbCr sample values.

    Args:
        colour: matrix and range; an untagged matrix counts as BT.601 (resolve it first).
        depth: bits a sample of the YUV side, 8 to 16.
    """
    kr, kb = colour.luma_weights
    luma = np.array([kr, 1 - kr - kb, kb])
    blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb))
    red = (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
    top = 2**depth - 1
    step = 2 ** (depth - 8)
    luma_span, chroma_span, black = (top, top, 0) if colour.full_range else (219 * step, 224 * step, 16 * step)
    centre = 128 * step
    rows = np.stack([luma * luma_span, blue * chroma_span, red * chroma_span]) / 255
    return _frozen(np.column_stack([rows, [black, centre, centre]]))


@lru_cache(maxsize=64)
def yuv_to_rgb(colour: Colour, depth: int) -> Affine:
    """The inverse of `rgb_to_yuv`: 3×4, from samples (with a 1 appended) to levels 0–255, unclipped."""
    forward = rgb_to_yuv(colour, depth)
    inverse = np.linalg.inv(forward[:, :3])
    return _frozen(np.column_stack([inverse, -inverse @ forward[:, 3]]))


def _frozen(array: Affine) -> Affine:
    array.flags.writeable = False  # it is shared by the cache
    return array
