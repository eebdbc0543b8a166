"""Overlays served over RTSP."""

from __future__ import annotations

import logging

from pipeline.errors import SinkError
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import VideoOptions
from pipeline.sinks.rtsp.h264 import H264Stream
from pipeline.sinks.rtsp.server import RtspServer
from pipeline.sinks.rtsp.stream import LiveStream
from pipeline.sinks.serve.address import Address, refuse_open_door
from pipeline.sinks.serve.auth import Credentials
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.serve.server import Mounted
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)


class RtspSink:
    """Serves the rendered pictures as H.264 to any number of clients, over TCP and UDP.

    Nothing is encoded while nobody plays.  A client begins with a keyframe that is made for it; one that is
    slow loses its own pictures, and goes on at a keyframe.  A change of size comes with new parameter sets at
    a keyframe.  Sound is left out.

    Args:
        address: where, and the stream's name.
        video: quality and threads of the encoder.
        serve: who may look.

    Raises:
        ConfigError: other machines could look without credentials, or the credentials cannot be read.

    Attributes:
        encoder: as `Encoding`.
    """

    def __init__(self, address: Address, video: VideoOptions, serve: ServeOptions) -> None:
        refuse_open_door(address, serve)
        self._address = address
        self._video = video
        self._credentials = Credentials.load(serve)
        self._encoder: H264Stream | None = None
        self._stream: LiveStream | None = None
        self._mounted: Mounted[LiveStream] | None = None
        self._served = 0
        self.encoder = ""

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return str(self._address)

    @property
    def clients(self) -> int:
        """How many play now."""
        return len(self._stream.players) if self._stream is not None else 0

    @property
    def lost(self) -> int:
        """Pictures that were left out for clients that were late."""
        return self._stream.lost_in_all if self._stream is not None else 0

    def open(self, info: OutputInfo) -> None:
        """Start the encoder, then listen."""
        self._encoder = H264Stream(self.name, self._video)
        self._stream = LiveStream(self._encoder.ssrc)
        self._served = 0
        try:
            self._encoder.configure(info)
            self.encoder = self._encoder.encoder
            self._stream.describe(self._encoder.parameter_sets)
            self._mounted = Mounted(lambda address: RtspServer(address, self._credentials), self._address, self._stream)
        except BaseException:
            self.abort()
            raise

    def write(self, result: Result) -> None:
        """Encode one picture and send it to those who play."""
        stream, encoder, mounted = self._stream, self._encoder, self._mounted
        if stream is None or encoder is None or mounted is None:
            raise SinkError(f"{self.name} is not open")
        if not stream.players:
            return
        requests = stream.requests
        unit = encoder.encode(result.frame, key=requests != self._served)
        if unit is not None:
            if unit.keyframe:
                self._served = requests
            mounted.service.run(stream.deliver, unit)

    def write_audio(self, audio: AudioPacket) -> None:
        """Left out."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Pictures of another size: new parameter sets at the next keyframe, which is made at once."""
        if self._encoder is None or self._stream is None or self._mounted is None:
            return
        self._encoder.configure(info)
        self.encoder = self._encoder.encoder
        self._mounted.service.run(self._stream.describe, self._encoder.parameter_sets)

    def close(self) -> None:
        """Tell those who play that it is over, and stop listening."""
        mounted, stream, encoder = self._mounted, self._stream, self._encoder
        self._mounted = self._stream = self._encoder = None
        if mounted is not None and stream is not None:
            try:
                mounted.service.run(stream.end)
            finally:
                mounted.close()
        if encoder is not None:
            encoder.close()

    def abort(self) -> None:
        """As `close`."""
        try:
            self.close()
        except Exception as error:
            _LOG.warning("%s: %s", self.name, error)
