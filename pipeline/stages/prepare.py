"""The network's input: the decoded picture scaled, as RGB, in the corner of what the network takes.

libswscale scales the planes where they are (in the decode thread, a third of the time
that it needs with RGB as its target and chroma at full resolution); the native kernel then
makes RGB of them, straight into the network's input.  A picture that is not scaled is
converted from the decoder's own memory.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from engines.base import Model
from pipeline import _native
from pipeline.frame import FORMATS, Colour, Frame, Geometry, PixelFormat, Plane, UInt8
from pipeline.sources.pictures import plane_views
from pipeline.stages.colour import yuv_to_rgb

_SCALED = FORMATS["yuv444p"]
"""What libswscale scales to: no chroma is lost on the way, and 8 bits are all that the network takes."""

# Shrinking takes the mean of the source pixels that a pixel covers: no aliasing, and less blur
# (and time) than libswscale's widened triangle.  Its area filter cannot enlarge; bilinear can.
_SHRINK = Interpolation.AREA | Interpolation.ACCURATE_RND
_ENLARGE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND


class Shaped(Protocol):
    """A frame, or what is known of a stream of them."""

    @property
    def height(self) -> int:
        """Rows, in pixels."""

    @property
    def width(self) -> int:
        """Columns, in pixels."""

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """Width : height of one pixel."""


def geometry_for(frame: Shaped, model: Model, size: int) -> Geometry:
    """Where a model's input lies in frames like ``frame``.

    Args:
        frame: the picture, or the stream.
        model: the network; one whose graph has a fixed size gets the picture as large as fits.
        size: short side of the scaled picture in square pixels, where the model leaves a choice.
    """
    if model.fixed_size is not None:
        return Geometry.inside(
            frame.height,
            frame.width,
            input_height=model.fixed_size[0],
            input_width=model.fixed_size[1],
            align_corners=model.align_corners,
            sample_aspect_ratio=frame.sample_aspect_ratio,
        )
    return Geometry.fit(
        frame.height,
        frame.width,
        size=size,
        multiple=model.output_stride,
        align_corners=model.align_corners,
        sample_aspect_ratio=frame.sample_aspect_ratio,
    )


def prepare(
    picture: av.VideoFrame,
    geometry: Geometry,
    out: UInt8,
    colour: Colour,
    reformatter: VideoReformatter | None = None,
) -> None:
    """Fill the network's input with a decoded picture.

    The scaled picture lies at the top left; what remains to the right and below repeats
    its edge.

    Args:
        picture: as decoded and rotated, any YUV layout that libswscale reads.  Its colour tags
            are touched while it is scaled (PyAV's way), so no other thread may scale it meanwhile.
        geometry: where the picture lies in the input.
        out: input_height×input_width×3 uint8 RGB, contiguous, to fill.
        colour: meaning of the samples; an untagged matrix is decided by `Colour.resolved`.
        reformatter: keeps libswscale's tables from picture to picture: hold one a thread.

    Raises:
        ValueError: the picture or ``out`` does not have the geometry's size, or a wrong type.
    """
    if (picture.height, picture.width) != (geometry.frame_height, geometry.frame_width):
        raise ValueError(
            f"the picture is {picture.height}×{picture.width}, "
            f"the geometry's frame {geometry.frame_height}×{geometry.frame_width}"
        )
    if out.shape != (geometry.input_height, geometry.input_width, 3):
        raise ValueError(f"out is {out.shape}, the input {geometry.input_height}×{geometry.input_width}×3")
    colour = colour.resolved(picture.height)
    height, width = geometry.picture_height, geometry.picture_width
    name = picture.format.name
    if name.startswith("yuvj"):  # libav's old names, where the range is part of the format
        name, colour = name.replace("yuvj", "yuv"), replace(colour, full_range=True)
    layout = FORMATS.get(name)
    if layout is None or (height, width) != (picture.height, picture.width):
        layout = _SCALED
        tagged = ColorRange.JPEG if colour.full_range else ColorRange.MPEG
        picture = (reformatter or VideoReformatter()).reformat(
            picture,
            width,
            height,
            layout.name,
            interpolation=_ENLARGE if height > picture.height or width > picture.width else _SHRINK,
            src_color_range=tagged,
            dst_color_range=tagged,
            threads=1,  # the default spawns one a core for every reformatter
        )
    _convert(plane_views(picture, layout), layout, colour, out[:height, :width])
    if width < out.shape[1]:
        out[:height, width:] = out[:height, width - 1 : width]
    if height < out.shape[0]:
        out[height:] = out[height - 1]


def to_rgb(frame: Frame, out: UInt8 | None = None) -> UInt8:
    """The frame as RGB: H×W×3 uint8, within one level of the exact value, clipped to 0–255.

    Each chroma sample is repeated over the pixels that it covers (as rendering averages
    over them), whatever siting the stream claims.

    Args:
        frame: any of the formats that flow; an untagged matrix is decided by `Colour.resolved`.
        out: H×W×3 uint8 to fill, or None for a new array; rows may lie apart.

    Raises:
        ValueError: planes or ``out`` of a wrong shape, type or layout.
    """
    if out is None:
        out = np.empty((frame.height, frame.width, 3), np.uint8)
    elif not out.flags.writeable:
        raise ValueError("out cannot be written to")
    _convert(frame.planes, frame.format, frame.colour.resolved(frame.height), out)
    return out


def _convert(planes: tuple[Plane, Plane, Plane], layout: PixelFormat, colour: Colour, out: UInt8) -> None:
    matrix = yuv_to_rgb(colour, layout.depth)
    _native.yuv_to_rgb(*planes, layout.log2_chroma_w, layout.log2_chroma_h, matrix, out)
