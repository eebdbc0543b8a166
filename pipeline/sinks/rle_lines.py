"""Label masks as text: a JSON line a frame, with COCO's run-length encoding of every class."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.frame import Result
from pipeline.sinks import records, rle
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.files import PartFile
from pipeline.sinks.records import Json
from pipeline.sinks.target import commit
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)


class RleSink:
    """Writes `pipeline.sinks.records` lines, a frame's with ``annotations``.

    An annotation is ``category_id`` (the class index), ``area`` in pixels, and ``segmentation``
    (``size`` [height, width], ``counts``) as ``pycocotools.mask.decode`` takes it; classes
    that do not occur have none.  Every frame tells its own size, so a change of size needs nothing.

    Args:
        path: final name.
        name: the output as the user named it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._target: PartFile | None = None
        self._frames = 0

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return self._name

    def open(self, info: OutputInfo) -> None:
        """Write the header, under a hidden name."""
        self._target = PartFile(self._path, self._name)
        self._frames = 0
        self._say(records.header(info, info.stream.height, info.stream.width))

    def write(self, result: Result) -> None:
        """Append one line."""
        size = [int(side) for side in result.labels.shape]
        annotations = [
            {
                "category_id": index,
                "area": int(counts[1::2].sum()),
                "segmentation": {"size": size, "counts": rle.compress(counts)},
            }
            for index, counts in rle.runs(result.labels).items()
        ]
        self._say(records.frame(result, self._frames) | {"annotations": annotations})
        self._frames += 1

    def _say(self, record: Json) -> None:
        if self._target is None:
            raise SinkError(f"{self._name} is not open")
        self._target.write(records.line(record))
        self._target.check()

    def write_audio(self, audio: AudioPacket) -> None:
        """Masks are silent."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Every line tells its size."""

    def close(self) -> None:
        """Rename; without a single frame there is no file."""
        if self._target is None:
            return
        if not self._frames:
            _LOG.warning("%s: no mask came, nothing is written", self._name)
            self.abort()
            return
        commit(self._target)
        self._target = None

    def abort(self) -> None:
        """Remove what was written."""
        if self._target is not None:
            self._target.discard()
        self._target = None
