"""Where results go: `open_output` for pictures, `open_masks` for labels."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sinks.encoders import DEFAULT_QUALITY, EXTENSIONS, VideoOptions
from pipeline.sinks.files import PartFile, StandardOutput, Target, check_place, refuse_input
from pipeline.sinks.images import ImageNames, ImageSink, IndexedPngCoder, JpegCoder, PictureCoder, PngCoder
from pipeline.sinks.masks import MaskVideoSink, file_targets, pipe_targets
from pipeline.sinks.null import NullSink
from pipeline.sinks.rle_lines import RleSink
from pipeline.sinks.video import VideoSink

__all__ = ["OutputInfo", "Sink", "VideoOptions", "check_writable", "open_masks", "open_output"]

_OUTPUTS = (
    f"a video ({' '.join(EXTENSIONS)}), pictures (NAME_%06d.png, .jpg, or a directory with a / at the end), "
    "- (Matroska to a pipe) or null"
)
_MASKS = (
    "NAME.mkv (FFV1), NAME.jsonl (COCO run lengths), pictures (NAME_%06d.png, or a directory with a / at the end), "
    "- (Matroska to a pipe) or null"
)
_LOSSY = {".mp4", ".mov", ".webm", ".m4v", ".avi", ".ts", ".jpg", ".jpeg", ".webp", ".gif"}


def open_output(uri: str, options: VideoOptions | None = None) -> Sink:
    """The sink for rendered pictures that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mp4``, ``.mkv``, ``.webm``, ``.mov``: a video, an existing one is replaced when
            the new one is complete; ``DIR/`` or ``NAME_%06d.png``, ``.jpg``: a file a frame
            (``NAME.png`` for a single one); ``-``: Matroska on standard output; ``null``: nothing.
        options: how pictures are encoded.

    Raises:
        ConfigError: the name fits no kind of output, the container cannot hold the codec, or standard
            output is a terminal.
    """
    options = options or VideoOptions()
    path, kind = Path(uri), Path(uri).suffix.lower()
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        return VideoSink(uri, lambda _info: StandardOutput(), "matroska", options, prompt=True)
    if _is_directory(uri):
        return ImageSink(uri, ImageNames(path, "frame_%06d.png", own=True), PngCoder())
    if "://" not in uri and kind in EXTENSIONS:
        return VideoSink(uri, lambda info: _beside(path, uri, info), EXTENSIONS[kind], options)
    if "://" not in uri and kind in (".png", ".jpg", ".jpeg"):
        quality = DEFAULT_QUALITY if options.quality is None else options.quality
        coder: PictureCoder = PngCoder() if kind == ".png" else JpegCoder(quality)
        return ImageSink(uri, ImageNames(path.parent, path.name), coder)
    raise ConfigError(f"output {uri!r} is of no known kind: give {_OUTPUTS}")


def open_masks(uri: str) -> Sink:
    """The sink for label masks that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mkv`` (with ``NAME.mkv.jsonl`` beside it); ``NAME.jsonl``; ``DIR/`` or
            ``NAME_%06d.png``: indexed PNG; ``-``: Matroska on standard output; ``null``: nothing.

    Raises:
        ConfigError: the name fits no kind of mask output, or one that would destroy labels, or
            standard output is a terminal.
    """
    path, kind = Path(uri), Path(uri).suffix.lower()
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        return MaskVideoSink(uri, pipe_targets, prompt=True)
    if _is_directory(uri):
        return ImageSink(uri, ImageNames(path, "mask_%06d.png", own=True), IndexedPngCoder())
    if "://" not in uri:
        if kind == ".mkv":
            return MaskVideoSink(uri, file_targets(path, uri))
        if kind == ".jsonl":
            return RleSink(path, uri)
        if kind == ".png":
            return ImageSink(uri, ImageNames(path.parent, path.name), IndexedPngCoder())
        if kind in _LOSSY:
            raise ConfigError(f"masks {uri!r}: {kind} is lossy and would destroy the labels: give {_MASKS}")
    raise ConfigError(f"masks {uri!r} is of no known kind: give {_MASKS}")


def check_writable(uri: str, path: str) -> None:
    """See that an output could be made where its name says, without making anything.

    Args:
        uri: the output, as `open_output` and `open_masks` take it.
        path: the file it writes; the directory, or the pattern, where it writes many.

    Raises:
        SinkError: it could not.
    """
    own = _is_directory(uri)
    check_place(Path(path, "0") if own else Path(path), uri, own=own)


def _is_directory(uri: str) -> bool:
    if "://" in uri or uri.endswith(("/", os.sep)):
        return "://" not in uri
    try:
        return bool(uri) and Path(uri).is_dir()
    except OSError:  # no permission to look: opening will say so
        return False


def _beside(path: Path, uri: str, info: OutputInfo) -> Target:
    refuse_input(uri, path, info.stream.uri)
    return PartFile(path, uri)


def _refuse_terminal(uri: str) -> None:
    try:
        terminal = os.isatty(1)
    except OSError:
        terminal = False
    if terminal:
        raise ConfigError(f"output {uri}: standard output is a terminal: pipe it, as in … --output - | ffplay -")
