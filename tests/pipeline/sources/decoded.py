"""Everything that a source gives, as JSON: what two ways of decoding are compared by.

As a program it takes ``[{path, hwaccel, environment}, …]`` on standard input, or PATH and HWACCEL as arguments, and
answers with a `Told` for each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.base import Decoded


@dataclass(frozen=True)
class Told:
    """What came of one input.

    Attributes:
        pictures: of each its time, size, layout, colour, aspect and the hash of its planes.
        decoder: as the source says in the end.
        damaged: as the source says in the end.
        log: level and text of each line.
        error: that ended it, or empty.
        cuda: the driver's library is in memory.
    """

    pictures: list[list[str]]
    decoder: str = ""
    damaged: int = 0
    log: tuple[tuple[str, str], ...] = ()
    error: str = ""
    cuda: bool = False


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append((record.levelname, record.getMessage()))


def tell(path: str, **options: Any) -> Told:
    """Read a whole input."""
    pictures: list[list[str]] = []
    decoder, damaged, error = "", 0, ""
    lines, logger = _Lines(), logging.getLogger("pipeline")
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    try:
        source = open_source(path, SourceOptions(**options))
        try:
            pictures.extend(_picture(item) for item in source.read() if isinstance(item, Decoded))
        finally:
            source.close()
            decoder, damaged = source.decoder, source.damaged
    except PipelineError as refused:
        error = str(refused)
    finally:
        logger.removeHandler(lines)
    maps = Path("/proc/self/maps")
    cuda = maps.exists() and ("libcuda.so" in (text := maps.read_text(encoding="utf-8")) or "nvidia_shim" in text)
    return Told(pictures, decoder, damaged, tuple(lines.told), error, cuda)


def _picture(item: Decoded) -> list[str]:
    frame = item.frame
    samples = hashlib.sha1(b"".join(plane.tobytes() for plane in frame.planes), usedforsecurity=False).hexdigest()
    size = f"{frame.width}x{frame.height}"
    return [str(frame.pts), size, frame.format.name, str(frame.colour), str(frame.sample_aspect_ratio), samples]


if __name__ == "__main__":
    answers = []
    arguments = sys.argv[1:]
    for task in [{"path": arguments[0], "hwaccel": arguments[1]}] if arguments else json.load(sys.stdin):
        before = dict(os.environ)
        os.environ.update(task.pop("environment", {}))
        answers.append(asdict(tell(**task)))
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
    print(json.dumps(answers))
