"""Overlays as a video: a file, or Matroska on standard output."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction

from pipeline.errors import SinkError
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import Encoder, VideoOptions, nearest_format
from pipeline.sinks.files import PartFile
from pipeline.sinks.muxer import LASTING, Coding, Muxer, plays
from pipeline.sinks.nvenc import EncoderChoice
from pipeline.sinks.picture import Painter, PictureFormat
from pipeline.sinks.target import Target, commit
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)


class VideoSink:
    """Encodes the rendered pictures, with the source's times, colours, pixel aspect and audio.

    The planes go to the encoder as they are; where it cannot take their layout, libswscale makes
    the nearest that it can.  Odd sizes that the encoder cannot take are continued by their edge
    to even ones (H.264 and HEVC crop whole chroma samples only).
    Where neither codec nor container can carry the pixel aspect (VP9 and AV1 in WebM and
    Matroska), the pictures are scaled to square pixels.  Where a later part of the source is played,
    its beginning is 0 in the video, as it is ffmpeg's way with ``-ss``.  After `reconfigure`, pictures are
    scaled to the size at opening, as ffmpeg does.

    Args:
        name: the output as the user named it.
        target: makes what takes the bytes, when the sink is opened.
        container: libav's name of the container.
        options: quality, threads.
        encoders: which one encodes; shared by the files of a recording.
        prompt: hand on every packet at once, for whoever watches.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[OutputInfo], Target],
        container: str,
        options: VideoOptions,
        encoders: EncoderChoice,
        *,
        prompt: bool = False,
    ) -> None:
        self._name = name
        self._make_target = target
        self._container = container
        self._options = options
        self._prompt = prompt
        self._encoders = encoders
        self._encoder = encoders.software
        self._target: Target | None = None
        self._muxer: Muxer | None = None
        self._painter: Painter | None = None
        self._frames = 0
        self._lasting = False

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return self._name

    @property
    def encoder(self) -> str:
        """As `Encoding`."""
        return self._encoder.name

    @property
    def written(self) -> int:
        """Bytes written so far."""
        return self._target.written if self._target is not None else 0

    def open(self, info: OutputInfo) -> None:
        """Start the encoder; the file has a hidden name until `close`."""
        stream = info.stream
        width, height = info.width + info.width % 2, info.height + info.height % 2
        self._encoders.begin(width, height, stream.format, lambda encoder: self._start(encoder, info))

    def _start(self, encoder: Encoder, info: OutputInfo) -> None:
        stream = info.stream
        self._encoder = encoder
        layout = nearest_format(stream.format, encoder.formats())
        if layout.depth < stream.format.depth:
            _LOG.warning(
                "%s: %s takes %d bits a sample here, the picture's %d are rounded; write .mkv or .mp4 to keep them",
                self.name,
                encoder.alias,
                layout.depth,
                stream.format.depth,
            )
        picture = self._picture(info, layout.name)
        if encoder.even:
            picture = picture.with_even_sides(layout)
        options = encoder.options(self._options.quality, prompt=self._prompt and stream.live)
        first = stream.start + stream.skipped
        coding = Coding(
            encoder,
            options,
            picture,
            stream.time_base,
            stream.average_rate,
            self._options.threads,
            # What lies before 0 is not shown, as in a transport stream whose clock ran over its end.
            zero=first if stream.skipped or first < 0 else Fraction(0),
        )
        try:
            self._target = self._make_target(info)
            self._lasting = stream.live and self._container in LASTING
            self._muxer = Muxer(
                self._target,
                self._container,
                coding,
                audio=stream.audio,
                prompt=self._prompt,
                lasting=self._lasting,
            )
        except SinkError:
            self.abort()
            raise
        self._painter = Painter(picture, info.width, info.height)
        self._frames = 0

    def _picture(self, info: OutputInfo, layout: str) -> PictureFormat:
        stream = info.stream
        picture = PictureFormat(info.width, info.height, layout, stream.colour, stream.sample_aspect_ratio)
        if picture.sample_aspect_ratio <= 0:
            return PictureFormat(info.width, info.height, layout, stream.colour, Fraction(1))
        carried = self._encoder.own_aspect or self._container in ("mp4", "mov")
        return picture if carried else picture.with_square_pixels()

    def write(self, result: Result) -> None:
        """Encode one picture at its own time."""
        if self._muxer is None or self._painter is None:
            raise SinkError(f"{self._name} is not open")
        self._muxer.write(self._painter.paint(result.frame), result.pts)
        self._frames += 1

    def write_audio(self, audio: AudioPacket) -> None:
        """Copy one packet."""
        if self._muxer is not None:
            self._muxer.write_audio(audio.packet)

    def reconfigure(self, info: OutputInfo) -> None:
        """Nothing to prepare: what does not fit the opening size is scaled to it."""

    def close(self) -> None:
        """Flush and rename; without a single picture there is no file."""
        muxer, target = self._muxer, self._target
        if muxer is None or target is None:
            return
        if not self._frames:
            _LOG.warning("%s: no picture came, nothing is written", self._name)
            self.abort()
            return
        try:
            muxer.finish()
        except SinkError:
            if not self._lasting:
                self.abort()
            raise
        try:
            commit(target)
        except SinkError:
            self.abort()
            raise
        self._forget()

    @property
    def continues(self) -> bool:
        """False: the next file would be written over what was kept."""
        return False

    def keep(self) -> bool:
        """As `Keeping`: of a live input, in Matroska and WebM."""
        target, muxer = self._target, self._muxer
        if not self._lasting or muxer is None or not isinstance(target, PartFile):
            return False
        muxer.abandon()
        self._forget()
        return target.keep(plays)

    def abort(self) -> None:
        """Remove what was written."""
        if self._target is not None:
            self._target.discard()
        if self._muxer is not None:
            self._muxer.abandon()
        self._forget()

    def _forget(self) -> None:
        self._target = self._muxer = self._painter = None
