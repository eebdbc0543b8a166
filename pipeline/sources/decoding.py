"""Who decodes a stream's pictures: libav's own decoder, or through it the GPU's NVDEC."""

from __future__ import annotations

import logging

import av

from pipeline.errors import SourceError, SourceLostError
from pipeline.hwaccel import CUDA, HwAccel, missing, tell_once, wanted
from pipeline.sources.demux import Demuxer
from pipeline.sources.target import CAMERAS, Target

_log = logging.getLogger(__name__)

ENOUGH = 3
"""Failures of NVDEC itself after which its pictures cannot be trusted: libav gives some for lost ones, unmarked."""


class Decoding:
    """Chooses who decodes, and tells when that changes.

    libav asks NVDEC anew whenever size, profile or depth change in mid-stream, and decodes in software what that does
    not take: no picture is lost or comes twice.

    Attributes:
        on_gpu: NVDEC is to be tried.
        name: the decoder of the pictures that came last, such as ``"h264"`` or ``"h264 by NVDEC"``.
    """

    def __init__(self, shown: str, hwaccel: HwAccel) -> None:
        """``shown``: the input as people may see it.

        Raises:
            HardwareError: NVDEC was demanded, and is missing.
        """
        self.name = ""
        self._failures = 0
        self._shown = shown
        self._demanded = hwaccel == CUDA
        self.on_gpu = wanted("NVDEC", hwaccel) and shown not in _failed
        if hwaccel == "auto" and missing("NVDEC"):
            tell_once(_log, f"video is decoded in software: {missing('NVDEC')}")

    def open(self, target: Target, *, audio: bool) -> Demuxer:
        """Open, with NVDEC where it is to be tried and does not spoil the stream, which is known once it is open.

        Pipes, which cannot be opened again without, are not tried unless it is demanded, nor are cameras, which send
        JPEG or raw pictures.

        Raises:
            SourceError: as `Demuxer`; or NVDEC was demanded and would spoil the stream.
        """
        if self.on_gpu and not self._demanded and (target.format in CAMERAS or not isinstance(target.url, str)):
            self.on_gpu = False
            tell_once(_log, f"{self._shown}: decoded in software, as cameras and pipes are")
        demuxer = Demuxer(target, audio=audio, on_gpu=self.on_gpu)
        codec = demuxer.video.codec_context
        if not self.on_gpu or not _is_spoilt(codec):
            return demuxer
        demuxer.close()
        if self._demanded:
            raise self._not_taken(codec)
        self.on_gpu = False
        self._tell(codec)
        return Demuxer(target, audio=audio)

    def look(self, codec: av.VideoCodecContext) -> None:
        """See who has decoded the last picture.

        Raises:
            SourceError: NVDEC was demanded, and does not take the stream's first picture.
        """
        by_gpu = codec.pix_fmt == CUDA
        name = f"{codec.name} by NVDEC" if by_gpu else codec.name
        if name == self.name:
            return
        before, self.name = self.name, name
        if not self.on_gpu:
            return
        if self._demanded and not (by_gpu or before):
            raise self._not_taken(codec)
        self._tell(codec, by_gpu=by_gpu, before=before)

    def _tell(self, codec: av.VideoCodecContext, *, by_gpu: bool = False, before: str = "") -> None:
        told = "decoded by NVDEC" if by_gpu else "decoded in software, NVDEC does not take it"
        tell_once(_log, f"{self._shown}: {'from here on ' if before else ''}{told} ({_stream(codec)})")

    def _not_taken(self, codec: av.VideoCodecContext) -> SourceError:
        return SourceError(
            f"{self._shown}: NVDEC does not take it ({_stream(codec)}); --hwaccel none decodes it in software"
        )

    def blame(self, error: av.FFmpegError) -> None:
        """A packet could not be decoded.

        Raises:
            SourceLostError: by NVDEC, as some before it; the stream's damage is no such error.
        """
        if not self.on_gpu or not isinstance(error, av.ExternalError):
            return
        self._failures += 1
        if self._failures >= ENOUGH:
            self.give_up()
            message = f"{self._shown}: lost, NVDEC fails at it; --hwaccel none decodes it in software"
            raise SourceLostError(message, cause="undecodable")

    def give_up(self) -> bool:
        """Where NVDEC has failed, and was not demanded, have software decode this input from its next opening on."""
        if self._demanded or not self._failures:
            return False
        if self.on_gpu:
            self.on_gpu = False
            _failed.add(self._shown)
            _log.warning("%s: NVDEC fails at it, it is decoded in software when it is opened again", self._shown)
        return True


def _is_spoilt(codec: av.VideoCodecContext) -> bool:
    """What libav gives to NVDEC by depth and chroma alone, and no GPU decodes right.

    Lossless H.264; and JPEG, of which cameras leave out the Huffman tables.
    """
    return codec.name == "mjpeg" or (
        codec.name == "h264" and codec.profile in ("High 4:4:4 Predictive", "CAVLC 4:4:4 Intra")
    )


def _stream(codec: av.VideoCodecContext) -> str:
    return " ".join(filter(None, (codec.name, codec.profile)))


_failed: set[str] = set()
"""Inputs that NVDEC took and then failed at."""
