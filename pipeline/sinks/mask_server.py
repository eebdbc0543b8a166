"""Label masks for other programs, live: FFV1 in Matroska over a TCP connection."""

from __future__ import annotations

import asyncio
import logging

from pipeline.errors import SinkError
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.masks import MaskSegment
from pipeline.sinks.serve.address import Address, refuse_open_door
from pipeline.sinks.serve.feed import Feed
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.serve.server import IDLE_S, Connection, Mounted, Server
from pipeline.sinks.wire import Wire
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)


class _MaskConnection(Connection):
    """A client, who is asked for nothing and gets the masks."""

    def __init__(self, feed: Feed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.known = True
        self._feed = feed

    async def serve(self) -> None:
        """Send until the client leaves; what it says is of no interest.

        One that only says no more, as ``nc`` and ``socat`` do at the end of their input, still reads.  Whether it has
        gone instead shows when a mask is sent, so until then it makes room for others.
        """
        self._feed.join(self)
        while await self.reader.read(1024):
            pass
        self.known = False
        await self.writer.wait_closed()

    def tick(self, now: float) -> None:
        """It may be silent."""
        self.deadline = now + IDLE_S
        super().tick(now)

    def leave(self) -> None:
        """It has gone."""
        self._feed.leave(self)


class MaskServerSink:
    """Sends every client the labels' very bytes as gray levels, with the source's times.

    Who comes later gets the container's head, and the masks from then on; every one is a keyframe. Who
    is slow loses its own masks, and sees a gap in their times.  Matroska hands a mask on when the next one
    comes.  Neither FFV1 nor Matroska can change its size: then all are hung up on, and may come again.

    Args:
        address: where.
        serve: whether other machines may come, too.

    Raises:
        ConfigError: they could, without the user having said so.
    """

    def __init__(self, address: Address, serve: ServeOptions) -> None:
        refuse_open_door(address, serve)
        self._address = address
        self._info: OutputInfo | None = None
        self._feed: Feed | None = None
        self._mounted: Mounted[Feed] | None = None
        self._segment: MaskSegment | None = None
        self._pieces: list[bytes] = []
        self._wire = Wire(self.name, self._pieces.append)
        self._frames = 0

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return str(self._address)

    @property
    def clients(self) -> int:
        """How many are sent masks now."""
        return self._feed.viewers if self._feed is not None else 0

    @property
    def lost(self) -> int:
        """Masks that were left out for clients that were late."""
        return self._feed.lost if self._feed is not None else 0

    def open(self, info: OutputInfo) -> None:
        """Listen; the encoder starts with the first mask's size."""
        feed = self._feed = Feed()
        self._info, self._frames = info, 0

        def connect(_: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
            return _MaskConnection(feed, reader, writer)

        try:
            self._mounted = Mounted(lambda address: Server(address, connect), self._address, feed)
        except BaseException:
            self.abort()
            raise

    def write(self, result: Result) -> None:
        """Send one mask."""
        info, feed, mounted = self._info, self._feed, self._mounted
        if info is None or feed is None or mounted is None:
            raise SinkError(f"{self.name} is not open")
        shape = (int(result.labels.shape[0]), int(result.labels.shape[1]))
        segment = self._segment
        if segment is None or segment.shape != shape:
            self._end()
            segment = self._segment = MaskSegment((self._wire, None), info, shape, 1, prompt=True)
            mounted.service.run(feed.begin, self._take())
        segment.write(result, self._frames)
        self._frames += 1
        mounted.service.run(feed.deliver, self._take())

    def _take(self) -> bytes:
        """What the muxer has written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken

    def _end(self) -> None:
        """The stream of this size is over."""
        segment, feed, mounted = self._segment, self._feed, self._mounted
        self._segment = None
        if segment is None or feed is None or mounted is None:
            return
        segment.finish()
        mounted.service.run(feed.deliver, self._take())
        mounted.service.run(feed.end)

    def write_audio(self, audio: AudioPacket) -> None:
        """Masks are silent."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Masks after this may have another size: then they start a new stream."""
        self._info = info

    def close(self) -> None:
        """Send the last mask, hang up, and stop listening."""
        try:
            self._end()
        finally:
            mounted, segment = self._mounted, self._segment
            self._mounted = self._feed = self._info = self._segment = None
            if segment is not None:
                segment.abandon()
            if mounted is not None:
                mounted.close()

    def abort(self) -> None:
        """As `close`."""
        try:
            self.close()
        except Exception as error:
            _LOG.warning("%s: %s", self.name, error)
