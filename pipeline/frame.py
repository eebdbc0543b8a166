"""The values that flow: pictures, scores, labels and where they lie in one another.

All of them are immutable; none owns a thread, a file or a process.  Arrays inside
are views (of the decoder's memory, of a slot, or of their own), so a value is
as cheap to hand on as a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Plane = NDArray[np.uint8] | NDArray[np.uint16]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A planar YUV layout: the only kind of picture inside the stream.

    Attributes:
        name: libav's name, e.g. ``"yuv420p"`` or ``"yuv422p10le"``.
        depth: bits a sample; 8 is stored in uint8, 10 in the low bits of uint16.
        log2_chroma_w: chroma columns are luma columns shifted right by this (rounded up).
        log2_chroma_h: chroma rows likewise.
    """

    name: str
    depth: int
    log2_chroma_w: int
    log2_chroma_h: int

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Sample type of every plane."""
        return np.dtype(np.uint8) if self.depth == 8 else np.dtype(np.uint16)

    def plane_shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Shapes (rows, columns) of Y, U and V for a picture of ``height``×``width``."""
        chroma = (-(-height >> self.log2_chroma_h), -(-width >> self.log2_chroma_w))
        return ((height, width), chroma, chroma)


FORMATS: dict[str, PixelFormat] = {
    f.name: f
    for f in (
        PixelFormat("yuv420p", 8, 1, 1),
        PixelFormat("yuv422p", 8, 1, 0),
        PixelFormat("yuv444p", 8, 0, 0),
        PixelFormat("yuv420p10le", 10, 1, 1),
        PixelFormat("yuv422p10le", 10, 1, 0),
        PixelFormat("yuv444p10le", 10, 0, 0),
    )
}
"""The formats that may flow; a source converts any other to the nearest, once, at decode."""


@dataclass(frozen=True, slots=True)
class Colour:
    """How samples mean light; the codes are ITU-T H.273's, as libav's.

    Attributes:
        space: matrix coefficients (1 = BT.709, 5/6 = BT.601, 9 = BT.2020 …), 2 = untagged.
        full_range: True for 0–255 ("jpeg"), False for 16–235 ("mpeg").
        primaries: colour primaries, 2 = untagged.
        transfer: transfer characteristics, 2 = untagged.
    """

    space: int = 2
    full_range: bool = False
    primaries: int = 2
    transfer: int = 2

    def resolved(self, height: int) -> Colour:
        """This colour with an untagged matrix decided: BT.601 below 720 lines, else BT.709."""
        if self.space not in (0, 2, 3):
            return self
        return Colour(6 if height < 720 else 1, self.full_range, self.primaries, self.transfer)

    @property
    def luma_weights(self) -> tuple[float, float]:
        """(Kr, Kb) of the matrix; untagged counts as BT.601."""
        return _LUMA_WEIGHTS.get(self.space, (0.299, 0.114))


