"""A stream without an end that any number of clients are sent alike."""

from __future__ import annotations

from pipeline.sinks.serve.server import Connection


class Feed:
    """Pieces that can be understood one by one; used in the service thread but where it says so.

    Args:
        kind: content type, where the protocol tells it.

    Attributes:
        lost: pieces that viewers did not get because they were late.
    """

    def __init__(self, kind: str = "") -> None:
        self.kind = kind
        self.lost = 0
        self._prelude = b""
        self._viewers: set[Connection] = set()

    @property
    def viewers(self) -> int:
        """How many look on; for any thread."""
        return len(self._viewers)

    def begin(self, prelude: bytes) -> None:
        """What everybody is sent before the first piece; those who wait for it get it now."""
        self._prelude = prelude
        for viewer in self._viewers:
            viewer.writer.write(prelude)

    def join(self, viewer: Connection) -> None:
        """Send it what comes."""
        viewer.writer.write(self._prelude)
        self._viewers.add(viewer)

    def leave(self, viewer: Connection) -> None:
        """It has gone."""
        self._viewers.discard(viewer)

    def deliver(self, piece: bytes) -> None:
        """Hand a piece to everybody who has taken the one before the last; never waits."""
        for viewer in self._viewers:
            if viewer.writer.transport.get_write_buffer_size() > len(piece):
                self.lost += 1
            else:
                viewer.writer.write(piece)

    def end(self) -> None:
        """There is no more: hang up."""
        for viewer in self._viewers:
            viewer.writer.close()
        self._viewers.clear()
