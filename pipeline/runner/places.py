"""How many frames of a live input are chosen before the engine is done with earlier ones."""

from __future__ import annotations

from pipeline.flow import Buffer, Crew

CHOSEN = 2
"""One is computed; the next one gets ready for it and, where the engine takes more than one request, has its copy over.

A third one would only grow old there.
"""


class Places:
    """Places between decoder and the engine's answer: who gets one then takes the newest picture.

    One frame at most waits for the engine: while that is with other inputs, a second one would grow old behind it.

    Args:
        crew: is told of what is waited on.
        bounded: whether there are only `CHOSEN`; else nobody ever waits for one.
    """

    def __init__(self, crew: Crew, *, bounded: bool) -> None:
        self.bounded = bounded
        self._free: Buffer[None] = Buffer(CHOSEN)
        for _ in range(CHOSEN):
            self._free.put(None)
        self._ahead: Buffer[None] = Buffer(1)
        self._ahead.put(None)
        crew.watch(self._free, self._ahead)

    def take(self) -> None:
        """Wait for a place, from which the engine comes next.

        Raises:
            Closed: the run is given up.
        """
        if self.bounded:
            self._ahead.get()
            self._free.get()

    def admitted(self) -> None:
        """The engine has come to the frame that waited, or nobody will: another one may wait."""
        if self.bounded:
            self._ahead.put(None)

    def give(self) -> None:
        """Give a place back."""
        if self.bounded:
            self._free.put(None)