_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one stream.

    Attributes:
        planes: Y, U, V as 2-D arrays of ``format.dtype`` with the shapes of
            ``format.plane_shapes``; rows may be padded (strided views).
        format: layout of the planes.
        colour: meaning of the samples.
        index: position in the stream, counted from 0 over decoded frames.
        pts: presentation time in seconds, exact.
        time_base: tick of the container that ``pts`` came from, in seconds.
        captured_ns: ``time.monotonic_ns()`` when the picture arrived here.
        wall_ns: ``time.time_ns()`` at the same moment, for people's clocks only.
        source: name of the input.
        sample_aspect_ratio: width : height of one pixel; 1 where unknown.
        discontinuity: frames are missing before this one (dropped, lost or cut), or it is the first.
    """

    planes: tuple[Plane, Plane, Plane]
    format: PixelFormat
    colour: Colour
    index: int
    pts: Fraction
    time_base: Fraction
    captured_ns: int
    wall_ns: int
    source: str
    sample_aspect_ratio: Fraction = Fraction(1)
    discontinuity: bool = False

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return int(self.planes[0].shape[1])

    def __repr__(self) -> str:
        return (
            f"Frame({self.source}#{self.index} {self.width}×{self.height} {self.format.name} "
            f"pts={float(self.pts):.4f}s{' discontinuity' if self.discontinuity else ''})"
        )


SLIMMEST = 16
"""Long side : short side of pictures up to which the short side is what was asked for."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the network's input lies in the frame, and the scores in both.

    The frame is scaled so that pixels become square, placed at the input's top left
    corner and continued by its edge to the right and below up to the size that the
    network takes: aspect is kept, nothing is stretched.

    Attributes:
        frame_height, frame_width: the picture as decoded, in pixels.
        picture_height, picture_width: the scaled picture inside the input, in pixels.
        input_height, input_width: the network's input, in pixels.
        align_corners: the network's scores are spread corner pixel to corner pixel over its
            input (sizes 8k+1, Caffe and TensorFlow models) instead of area to area.
    """

    frame_height: int
    frame_width: int
    picture_height: int
    picture_width: int
    input_height: int
    input_width: int
    align_corners: bool = False

    @classmethod
    def fit(
        cls,
        frame_height: int,
        frame_width: int,
        *,
        size: int,
        multiple: int,
        align_corners: bool = False,
        sample_aspect_ratio: Fraction = Fraction(1),
    ) -> Geometry:
        """The geometry whose scaled picture has a short side of ``size`` square pixels.

        Args:
            frame_height, frame_width: the picture, in its own pixels.
            size: short side of the scaled picture, in pixels; less where it is slimmer than 1 : `SLIMMEST`, which would
                be enlarged beyond all measure.
            multiple: input sides are rounded up to a multiple of this (the output stride), plus
                one pixel with ``align_corners``.
            align_corners: see the attribute.
            sample_aspect_ratio: width : height of a pixel of the frame.
        """
        shown_width = frame_width * float(sample_aspect_ratio)
        short, long = sorted((float(frame_height), shown_width))
        scale = size / max(short, long / SLIMMEST)
        picture = (max(1, round(frame_height * scale)), max(1, round(shown_width * scale)))
        extra = 1 if align_corners else 0
        sides = [max(1, ceil((side - extra) / multiple)) * multiple + extra for side in picture]
        return cls(frame_height, frame_width, *picture, sides[0], sides[1], align_corners)

    @classmethod
    def inside(
        cls,
        frame_height: int,
        frame_width: int,
        *,
        input_height: int,
        input_width: int,
        align_corners: bool = False,
        sample_aspect_ratio: Fraction = Fraction(1),
    ) -> Geometry:
        """The geometry whose scaled picture is as large as fits into an input of fixed size.

        Args:
            frame_height, frame_width: the picture, in its own pixels.
            input_height, input_width: the network's input, in square pixels.
            align_corners: see the attribute.
            sample_aspect_ratio: width : height of a pixel of the frame.
        """
        shown_width = frame_width * float(sample_aspect_ratio)
        scale = min(input_height / frame_height, input_width / shown_width)
        picture_height = min(input_height, max(1, round(frame_height * scale)))
        picture_width = min(input_width, max(1, round(shown_width * scale)))
        picture = (picture_height, picture_width)
        return cls(frame_height, frame_width, *picture, input_height, input_width, align_corners)

    def score_map(self, score_height: int, score_width: int) -> tuple[float, float, float, float]:
        """The affine map from frame pixels to score cells: ``(scale_y, offset_y, scale_x, offset_x)``.

        Frame row ``i`` has its centre at score row ``scale_y * i + offset_y``, columns likewise;
        values outside ``[0, score_height - 1]`` are clamped by whoever samples.
        """
        y = self._axis(self.frame_height, self.picture_height, self.input_height, score_height)
        x = self._axis(self.frame_width, self.picture_width, self.input_width, score_width)
        return (*y, *x)

    def _axis(self, frame: int, picture: int, given: int, score: int) -> tuple[float, float]:
        to_input = picture / frame
        offset = 0.5 * to_input - 0.5
        if self.align_corners:
            to_score = (score - 1) / max(1, given - 1)
            return to_input * to_score, offset * to_score
        to_score = score / given
        return to_input * to_score, (offset + 0.5) * to_score - 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """The network's answer at its own resolution.

    Attributes:
        data: C×h×w float32 logits.
        geometry: the way back to the frame.
    """

    data: Float32
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Result:
    """What leaves the pipeline for one frame; it owns its memory.

    Attributes:
        frame: the rendered picture (overlay, mask colours or side by side).
        labels: H×W uint8 class indices at the decoded size.
        shares: share of the picture by class, C floats that sum to 1.
        refined: False where refinement was asked for and this frame passed without.
        picture: the picture without paint, where an output of the run has asked for it, else None.
    """

    frame: Frame
    labels: UInt8
    shares: tuple[float, ...]
    refined: bool = True
    picture: Frame | None = None

    @property
    def index(self) -> int:
        """Position of the frame in its stream."""
        return self.frame.index

    @property
    def pts(self) -> Fraction:
        """Presentation time in seconds, exact."""
        return self.frame.pts
