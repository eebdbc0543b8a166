"""Overlays published to a server that hands them on: RTSP (RECORD) and RTMP."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from av.video.frame import PictureType

from pipeline.errors import SinkError
from pipeline.flow.helper import Helper
from pipeline.frame import FORMATS, Result
from pipeline.sinks import publisher
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import KEYFRAMES_ASKED_FOR, Encoder, VideoOptions
from pipeline.sinks.muxer import Coding, Muxer
from pipeline.sinks.nvenc import h264_choice
from pipeline.sinks.picture import Painter, PictureFormat
from pipeline.sinks.wire import Wire
from pipeline.sources.base import AudioPacket
from pipeline.sources.uri import mask_uri, remember_uri

_LOG = logging.getLogger(__name__)

KEYFRAME_S = Fraction(2)
"""Time between two keyframes: whoever comes to the server later waits for one."""

CLOCK = 90_000
OPEN_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 8.0


_SCHEME = re.compile(r"^(rtsp|rtmps?)://[^/@:]")


def is_published(uri: str) -> bool:
    """Whether an output goes to somebody else's server."""
    return _SCHEME.match(uri) is not None


class _Away(Exception):  # noqa: N818 - the server is, not we
    """The server cannot be reached, or not any more."""


class PublishSink:
    """Sends the rendered pictures as H.264 to a server, and again after it was away.

    While the server cannot be reached, pictures are left out and counted, and it is tried again after
    0.5 s, then 1 s, and so on up to 8 s.  A server that could not be reached at all is an error, but not before
    the end: what else the run does goes on.  Sound is left out.

    Args:
        uri: ``rtsp://[USER:PASSWORD@]HOST[:PORT]/NAME`` or ``rtmp://HOST/APP/KEY``.
        video: quality and threads of the encoder.

    Attributes:
        encoder: as `Encoding`.
    """

    def __init__(self, uri: str, video: VideoOptions) -> None:
        self._uri = uri
        self._name = remember_uri(uri, published=True)
        self._video = video
        self._encoders = h264_choice(video)
        self._info: OutputInfo | None = None
        self._link: _Link | None = None
        self._again = 0.0
        self._pause = FIRST_RETRY_S
        self._lost = 0
        self._reached = False
        self._away_since: float | None = None
        self._reason = ""
        self.encoder = ""

    @property
    def name(self) -> str:
        """The output as the user named it, credentials and stream keys masked."""
        return self._name

    @property
    def clients(self) -> int:
        """1 while the server takes it."""
        link = self._link
        return int(link is not None and link.connected)

    @property
    def lost(self) -> int:
        """Pictures that came while the server was away."""
        return self._lost

    def open(self, info: OutputInfo) -> None:
        """Nothing yet: the server is asked with the first picture."""
        self._info = info
        self._lost, self._reached, self._reason = 0, False, ""
        self._again, self._pause, self._away_since = 0.0, FIRST_RETRY_S, None

    def write(self, result: Result) -> None:
        """Send one picture, or leave it out while the server is away."""
        if self._info is None:
            raise SinkError(f"{self._name} is not open")
        link = self._link
        if link is None and time.monotonic() >= self._again:
            link = self._link = self._start(self._info)
        if link is None:
            self._lost += 1
            return
        try:
            self._lost += not link.send(result)
        except _Away:
            self._lost += 1
            self._leave(link.close())
            return
        if link.connected:
            self._reached = True
            self._pause = FIRST_RETRY_S
            if self._away_since is not None:
                _LOG.warning("%s: published again after %.1f s", self._name, time.monotonic() - self._away_since)
                self._away_since = None

    def _start(self, info: OutputInfo) -> _Link | None:
        try:
            size = (info.width + info.width % 2, info.height + info.height % 2)
            return self._encoders.begin(*size, FORMATS["yuv420p"], lambda encoder: self._connect(encoder, info))
        except OSError as error:
            self._leave(error.strerror or str(error))
        except _Away:
            self._leave("")
        return None

    def _connect(self, encoder: Encoder, info: OutputInfo) -> _Link:
        self.encoder = encoder.name
        return _Link(self._uri, self._name, info, self._video, encoder)

    def _leave(self, reason: str) -> None:
        """The server is away."""
        self._link = None
        if reason == os.strerror(errno.ECONNREFUSED):
            reason += "; is the server running on that port?"
        self._reason = f"{self._name} cannot be published: {mask_uri(reason) or 'the connection is lost'}"
        if self._away_since is None:
            self._away_since = time.monotonic()
            _LOG.warning("%s (trying again)", self._reason)
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_RETRY_S)

    def write_audio(self, audio: AudioPacket) -> None:
        """Left out."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Pictures of another size are published anew."""
        self._info = info
        if self._link is not None:
            self._link.close(CLOSE_TIMEOUT_S)
            self._link = None

    def close(self) -> None:
        """Say that it is over.

        Raises:
            SinkError: the server could not be reached at all.
        """
        info, link = self._info, self._link
        self._info = self._link = None
        if link is not None:
            reason = link.close(OPEN_TIMEOUT_S if not link.connected else CLOSE_TIMEOUT_S)
            if link.connected:
                self._reached = True
            else:
                self._leave(reason)
        if info is not None and self._reason and not self._reached:
            raise SinkError(self._reason)

    def abort(self) -> None:
        """As `close`."""
        with suppress(SinkError):
            self.close()


