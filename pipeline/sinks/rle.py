"""COCO's run-length encoding of masks, compressed, as pycocotools reads it.

A mask is read column by column; the counts are the lengths of its runs, zeros first.  The
compressed form writes each count (from the fourth on its difference to the one two before) in groups
of five bits, least significant first, sign extended; a sixth bit says that more follow; 48 makes
it a printable character.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import UInt8

Int64 = NDArray[np.int64]

_GROUPS = 13  # of five bits hold any int64


def runs(labels: UInt8) -> dict[int, Int64]:
    """Counts of every class that occurs.

    Args:
        labels: H×W class indices.

    Returns:
        class index → lengths of its alternating runs in column order, beginning with the run that is not
        this class (possibly 0), rising by class; the lengths sum to H·W.
    """
    flat = labels.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], changes))
    ends = np.concatenate((changes, [flat.size]))
    values = flat[starts]
    return {int(c): _counts(starts[values == c], ends[values == c], flat.size) for c in np.unique(values)}


def _counts(starts: Int64, ends: Int64, size: int) -> Int64:
    edges = np.empty(2 * len(starts) + 2, np.int64)
    edges[0], edges[-1] = 0, size
    edges[1:-1:2] = starts
    edges[2:-1:2] = ends
    counts = np.diff(edges)
    return counts if counts[-1] else counts[:-1]


def compress(counts: Int64) -> str:
    """The compressed form of run lengths."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    characters = np.zeros((len(rest), _GROUPS), np.uint8)
    used = np.zeros((len(rest), _GROUPS), bool)
    more = np.ones(len(rest), bool)
    for group in range(_GROUPS):
        used[:, group] = more
        low = rest & 0x1F
        rest >>= 5
        more = more & (rest != np.where(low & 0x10, -1, 0))
        characters[:, group] = low + np.where(more, 0x20, 0) + 48
        if not more.any():
            break
    return characters[used].tobytes().decode("ascii")


def encode(labels: UInt8) -> dict[int, str]:
    """Compressed counts of every class that occurs, by class index."""
    return {index: compress(counts) for index, counts in runs(labels).items()}
