"""What a path or pattern on this machine stands for: a video, or images in order."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.images import SUFFIXES, natural_key
from pipeline.sources.uri import SCHEME

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".gif", ".h264", ".264", ".h265", ".265", ".hevc",
    ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
"""Endings of video files, in lower case: for telling files of a directory or glob apart, nothing else."""

_NUMBER = re.compile(r"%0?(\d*)d")


def is_image(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in SUFFIXES


def images_of(uri: str) -> list[Path]:
    """The images, in order, that a directory, glob, numbered pattern or single image stands for.

    Empty where ``uri`` is the path of something else that exists.

    Raises:
        SourceError: nothing there, or nothing in it.
    """
    path = Path(uri)
    if path.is_dir():
        return _directory(path)
    if path.exists():
        return [path] if is_image(path) else []
    if _NUMBER.search(path.name):
        return _numbered(path)
    if glob.has_magic(uri):
        found = [match for match in _matches(uri) if is_image(match)]
        if not found:
            raise SourceError(f"{uri}: matches no image; quote the pattern if the shell should leave it alone")
        return found
    raise SourceError(f"{uri}: no such file or directory")


def expand_inputs(uris: Iterable[str]) -> list[str]:
    """Each glob of videos, and each directory that holds videos, as its several files.

    Everything else comes back as it is: a glob or directory of images is one input.

    Raises:
        SourceError: a glob that matches nothing; one, or a directory, with both images and videos; a name that cannot
            be looked at.
    """
    return [each for uri in uris for each in _expand(uri)]


def _expand(uri: str) -> list[str]:
    try:
        return _files(uri)
    except OSError as error:
        shown = uri if len(uri) <= 100 else f"{uri[:99]}…"
        raise SourceError(f"{shown}: {(error.strerror or str(error)).lower()}") from error


def _files(uri: str) -> list[str]:
    path = Path(uri)
    if uri == "-" or SCHEME.match(uri) or path.is_file():
        return [uri]
    if path.is_dir():
        files = sorted((f for f in path.iterdir() if f.is_file()), key=natural_key)
        return _one_kind(uri, files, "holds", f"{path}/") or [uri]
    if not glob.has_magic(uri):
        return [uri]
    return _expand_glob(uri)


def _expand_glob(uri: str) -> list[str]:
    files = [match for match in _matches(uri) if match.is_file()]
    if not files:
        raise SourceError(f"{uri}: matches no file")
    return _one_kind(uri, files, "matches", "") or [str(f) for f in files]


def _one_kind(uri: str, files: Sequence[Path], holds: str, folder: str) -> list[str]:
    """The images as one input, or the videos as several; nothing where there is neither.

    Raises:
        SourceError: there is both.
    """
    images = any(is_image(f) and not f.name.startswith(".") for f in files)
    videos = [str(f) for f in files if f.suffix.lower() in VIDEO_SUFFIXES and not f.name.startswith(".")]
    if images and videos:
        raise SourceError(
            f"{uri}: {holds} images and videos; name one kind, such as '{folder}*{Path(videos[0]).suffix}'"
        )
    return [uri] if images else videos


def _matches(pattern: str) -> list[Path]:
    return sorted((Path(match) for match in glob.glob(pattern, recursive=True)), key=natural_key)  # noqa: PTH207


def _directory(path: Path) -> list[Path]:
    try:
        entries = list(path.iterdir())
    except PermissionError:
        raise SourceError(f"{path}: no permission to read the directory") from None
    images = [entry for entry in entries if is_image(entry) and entry.is_file() and not entry.name.startswith(".")]
    if images:
        return sorted(images, key=natural_key)
    videos = sorted(entry.name for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES)
    if videos:
        raise SourceError(f"{path}: holds videos, each an input of its own; name one, such as {path / videos[0]}")
    raise SourceError(f"{path}: the directory holds no image ({', '.join(sorted(SUFFIXES))})")


def _numbered(pattern: Path) -> list[Path]:
    before, digits, after = _NUMBER.split(pattern.name, maxsplit=1)
    width = int(digits or 1)
    number = re.compile(re.escape(before.replace("%%", "%")) + r"(\d+)" + re.escape(after.replace("%%", "%")))
    found: list[tuple[int, Path]] = []
    if pattern.parent.is_dir():
        for entry in pattern.parent.iterdir():
            match = number.fullmatch(entry.name)
            if match and (len(match[1]) == width or (len(match[1]) > width and match[1][0] != "0")):
                found.append((int(match[1]), entry))
    if not found:
        raise SourceError(f"{pattern}: no file has a name of that pattern")
    return [path for _, path in sorted(found)]
