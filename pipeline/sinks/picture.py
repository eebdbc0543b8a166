"""From planes in numpy to the pictures that libav encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.frame import Colour, Frame, PixelFormat, Plane


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """What every picture of one encoded stream looks like.

    Attributes:
        width, height: size as encoded, in pixels.
        layout: libav's pixel format.
        colour: meaning of the samples.
        sample_aspect_ratio: width : height of one pixel.
    """

    width: int
    height: int
    layout: str
    colour: Colour
    sample_aspect_ratio: Fraction

    def with_even_sides(self, layout: PixelFormat) -> PictureFormat:
        """This format with each side that ``layout`` subsamples rounded up to even."""
        width = self.width + (self.width & layout.log2_chroma_w)
        height = self.height + (self.height & layout.log2_chroma_h)
        return replace(self, width=width, height=height)

    def with_square_pixels(self) -> PictureFormat:
        """This format with square pixels, enlarged in one direction so that nothing is lost."""
        aspect = self.sample_aspect_ratio
        width = round(self.width * max(aspect, Fraction(1)))
        height = round(self.height * max(1 / aspect, Fraction(1)))
        return replace(self, width=width, height=height, sample_aspect_ratio=Fraction(1))


class Canvas:
    """The picture that an encoder is fed from; its memory is used again for every frame.

    Args:
        width, height: size in pixels.
        layout: libav's pixel format, planar.
    """

    def __init__(self, width: int, height: int, layout: str) -> None:
        self.width = width
        self.height = height
        self.layout = layout
        self._picture = av.VideoFrame(width, height, layout)

    def fill(self, planes: Sequence[Plane]) -> av.VideoFrame:
        """Copy planes in, one ``memcpy`` a row; what they do not cover repeats their edge.

        Returns:
            the canvas's own picture: valid until the next `fill` unless libav holds a reference.
        """
        # An encoder that still holds the last picture keeps it: then libav gives us other memory.
        self._picture.make_writable()
        for plane, samples in zip(self._picture.planes, planes, strict=True):
            whole = np.frombuffer(memoryview(plane), samples.dtype).reshape(plane.height, -1)[:, : plane.width]
            rows, columns = samples.shape
            whole[:rows, :columns] = samples
            if columns < plane.width:
                whole[:rows, columns:] = samples[:, -1:]
            if rows < plane.height:
                whole[rows:] = whole[rows - 1]
        return self._picture


class Painter:
    """Makes every frame into a picture of one format, whatever its own size and layout.

    A frame that fits is copied (and continued by its edge where the format is a pixel larger, for
    encoders that need even sizes); any other goes through libswscale.

    Args:
        picture: the format to make.
        width, height: size of the frames that count as fitting, in pixels.
    """

    def __init__(self, picture: PictureFormat, width: int, height: int) -> None:
        self._picture = picture
        to_pad = (picture.width - width, picture.height - height)
        self._fitting = (picture.layout, height, width) if set(to_pad) <= {0, 1} else None
        self._canvas = Canvas(picture.width, picture.height, picture.layout)
        self._other: Canvas | None = None
        self._scaler = VideoReformatter()

    def paint(self, frame: Frame) -> av.VideoFrame:
        """The frame in the stream's format; colours are described, times are not set."""
        if (frame.format.name, frame.height, frame.width) == self._fitting:
            painted = self._canvas.fill(frame.planes)
        else:
            painted = self._scale(frame)
        colour = self._picture.colour
        painted.colorspace = colour.space
        painted.color_range = range_code(colour)
        painted.color_primaries = colour.primaries
        painted.color_trc = colour.transfer
        return painted

    def _scale(self, frame: Frame) -> av.VideoFrame:
        other = self._other
        if other is None or (other.layout, other.height, other.width) != (frame.format.name, frame.height, frame.width):
            other = self._other = Canvas(frame.width, frame.height, frame.format.name)
        want = self._picture
        return self._scaler.reformat(
            other.fill(frame.planes),
            want.width,
            want.height,
            want.layout,
            src_colorspace=scaler_matrix(frame.colour),
            dst_colorspace=scaler_matrix(want.colour),
            src_color_range=range_code(frame.colour),
            dst_color_range=range_code(want.colour),
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )


def range_code(colour: Colour) -> int:
    """The range as libav's code."""
    return 2 if colour.full_range else 1


def scaler_matrix(colour: Colour) -> int:
    """The matrix as libswscale's code (BT.601 where it has none of its own)."""
    return colour.space if colour.space in (1, 4, 5, 6, 7, 9) else 5
