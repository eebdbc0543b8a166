"""Files with the clock in their names: how they are called, which are removed, and what a killed run has left."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sinks.masks import cut_to_lines
from pipeline.sinks.muxer import plays
from pipeline.sinks.unfinished import final_name, lock

_LOG = logging.getLogger(__name__)
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2, "M": 2, "S": 2}
_CLOCK = re.compile(rf"%([{''.join(_DIGITS)}])")
_LINES = ".jsonl"

_FRESH_S = 60.0
"""Age up to which an empty file may have been made just now, and its maker is about to lock it."""


def has_clock(path: str) -> bool:
    """Whether a file's path tells the time, as ``rec/%Y%m%d-%H%M%S.mkv``."""
    return _CLOCK.search(path.replace("%%", "")) is not None


def refuse_unknown_clock(uri: str) -> None:
    """See that a video's name means what its ``%`` say.

    Raises:
        ConfigError: one that is none of the clock's: it would be part of the name, and no file would follow another.
    """
    for found in re.finditer(r"%(?:%|-?\d*[A-Za-z]?)", uri):
        if not _CLOCK.fullmatch(found[0]) and found[0] not in ("%", "%%"):
            known = " ".join(f"%{letter}" for letter in _DIGITS)
            raise ConfigError(f"{uri!r}: {found[0]} tells no time; known are {known}, and %% beside them for a plain %")


def place_of(pattern: str) -> Path:
    """The directory of a pattern above which no name has the clock in it."""
    place = Path(pattern).parent
    while has_clock(str(place)):
        place = place.parent
    return Path(str(place).replace("%%", "%"))


def at(pattern: str, seconds: float) -> str:
    """The path of a pattern at a time (since 1970)."""
    clock = time.localtime(seconds)
    return "%".join(_CLOCK.sub(lambda m: time.strftime(m[0], clock), part) for part in pattern.split("%%"))


def free(path: str) -> str:
    """The path, or the first of ``NAME-2``, ``NAME-3`` … that is not there."""
    stem, dot, suffix = path.rpartition(".")
    number = 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}-{number}{dot}{suffix}"
    return path


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a pattern.

    Attributes:
        path: where it is.
        video: the final name of the video that it is, or whose lines it has.
        lines: it has a video's lines.
        whole: it has its final name.
        size: bytes.
        changed: when it was written last, since 1970.
    """

    path: Path
    video: Path
    lines: bool
    whole: bool
    size: int
    changed: float


class Recordings:
    """The files that were made by one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        stem, _, suffix = os.path.abspath(pattern).rpartition(".")  # noqa: PTH100 - a link in it must stay
        expression = "%".join(_expression(part) for part in stem.split("%%"))
        self._video = re.compile(rf"{expression}(?:-\d+)?\.{re.escape(suffix)}")
        self._root = place_of(stem)

    def tidy(self, keep_time: float | Fraction | None, keep_bytes: int | None) -> None:
        """Remove the videos that are too old or too much, with their lines; the newest and what is being written stay.

        Args:
            keep_time: seconds since the last change, None for ever.
            keep_bytes: of all files together, also of those that are being written; None for any number.
        """
        if keep_time is None and keep_bytes is None:
            return
        found = list(self._find())
        total = sum(file.size for file in found)
        videos = sorted((file for file in found if file.whole and not file.lines), key=lambda file: file.changed)
        for video in videos[:-1]:
            old = keep_time is not None and time.time() - video.changed > keep_time
            if not old and (keep_bytes is None or total <= keep_bytes):
                break
            for file in (each for each in found if each.whole and each.video == video.video):
                total -= file.size
                self._remove(file)
            _LOG.info("%s: %s is removed", self._pattern, video.path)

    def adopt(self) -> None:
        """Give what no living process writes any more its final name where it plays, and remove the rest."""
        adopted: dict[Path, Path] = {}
        for file in sorted(self._find(), key=lambda file: file.lines):  # videos first
            if file.whole or (not file.size and time.time() - file.changed < _FRESH_S):
                continue
            with suppress(OSError):
                descriptor = os.open(file.path, os.O_RDWR)
                try:
                    if lock(descriptor):
                        self._take(file, adopted)
                finally:
                    os.close(descriptor)

    def _take(self, file: _File, adopted: dict[Path, Path]) -> None:
        if file.lines:
            final = Path(f"{adopted.get(file.video, file.video)}{_LINES}")
            good = file.video in adopted and not os.path.lexists(final) and cut_to_lines(file.path)
        else:
            final = Path(free(str(file.video)))
            good = plays(file.path)
        if not good:
            _LOG.warning(
                "%s: %s, left by a run that was killed, does not play and is removed", self._pattern, file.path
            )
            self._remove(file)
            return
        file.path.rename(final)
        adopted[file.video] = final
        _LOG.warning("%s: a run that was killed has left %s", self._pattern, final)

    def _remove(self, file: _File) -> None:
        with suppress(OSError):
            file.path.unlink()
            for folder in file.path.parents:
                if folder == self._root:
                    break
                folder.rmdir()  # where it is empty now

    def _find(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                whole_name = final_name(name)
                final = Path(folder, whole_name or name)
                lines = final.name.endswith(_LINES)
                video = final.with_name(final.name.removesuffix(_LINES)) if lines else final
                if self._video.fullmatch(str(video)):
                    path = Path(folder, name)
                    with suppress(OSError):
                        told = path.lstat()
                        yield _File(path, video, lines, whole_name is None, told.st_size, told.st_mtime)


def _expression(part: str) -> str:
    pieces = _CLOCK.split(part)  # text and letters in turn
    return "".join(
        rf"\d{{{_DIGITS[piece]}}}" if number % 2 else re.escape(piece) for number, piece in enumerate(pieces)
    )
