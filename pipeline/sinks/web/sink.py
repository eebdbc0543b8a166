"""A page that shows the stream live."""

from __future__ import annotations

import html
import importlib.util
import json
import logging
import time
from importlib import resources
from typing import TYPE_CHECKING

import av

from pipeline.errors import SinkError
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import DEFAULT_QUALITY, VideoOptions
from pipeline.sinks.images import IndexedPngCoder
from pipeline.sinks.rtsp.h264 import H264Stream
from pipeline.sinks.serve.address import Address, as_served, refuse_open_door
from pipeline.sinks.serve.auth import Credentials
from pipeline.sinks.serve.feed import Feed
from pipeline.sinks.serve.http import HttpServer, Response, Site, tls_context
from pipeline.sinks.serve.message import Request
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.serve.server import Mounted
from pipeline.sinks.target import cannot_write
from pipeline.sinks.web.jpeg import MotionJpeg
from pipeline.sources.base import AudioPacket

if TYPE_CHECKING:
    from pipeline.sinks.web.whep import WhepViewers

_LOG = logging.getLogger(__name__)
_BOUNDARY = "frame"
_WHEP = "whep"
_WITHOUT = b"WebRTC needs the package aiortc: pip install 'deeplab-stream[webrtc]'\n"
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


class LivePage:
    """The site of one stream: the page's files, what it is told, and the pictures as they come.

    Resources: ``info`` (JSON), ``frames`` (what the page draws: pictures as JPEG and labels as indexed PNG, see
    `LivePageSink`), ``overlay.mjpeg`` (the pictures as rendered, for ``<img>`` and players), ``whep`` (the same by
    WebRTC: POST of an offer makes a session, DELETE of that ends it).

    Args:
        whep: those who watch by WebRTC; None where that is not installed.
    """

    def __init__(self, whep: WhepViewers | None) -> None:
        self.whep = whep
        self.frames = Feed("application/octet-stream")
        self.overlay = Feed(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self._info = b"{}"

    def describe(self, info: OutputInfo) -> None:
        """What the page is told before the first picture; for any thread."""
        labels = info.labels
        told = {
            "name": info.stream.name,
            "model": info.model,
            "background": labels.background,
            "webrtc": self.whep is not None,
            "classes": [
                {"name": name, "colour": list(rgb)} for name, rgb in zip(labels.names, labels.palette, strict=True)
            ],
        }
        self._info = json.dumps(told, ensure_ascii=False).encode()

    def respond(self, resource: str) -> Response | Feed | None:
        """See `Site`."""
        if resource in _FILES:
            name, kind = _FILES[resource]
            return Response(resources.files("pipeline.sinks.web").joinpath(name).read_bytes(), kind)
        if resource == "info":
            return Response(self._info, "application/json")
        return {"frames": self.frames, "overlay.mjpeg": self.overlay}.get(resource)

    def takes(self, method: str, resource: str) -> bool:
        """See `ActiveSite`."""
        return (method == "POST" and resource == _WHEP) or (method == "DELETE" and resource.startswith(f"{_WHEP}/"))

    async def act(self, request: Request, resource: str, local: str, peer: str) -> Response:
        """See `ActiveSite`."""
        if self.whep is None:
            return Response(_WITHOUT, status=501)
        if request.method == "DELETE":
            return self.whep.hang_up(resource.removeprefix(f"{_WHEP}/"))
        return await self.whep.answer(request, local, peer)

    @property
    def viewers(self) -> int:
        """How many look on; for any thread."""
        return self.frames.viewers + self.overlay.viewers + (self.whep.viewers if self.whep is not None else 0)

    @property
    def lost(self) -> int:
        """Pictures that were left out for those who were late; for any thread."""
        return self.frames.lost + self.overlay.lost + (self.whep.lost if self.whep is not None else 0)

    async def end(self) -> None:
        """There is no more."""
        self.frames.end()
        self.overlay.end()
        if self.whep is not None:
            await self.whep.end()


class _PageServer(HttpServer):
    """Where no page lies at the root, a list of those that there are."""

    def find(self, path: str) -> Response | Feed | None:
        """See `HttpServer`."""
        found = super().find(path)
        if found is not None or path:
            return found
        names = [html.escape(name) for name in sorted(self.mounts)]
        links = "".join(f'<li><a href="/{name}/">{name}</a></li>' for name in names)
        text = (
            f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>deeplab-stream</title><ul>{links}</ul></html>'
        )
        return Response(text.encode(), "text/html; charset=utf-8")


class LivePageSink:
    """Serves a page with the live overlay; what is switched there acts on that page alone.

    The page gets the picture without paint and the labels, and lays one over the other itself.  A piece
    of ``frames`` is four bytes of length (big-endian), that much JSON (``number``, ``wall`` in
    milliseconds since 1970, ``inside`` in milliseconds, ``shares``, ``viewers``, ``jpeg`` and ``png``, their
    lengths), the JPEG and the PNG.  Nothing is encoded while nobody looks on; one who is
    slow loses his own pictures.

    Args:
        address: where, and the path of the page.
        video: quality of the pictures.
        serve: who may look.

    Raises:
        ConfigError: other machines could look without credentials or TLS, or what is needed cannot be read.
    """

    def __init__(self, address: Address, video: VideoOptions, serve: ServeOptions) -> None:
        refuse_open_door(address, serve)
        tls_context(serve)
        self._address = as_served(address, serve)
        self._serve = serve
        self._credentials = Credentials.load(serve)
        quality = DEFAULT_QUALITY if video.quality is None else video.quality
        self._plain, self._painted = MotionJpeg(quality), MotionJpeg(quality)
        self._png = IndexedPngCoder()
        self._info: OutputInfo | None = None
        self._page: LivePage | None = None
        self._mounted: Mounted[Site] | None = None
        self._video = video
        self._h264: H264Stream | None = None
        self._keys = 0
        self._number = 0

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return str(self._address)

    @property
    def clients(self) -> int:
        """How many look on."""
        return self._page.viewers if self._page is not None else 0

    @property
    def lost(self) -> int:
        """Pictures that were left out for those who were late."""
        return self._page.lost if self._page is not None else 0

    def open(self, info: OutputInfo) -> None:
        """Listen."""
        self._info, self._page, self._number = info, LivePage(_whep_viewers(self.name)), 0
        self._page.describe(info)
        try:
            self._mounted = Mounted(self._server, self._address, self._page)
        except BaseException:
            self.abort()
            raise

    def _server(self, address: Address) -> HttpServer:
        return _PageServer(address, self._serve, self._credentials)

    def write(self, result: Result) -> None:
        """Encode what somebody looks at, and send it."""
        page, mounted, info = self._page, self._mounted, self._info
        if page is None or mounted is None or info is None:
            raise SinkError(f"{self.name} is not open")
        self._number += 1
        try:
            if page.frames.viewers:
                mounted.service.run(page.frames.deliver, self._piece(result, info))
            if page.overlay.viewers:
                jpeg = self._painted.encode(result.frame)
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                mounted.service.run(page.overlay.deliver, head.encode() + jpeg + b"\r\n")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise cannot_write(self.name, error) from error
        if page.whep is not None and page.whep.viewers:
            self._stream(result, info, page.whep, mounted)

    def _stream(self, result: Result, info: OutputInfo, whep: WhepViewers, mounted: Mounted[Site]) -> None:
        if self._h264 is None:
            self._h264 = H264Stream(self.name, self._video, "baseline")  # every browser's
            self._h264.configure(info)
        requests = whep.requests
        unit = self._h264.encode(result.frame, key=requests != self._keys)
        if unit is not None:
            if unit.keyframe:
                self._keys = requests
            mounted.service.run(whep.deliver, unit)

    def _piece(self, result: Result, info: OutputInfo) -> bytes:
        jpeg = self._plain.encode(result.picture or result.frame)
        png = self._png.encode(result, info)
        said = json.dumps(
            {
                "number": self._number,
                "wall": result.frame.wall_ns / 1e6,
                "inside": (time.monotonic_ns() - result.frame.captured_ns) / 1e6,
                "shares": [round(share, 4) for share in result.shares],
                "viewers": self.clients,
                "jpeg": len(jpeg),
                "png": len(png),
            }
        ).encode()
        return b"".join((len(said).to_bytes(4), said, jpeg, png))

    def write_audio(self, audio: AudioPacket) -> None:
        """The page is silent."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Every picture has its own size."""
        self._info = info
        if self._page is not None:
            self._page.describe(info)
        if self._h264 is not None:
            self._h264.configure(info)

    def close(self) -> None:
        """Hang up, and stop listening."""
        mounted, page = self._mounted, self._page
        encoder, self._h264 = self._h264, None
        self._mounted = self._page = self._info = None
        if mounted is not None and page is not None:
            try:
                mounted.service.call(page.end())
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


def _whep_viewers(name: str) -> WhepViewers | None:
    """Those who watch by WebRTC, or None without aiortc: it is imported before anybody waits for it."""
    if importlib.util.find_spec("aiortc") is None:
        return None
    try:
        from pipeline.sinks.web.whep import WhepViewers
    except ImportError as error:
        _LOG.warning("%s: no WebRTC, aiortc cannot be loaded: %s", name, error)
        return None
    return WhepViewers(name)