class _Pipe(Wire):
    """The helper's standard input as a muxer's target."""

    def __init__(self, name: str, helper: Helper) -> None:
        super().__init__(name, self._hand_on)
        self._helper = helper
        self._failed = False

    def _hand_on(self, data: bytes) -> None:
        self._failed = self._failed or not self._helper.write(data, WRITE_TIMEOUT_S)

    def check(self) -> None:
        """Raise where the helper no longer reads."""
        if self._failed:
            raise _Away

    def discard(self) -> None:
        """Whatever comes is not sent."""
        self._failed = True


class _Link:
    """One connection to the server, for pictures of one size: an encoder, and the program that publishes.

    Raises:
        _Away: there is no connection.
        OSError: there is no process to be had.
    """

    def __init__(self, uri: str, name: str, info: OutputInfo, video: VideoOptions, encoder: Encoder) -> None:
        self._keyframes: Fraction | None = None
        self._frames = 0
        self._painter, coding = _coding(info, video, encoder)
        self._helper = Helper(Path(publisher.__file__))
        self._pipe = _Pipe(name, self._helper)
        self._muxer: Muxer | None = None
        try:
            kind = "rtsp" if uri.startswith("rtsp") else "flv"
            task = {
                "address": uri,
                "container": kind,
                "options": {"rtsp_transport": "tcp"} if kind == "rtsp" else {"flvflags": "no_duration_filesize"},
                "open_timeout": OPEN_TIMEOUT_S,
                "write_timeout": WRITE_TIMEOUT_S,
            }
            self._pipe.write(json.dumps(task).encode() + b"\n")
            self._muxer = Muxer(self._pipe, "nut", coding, prompt=True)
        except BaseException:
            self.close()
            raise

    @property
    def connected(self) -> bool:
        """The server takes it."""
        return self._helper.ready

    def send(self, result: Result) -> bool:
        """Encode one picture and hand it on; False where it is left out.

        Until the server takes the stream only one is sent, which tells what there is to take.

        Raises:
            _Away: the connection is lost.
        """
        if self._helper.ended or self._muxer is None:
            raise _Away
        if self._frames and not self.connected:
            return False
        self._frames += 1
        picture = self._painter.paint(result.frame)
        # Also of the second, before which some may have been left out.
        due = self._keyframes is None or self._frames == 2 or not 0 <= result.pts - self._keyframes < KEYFRAME_S
        picture.pict_type = PictureType.I if due else PictureType.NONE
        if due:
            self._keyframes = result.pts
        self._muxer.write(picture, result.pts)
        return True

    def close(self, timeout: float = 0.0) -> str:
        """End it, with ``timeout`` seconds for what is under way; why it had ended before, or ""."""
        if self._muxer is not None:
            with suppress(SinkError, _Away):
                self._muxer.finish()
            self._pipe.discard()
            self._muxer.abandon()
        return self._helper.close(timeout)


def _coding(info: OutputInfo, video: VideoOptions, encoder: Encoder) -> tuple[Painter, Coding]:
    stream = info.stream
    aspect = stream.sample_aspect_ratio if stream.sample_aspect_ratio > 0 else Fraction(1)
    width, height = info.width + info.width % 2, info.height + info.height % 2
    picture = PictureFormat(width, height, "yuv420p", stream.colour, aspect)
    options = encoder.options(video.quality, prompt=True) | KEYFRAMES_ASKED_FOR
    coding = Coding(encoder, options, picture, Fraction(1, CLOCK), stream.average_rate, video.threads)
    return Painter(picture, info.width, info.height), coding
