"""Pictures that carry a number of 16 bits, which outlives coding and an overlay that lets it show through."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 5, 4
MARKER = (1, 0, 1, 1)
BRIGHT, DARK = 192, 64


def number_of(luma: NDArray[np.uint8]) -> int:
    """The number that an H×W uint8 picture carries, by the middles of its cells.

    Raises:
        ValueError: there is none.
    """
    height, width = luma.shape
    rows = [(2 * row + 1) * height // (2 * ROWS) for row in range(ROWS)]
    columns = [(2 * column + 1) * width // (2 * COLUMNS) for column in range(COLUMNS)]
    bits = [int(luma[y - 8 : y + 8, x - 8 : x + 8].mean() > (BRIGHT + DARK) / 2) for y in rows for x in columns]
    if tuple(bits[:COLUMNS]) != MARKER:
        raise ValueError(f"the marker of a painted picture is {bits[:COLUMNS]}")
    return int("".join(map(str, bits[COLUMNS:])), 2)


def luma_of(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The luma plane of a planar picture: H×W uint8, a view."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def painted(path: Path, width: int, height: int, fps: int, length: int) -> str:
    """A file whose pictures carry their numbers."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency"}
        for number in range(length):
            bits = np.array([*MARKER, *(number >> place & 1 for place in range(15, -1, -1))]).reshape(ROWS, COLUMNS)
            luma = np.where(np.kron(bits, np.ones((height // ROWS, width // COLUMNS))), BRIGHT, DARK)
            chroma = np.full((height // 2, width), 128)
            frame = av.VideoFrame.from_ndarray(np.vstack([luma, chroma]).astype(np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(video.encode(frame))
        file.mux(video.encode())
    return str(path)
