"""Pictures that carry their number: painted as blocks, read back from whatever came of them.

The picture is a grid of 5 rows × 4 columns.  The first row is a marker that no turn or flip leaves
as it is; the others are the number's 16 bits, high bits first, bright for 1.  Chroma is a
ramp, so that swapped, shifted or turned chroma shows too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import PixelFormat

Array = NDArray[Any]

ROWS, COLUMNS = 5, 4
BRIGHT, DARK = 192, 64
MARKER = (1, 0, 1, 1)


def paint(number: int, height: int, width: int, layout: PixelFormat) -> tuple[Array, Array, Array]:
    """Y, U and V of the picture that carries ``number``, in its exact sample values."""
    scale = 1 << (layout.depth - 8)
    luma, chroma, _ = layout.plane_shapes(height, width)
    bits = np.array([*MARKER, *(number >> bit & 1 for bit in range(15, -1, -1))]).reshape(ROWS, COLUMNS)
    rows = np.arange(luma[0]) * ROWS // luma[0]
    columns = np.arange(luma[1]) * COLUMNS // luma[1]
    y = np.where(bits[rows][:, columns] == 1, BRIGHT, DARK) * scale
    down = np.linspace(96, 160, chroma[0]).round()[:, None] * scale
    across = np.linspace(96, 160, chroma[1]).round()[None, :] * scale
    blank = np.zeros(chroma)
    return y.astype(layout.dtype), (blank + across).astype(layout.dtype), (blank + down).astype(layout.dtype)


def read_number(luma: Array, depth: int = 8) -> int:
    """The number that a picture carries.

    Raises:
        AssertionError: the marker is not where it was painted: turned, flipped, cut or destroyed.
    """
    height, width = luma.shape
    bits = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, left = (4 * row + 1) * height // (4 * ROWS), (4 * column + 1) * width // (4 * COLUMNS)
            bottom, right = (4 * row + 3) * height // (4 * ROWS), (4 * column + 3) * width // (4 * COLUMNS)
            cell = luma[top : max(bottom, top + 1), left : max(right, left + 1)]
            bits.append(int(cell.mean() > ((BRIGHT + DARK) / 2) * (1 << (depth - 8))))
    marker, number = bits[:COLUMNS], bits[COLUMNS:]
    assert tuple(marker) == MARKER, f"the picture is not upright: {marker}"
    return sum(bit << (15 - place) for place, bit in enumerate(number))


def turned(plane: Array, steps: tuple[str, ...]) -> Array:
    """The plane as a camera stores it whose display matrix then turns it by ``steps``: the inverse, numerically."""
    inverse = {
        "left": lambda a: np.rot90(a, -1),
        "right": lambda a: np.rot90(a, 1),
        "half": lambda a: np.rot90(a, 2),
        "mirror": np.fliplr,
        "flip": np.flipud,
    }
    for step in reversed(steps):
        plane = inverse[step](plane)
    return np.ascontiguousarray(plane)
