"""Coarse scores at the picture's size, for backends that want them there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Float32, Geometry

_FAR = np.float32(-1e6)
"""A class that far behind is as unlikely as can be."""

_CLIP = 1e-5
"""No class is ever impossible: the reference's own bound on probabilities."""


def upsample(scores: Float32, geometry: Geometry) -> Float32:
    """Bilinear interpolation of C×h×w scores at every pixel of the geometry's frame: C×H×W float32."""
    rows, columns = scores.shape[1:]
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(rows, columns)
    above, below, down = _neighbours(geometry.frame_height, scale_y, offset_y, rows)
    left, right, across = _neighbours(geometry.frame_width, scale_x, offset_x, columns)
    tall = scores[:, above]
    tall += (scores[:, below] - tall) * down[:, None]
    wide = tall[:, :, left]
    wide += (tall[:, :, right] - wide) * across
    return wide


def behind_the_best(scores: Float32) -> Float32:
    """Each cell's scores relative to its best: their interpolation has the same softmax, and cannot overflow."""
    with np.errstate(over="ignore"):
        behind: Float32 = np.maximum(scores - scores.max(axis=0), _FAR)
    return behind


def probabilities(logits: Float32) -> Float32:
    """Softmax over the first axis."""
    powers: Float32 = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers


def unary_energy(logits: Float32) -> Float32:
    """What each label costs at each pixel: minus the logarithm of its probability, at most 11.5."""
    energy: Float32 = -np.log(np.clip(probabilities(logits), _CLIP, 1.0))
    return energy


def _neighbours(
    length: int, scale: float, offset: float, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """For each pixel along an axis: the score cells on either side of it, and how far it is from the first."""
    place = np.clip(scale * np.arange(length) + offset, 0, cells - 1)
    before = np.floor(place).astype(np.intp)
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)
