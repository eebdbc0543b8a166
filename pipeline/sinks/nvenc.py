"""Which encoder makes a video: the GPU's NVENC where it is there and takes the pictures, else libav's in software."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np

from pipeline.errors import ConfigError, HardwareError, SinkError
from pipeline.frame import FORMATS, PixelFormat
from pipeline.hwaccel import CUDA, missing, one_line, tell_once
from pipeline.sinks.encoders import ENCODERS, Encoder, VideoOptions, encoder_named

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_TRIAL = (256, 256)
"""Width and height of the pictures that a demanded encoder is tried with before anything is opened."""


def choose(software: Encoder, options: VideoOptions, width: int, height: int, layout: PixelFormat) -> Encoder:
    """The encoder of a stream of pictures.

    Where NVENC may take them, one picture of that size is encoded to see: chips without NVENC, sizes and layouts that
    it does not take, and too many sessions at once are known in no other way.

    Args:
        software: what encodes them otherwise; or one of NVENC's, which then is demanded.
        options: what was asked for; an encoder that is named is taken as it is.
        width, height: in pixels, even.
        layout: of the pictures.

    Raises:
        HardwareError: NVENC was demanded, and is missing or does not take them.
    """
    hardware = _twin(software, options)
    if hardware is None:
        return software
    demanded = hardware is software or options.hwaccel == CUDA
    kept = layout in hardware.formats()
    if not kept and not demanded:
        tell_once(_LOG, f"{software.alias} of {layout.name} is encoded in software, NVENC would not keep all of it")
        return software
    reason = missing("NVENC") or refusal(hardware, width, height, layout if kept else FORMATS["yuv420p"])
    if not reason:
        tell_once(_LOG, f"{hardware.alias} is encoded by NVENC ({hardware.name})")
        return hardware
    if demanded:
        named = software if hardware is not software else next(e for e in ENCODERS if e.alias == hardware.alias)
        raise HardwareError(f"{hardware.name} cannot be had: {reason}; --codec {named.name} encodes in software")
    if reason != missing("NVDEC"):  # else it is told of the decoder
        tell_once(_LOG, f"{software.alias} is encoded in software, {reason}")
    return software


class EncoderChoice:
    """Which encoder makes an output's videos, tried once for each size however many files or connections there are.

    Args:
        software: as of `choose`.
        options: as of `choose`.
    """

    def __init__(self, software: Encoder, options: VideoOptions) -> None:
        self.software = software
        self._options = options
        self._chosen: dict[tuple[int, int, str], Encoder] = {}

    def demand(self) -> None:
        """See before anything is opened that NVENC is there if it was demanded.

        Raises:
            ConfigError: it encodes no such format.
            HardwareError: as `choose`.
        """
        if self.software.on_gpu or self._options.hwaccel == CUDA:
            choose(self.software, self._options, *_TRIAL, FORMATS["yuv420p"])

    def begin(self, width: int, height: int, layout: PixelFormat, start: Callable[[Encoder], T]) -> T:
        """What ``start`` makes of the encoder that `choose` takes; or of software, where NVENC refuses after its trial.

        Raises:
            SinkError: from ``start``.
            HardwareError: as `choose`.
        """
        pictures = (width, height, layout.name)
        if pictures not in self._chosen:
            self._chosen[pictures] = choose(self.software, self._options, width, height, layout)
        encoder = self._chosen[pictures]
        try:
            return start(encoder)
        except SinkError as error:
            if encoder is self.software or self._options.hwaccel == CUDA:
                raise
            _LOG.warning("%s; it is encoded in software", error)
        begun = start(self.software)
        self._chosen[pictures] = self.software  # it was NVENC that failed, and not a full disk
        return begun


def h264_choice(options: VideoOptions) -> EncoderChoice:
    """For what is served and published, which is H.264."""
    return EncoderChoice(encoder_named(options.codec or "h264"), options)


def refusal(hardware: Encoder, width: int, height: int, layout: PixelFormat) -> str:
    """Why an encoder makes nothing of such pictures here, on one line; empty where it does."""
    context = av.CodecContext.create(hardware.name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, layout.name
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.options = hardware.options(None)
    picture = av.VideoFrame(width, height, layout.name)
    for plane in picture.planes:
        np.frombuffer(memoryview(plane), np.uint8)[:] = 0
    picture.pts, picture.time_base = 0, Fraction(1, 25)
    try:
        packets = [*context.encode(picture), *context.encode(None)]
    except (av.FFmpegError, ValueError, OSError) as error:
        why = one_line(error)
    else:
        if any(packet.size for packet in packets):
            return ""
        why = "it gave nothing"
    return (
        f"NVENC takes no pictures of {width}×{height} here ({why}; some GPUs have no NVENC, some a limit of sessions)"
    )


def nvenc_encoders() -> tuple[Encoder, ...]:
    """Those that PyAV was built with."""
    return tuple(encoder for encoder in ENCODERS if encoder.on_gpu and encoder.is_built())


def _twin(software: Encoder, options: VideoOptions) -> Encoder | None:
    """The encoder of the same format on the GPU, or None where software was chosen.

    Raises:
        ConfigError: a GPU was demanded, and there is none for this format.
    """
    if software.on_gpu:
        return software
    if options.hwaccel == "none" or options.codec == software.name:
        return None
    found = next((each for each in nvenc_encoders() if each.alias == software.alias), None)
    if found is None and options.hwaccel == CUDA:
        able = ", ".join(each.alias for each in nvenc_encoders()) or "nothing in this PyAV"
        raise ConfigError(
            f"hwaccel cuda: NVENC encodes no {software.alias}, but {able}: give one of these as --codec, or "
            f"--codec {software.name} to encode in software"
        )
    return found
