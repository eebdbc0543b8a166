"""Pictures, a network's input and labels as our kernels (``pixels.cu``) see them on the GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import EngineError, FrameMap, Model, RawFrame

Array = NDArray[Any]

KINDS = {"uint8": 0, "float16": 1, "float32": 2}


class Planes(ctypes.Structure):
    """A picture on the GPU; see ``pixels.cu``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("y", "u", "v")),
        *((name, ctypes.c_int) for name in ("y_pitch", "chroma_pitch", "chroma_step", "wide", "shift")),
        ("to_8_bit", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("log2_chroma_w", "log2_chroma_h", "height", "width")),
    )


class Target(ctypes.Structure):
    """The network's input on the GPU; see ``pixels.cu``."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("height", "width", "picture_height", "picture_width")),
        *((name, ctypes.c_int) for name in ("kind", "planar", "reversed")),
        ("matrix", ctypes.c_float * 12),
        ("mean", ctypes.c_float * 3),
        ("scale", ctypes.c_float * 3),
    )


class Labels(ctypes.Structure):
    """Scores and labels on the GPU; see ``pixels.cu``."""

    _fields_ = (
        ("scores", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("classes", "score_height", "score_width", "height", "width", "pitch")),
        *((name, ctypes.c_double) for name in ("scale_y", "offset_y", "scale_x", "offset_x")),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a picture lie.

    Attributes:
        planes: 1 (RGB), 2 (luma and interleaved chroma) or 3.
        depth: bits a sample; 8 is stored in a byte, more in two.
        shift: empty bits below a sample.
        log2_chroma_w, log2_chroma_h: luma columns and rows a chroma sample covers, as powers of 2.
    """

    planes: int
    depth: int = 8
    shift: int = 0
    log2_chroma_w: int = 0
    log2_chroma_h: int = 0


LAYOUTS = {
    "rgb24": Layout(1),
    "nv12": Layout(2, 8, 0, 1, 1),
    "p010le": Layout(2, 10, 6, 1, 1),
    "yuv420p": Layout(3, 8, 0, 1, 1),
    "yuv422p": Layout(3, 8, 0, 1, 0),
    "yuv444p": Layout(3, 8, 0, 0, 0),
    "yuv420p10le": Layout(3, 10, 0, 1, 1),
    "yuv422p10le": Layout(3, 10, 0, 1, 0),
    "yuv444p10le": Layout(3, 10, 0, 0, 0),
}
"""Layouts by libav's name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame for a network.

    Attributes:
        where: what it is.
        model: the network.
        size: (height, width) of the network's input, in pixels.
    """

    where: FrameMap
    model: Model
    size: tuple[int, int]


def plane_shapes(layout: Layout, frame: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """Shapes of a picture's planes: H×W×3, or H×W and chroma (h×w×2 where interleaved, else two of h×w)."""
    height, width = frame
    if layout.planes == 1:
        return ((height, width, 3),)
    chroma = (-(-height >> layout.log2_chroma_h), -(-width >> layout.log2_chroma_w))
    return ((height, width), (*chroma, 2)) if layout.planes == 2 else ((height, width), chroma, chroma)


def check_frame(frame: RawFrame) -> None:
    """See that planes and labels are what their map says.

    Raises:
        EngineError: naming what is not.
    """
    planes, where, labels = frame.planes, frame.where, frame.labels
    if where.layout not in LAYOUTS:
        raise EngineError(f"frames of {where.layout} cannot be taken: choose from {', '.join(LAYOUTS)}")
    layout = LAYOUTS[where.layout]
    dtype = np.dtype(np.uint8 if layout.depth == 8 else np.uint16)
    shapes = plane_shapes(layout, where.frame)
    if [plane.shape for plane in planes] != list(shapes) or any(plane.dtype != dtype for plane in planes):
        told = ", ".join("×".join(map(str, shape)) for shape in shapes)
        raise EngineError(f"a frame of {where.layout} has planes of {told} {dtype}")
    if labels.shape != where.frame or labels.dtype != np.uint8:
        raise EngineError(f"the labels of a frame of {where.frame[1]}×{where.frame[0]} are as many uint8")
    if not all(array.flags.c_contiguous for array in (*planes, labels)):
        raise EngineError("planes and labels must be contiguous")


def planes_at(layout: Layout, frame: tuple[int, int], addresses: Sequence[int]) -> Planes:
    """The kernel's view of a picture whose planes lie at addresses of the GPU, dense."""
    height, width = frame
    bytes_a_sample = 1 if layout.depth == 8 else 2
    chroma_width = -(-width >> layout.log2_chroma_w)
    step = 2 if layout.planes == 2 else 1
    first = addresses[0]
    u, v = {1: (first, first), 2: (addresses[-1], addresses[-1] + bytes_a_sample)}.get(
        layout.planes, (addresses[len(addresses) // 2], addresses[-1])
    )
    return Planes(
        y=first, u=u, v=v, y_pitch=width * (3 if layout.planes == 1 else 1), chroma_pitch=chroma_width * step,
        chroma_step=step, wide=int(layout.depth > 8), shift=layout.shift, to_8_bit=2.0 ** (8 - layout.depth),
        log2_chroma_w=layout.log2_chroma_w, log2_chroma_h=layout.log2_chroma_h, height=height, width=width,
    )  # fmt: skip


def target_at(model: Model, size: tuple[int, int], where: FrameMap, address: int) -> Target:
    """The kernel's view of the network's input at an address of the GPU."""
    mean = model.mean or (0.0, 0.0, 0.0)
    deviation = model.std or (1.0, 1.0, 1.0)
    return Target(
        out=address, height=size[0], width=size[1], picture_height=where.picture[0], picture_width=where.picture[1],
        kind=KINDS[model.input_dtype], planar=int(model.layout == "nchw"), reversed=int(model.channels == "bgr"),
        matrix=tuple(np.asarray(where.matrix, np.float32).ravel()), mean=mean,
        scale=tuple(1 / value for value in deviation),
    )  # fmt: skip


def labels_at(scores: int, shape: tuple[int, int, int], where: FrameMap, out: int) -> Labels:
    """The kernel's view of scores and labels at addresses of the GPU; labels lie dense."""
    scale_y, offset_y, scale_x, offset_x = where.score_map
    height, width = where.frame
    return Labels(
        scores=scores, out=out, classes=shape[0], score_height=shape[1], score_width=shape[2], height=height,
        width=width, pitch=width, scale_y=scale_y, offset_y=offset_y, scale_x=scale_x, offset_x=offset_x,
    )  # fmt: skip
