"""Where results go: `open_output` for pictures, `open_masks` for labels."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sinks.encoders import EXTENSIONS, VideoOptions
from pipeline.sinks.files import PartFile, StandardOutput, Target
from pipeline.sinks.masks import MaskVideoSink, file_targets, pipe_targets
from pipeline.sinks.null import NullSink
from pipeline.sinks.video import VideoSink

__all__ = ["OutputInfo", "Result", "Sink", "VideoOptions", "open_masks", "open_output"]

_OUTPUTS = f"a video ({', '.join(EXTENSIONS)}), - (Matroska to a pipe) or null"
_MASKS = "NAME.mkv (FFV1, lossless), - (Matroska to a pipe) or null"
_LOSSY = {".mp4", ".mov", ".webm", ".jpg", ".jpeg", ".avi", ".gif", ".webp", ".m4v", ".ts"}


def open_output(uri: str, options: VideoOptions | None = None) -> Sink:
    """The sink for rendered pictures that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mp4``, ``.mkv``, ``.webm``, ``.mov``; ``-``; ``null``.
        options: how videos are encoded.

    Raises:
        ConfigError: the name fits no kind of output, or the container cannot hold the codec.
    """
    options = options or VideoOptions()
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        return VideoSink(uri, lambda _info: StandardOutput(), "matroska", options, prompt=True)
    path = Path(uri)
    if path.suffix.lower() in EXTENSIONS:
        return VideoSink(uri, lambda info: _beside(path, uri, info), EXTENSIONS[path.suffix.lower()], options)
    raise ConfigError(f"output {uri!r} is not known by its name: give {_OUTPUTS}")


def open_masks(uri: str) -> Sink:
    """The sink for label masks that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mkv``; ``-``; ``null``.

    Raises:
        ConfigError: the name fits no kind of mask output, or one that would destroy labels.
    """
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        return MaskVideoSink(uri, pipe_targets, prompt=True)
    path = Path(uri)
    if path.suffix.lower() == ".mkv":
        return MaskVideoSink(uri, file_targets(path, uri))
    if path.suffix.lower() in _LOSSY:
        raise ConfigError(f"masks {uri!r}: {path.suffix} is lossy and would destroy the labels: give {_MASKS}")
    raise ConfigError(f"masks {uri!r} is not known by its name: give {_MASKS}")


def _beside(path: Path, uri: str, info: OutputInfo) -> Target:
    try:
        same = path.samefile(info.stream.uri)
    except (OSError, ValueError):
        same = False
    if same:
        raise SinkError(f"{uri} is the input itself: give the output another name")
    return PartFile(path, uri)


def _refuse_terminal(uri: str) -> None:
    try:
        terminal = os.isatty(1)
    except OSError:
        terminal = False
    if terminal:
        raise ConfigError(f"output {uri}: standard output is a terminal: pipe it, as in … --output - | ffplay -")
