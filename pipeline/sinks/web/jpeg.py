"""Pictures as JPEG without a way through RGB."""

from __future__ import annotations

from fractions import Fraction

import av
from av.codec.context import Flags
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.frame import Frame
from pipeline.sinks.picture import Canvas, range_code, scaler_matrix

_BT601 = 5
_LAMBDA = 118  # libav's FF_QP2LAMBDA


class MotionJpeg:
    """One stream's pictures, one by one, as full range BT.601 (what JPEG means by YUV).

    Args:
        quality: on the common scale, 0 (best) to 51 (worst).
    """

    def __init__(self, quality: float) -> None:
        self._scale = max(2, min(31, round(2 + quality / 6)))
        self._canvas: Canvas | None = None
        self._context: av.VideoCodecContext | None = None
        self._scaler = VideoReformatter()
        self._count = 0

    def encode(self, frame: Frame) -> bytes:
        """One JPEG file.

        Raises:
            av.FFmpegError: the encoder refuses the size.
        """
        shape = (frame.width, frame.height)
        canvas, context = self._canvas, self._context
        if canvas is None or (canvas.width, canvas.height, canvas.layout) != (*shape, frame.format.name):
            canvas = self._canvas = Canvas(*shape, frame.format.name)
        if context is None or (context.width, context.height) != shape:
            context = self._context = self._open(frame)
        picture = self._scaler.reformat(
            canvas.fill(frame.planes),
            format="yuvj420p",
            src_colorspace=scaler_matrix(frame.colour),
            dst_colorspace=_BT601,
            src_color_range=range_code(frame.colour),
            dst_color_range=2,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        picture.pts = self._count
        self._count += 1
        return b"".join(bytes(packet) for packet in context.encode(picture))

    def _open(self, frame: Frame) -> av.VideoCodecContext:
        context = av.CodecContext.create("mjpeg", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuvj420p"
        context.time_base = Fraction(1, 25)
        context.color_range = 2
        context.thread_count = 1  # more would hold pictures back
        context.flags |= Flags.qscale
        context.qmin = context.qmax = self._scale
        context.options = {"global_quality": str(self._scale * _LAMBDA)}
        return context
