"""What a name asks for: from an output as the user gave it to the sink that makes it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sinks.encoders import DEFAULT_QUALITY, EXTENSIONS, Encoder, VideoOptions, encoder_for, encoder_named
from pipeline.sinks.files import PartFile, StandardOutput
from pipeline.sinks.images import ImageNames, ImageSink, IndexedPngCoder, JpegCoder, PictureCoder, PngCoder
from pipeline.sinks.mask_server import MaskServerSink
from pipeline.sinks.masks import MaskVideoSink, file_targets, pipe_targets
from pipeline.sinks.null import NullSink
from pipeline.sinks.nvenc import EncoderChoice, h264_choice
from pipeline.sinks.places import check_place, refuse_input
from pipeline.sinks.publish import PublishSink, is_published
from pipeline.sinks.recordings import has_clock, place_of, refuse_unknown_clock
from pipeline.sinks.rle_lines import RleSink
from pipeline.sinks.rtsp.sink import RtspSink
from pipeline.sinks.segments import RecordOptions, SegmentedSink
from pipeline.sinks.serve.address import check_free, serve_address
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.target import Target
from pipeline.sinks.video import VideoSink
from pipeline.sinks.web.sink import LivePageSink
from pipeline.sources.uri import mask_uri

_OUTPUTS = (
    f"a video ({' '.join(EXTENSIONS)}), pictures (NAME_%06d.png, .jpg, or a directory with a / at the end), "
    "rtsp://@:8554/NAME, http://@:8080/, rtsp://HOST/NAME, rtmp://HOST/APP/KEY, - (Matroska to a pipe) or null"
)
_MASKS = (
    "NAME.mkv (FFV1), NAME.jsonl (COCO run lengths), pictures (NAME_%06d.png, or a directory with a / at the end), "
    "tcp://@:PORT, - (Matroska to a pipe) or null"
)
_LOSSY = {".mp4", ".mov", ".webm", ".m4v", ".avi", ".ts", ".jpg", ".jpeg", ".webp", ".gif"}


def open_output(
    uri: str,
    options: VideoOptions | None = None,
    serve: ServeOptions | None = None,
    record: RecordOptions | None = None,
) -> Sink:
    """The sink for rendered pictures that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mp4``, ``.mkv``, ``.webm``, ``.mov``: a video, an existing one is replaced when
            the new one is complete, and with the clock in it (``rec/%Y%m%d-%H%M%S.mkv``) a file after
            the other; ``DIR/`` or ``NAME_%06d.png``, ``.jpg``: a file a frame
            (``NAME.png`` for a single one); ``-``: Matroska on standard output;
            ``rtsp://@[HOST]:PORT/NAME``: served over RTSP; ``http://@[HOST]:PORT/``: a live page;
            ``rtsp://HOST/NAME``, ``rtmp://HOST/APP/KEY``: published to that server; ``null``: nothing.
        options: how pictures are encoded.
        serve: who may reach what is served.
        record: how long files with the clock in their names are, and how many are kept.

    Raises:
        ConfigError: the name fits no kind of output, the container cannot hold the codec, or standard
            output is a terminal.
        HardwareError: a GPU was demanded that encodes nothing here.
    """
    options, serve = options or VideoOptions(), serve or ServeOptions()
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        encoders = _encoders(encoder_for("matroska", options.codec), options)
        return VideoSink(uri, lambda _info: StandardOutput(), "matroska", options, encoders, prompt=True)
    sink = _network_output(uri, options, serve) or _output_files(uri, options, record or RecordOptions())
    if sink is None:
        raise ConfigError(f"output {mask_uri(uri)!r} is of no known kind: give {_OUTPUTS}")
    return sink


def _network_output(uri: str, options: VideoOptions, serve: ServeOptions) -> Sink | None:
    address = serve_address(uri)
    if address is not None and address.scheme == "tcp":
        raise ConfigError(
            f"output {uri}: labels are what is served over TCP: give --masks {uri}, or --output rtsp://@:8554/NAME"
        )
    if address is None and not is_published(uri):
        return None
    if options.codec is not None and encoder_named(options.codec).alias != "h264":
        raise ConfigError(f"output {mask_uri(uri)}: only H.264 is served and published, leave --codec out")
    if address is None or address.scheme == "rtsp":
        h264_choice(options).demand()
    if address is None:
        return PublishSink(uri, options)
    return (RtspSink if address.scheme == "rtsp" else LivePageSink)(address, options, serve)


def _output_files(uri: str, options: VideoOptions, record: RecordOptions) -> Sink | None:
    path, kind = Path(uri), Path(uri).suffix.lower()
    if _is_directory(uri):
        return ImageSink(uri, ImageNames(path, "frame_%06d.png", own=True), PngCoder())
    if "://" not in uri and kind in EXTENSIONS:
        refuse_unknown_clock(uri)
        encoders = _encoders(encoder_for(EXTENSIONS[kind], options.codec), options)
        if has_clock(uri):
            return SegmentedSink(uri, lambda name: _video(name, options, encoders), record)
        return _video(uri, options, encoders)
    if "://" not in uri and kind in (".png", ".jpg", ".jpeg"):
        quality = DEFAULT_QUALITY if options.quality is None else options.quality
        coder: PictureCoder = PngCoder() if kind == ".png" else JpegCoder(quality)
        return ImageSink(uri, ImageNames(path.parent, path.name), coder)
    return None


def _video(uri: str, options: VideoOptions, encoders: EncoderChoice) -> VideoSink:
    path = Path(uri)
    return VideoSink(uri, lambda info: _beside(path, uri, info), EXTENSIONS[path.suffix.lower()], options, encoders)


def _encoders(software: Encoder, options: VideoOptions) -> EncoderChoice:
    """What encodes an output, with a demand for a GPU looked into.

    Raises:
        ConfigError, HardwareError: as `EncoderChoice.demand`.
    """
    encoders = EncoderChoice(software, options)
    encoders.demand()
    return encoders


def open_masks(uri: str, serve: ServeOptions | None = None, record: RecordOptions | None = None) -> Sink:
    """The sink for label masks that a name asks for; nothing is created before its `open`.

    Args:
        uri: ``NAME.mkv`` (with ``NAME.mkv.jsonl`` beside it); ``NAME.jsonl``; ``DIR/`` or
            ``NAME_%06d.png``: indexed PNG; ``-``: Matroska on standard output;
            ``tcp://@[HOST]:PORT``: Matroska for every client; ``null``: nothing.
        serve: who may reach what is served.
        record: how long files with the clock in their names are, and how many are kept.

    Raises:
        ConfigError: the name fits no kind of mask output, or one that would destroy labels, or
            standard output is a terminal.
    """
    address = serve_address(uri)
    if address is not None and address.scheme == "tcp" and not address.path:
        return MaskServerSink(address, serve or ServeOptions())
    if address is not None and address.scheme != "tcp":
        raise ConfigError(
            f"masks {uri}: pictures are what is served there: give --output {uri}, or --masks tcp://@:PORT"
        )
    if uri == "null":
        return NullSink()
    if uri == "-":
        _refuse_terminal(uri)
        return MaskVideoSink(uri, pipe_targets, prompt=True)
    sink = _mask_files(uri, record or RecordOptions())
    if sink is None:
        raise ConfigError(f"masks {mask_uri(uri)!r} is of no known kind: give {_MASKS}")
    return sink


def _mask_files(uri: str, record: RecordOptions) -> Sink | None:
    path, kind = Path(uri), Path(uri).suffix.lower()
    if _is_directory(uri):
        return ImageSink(uri, ImageNames(path, "mask_%06d.png", own=True), IndexedPngCoder())
    if "://" not in uri:
        if kind == ".mkv":
            refuse_unknown_clock(uri)
        if kind == ".mkv" and has_clock(uri):
            return SegmentedSink(uri, lambda name: MaskVideoSink(name, file_targets(Path(name), name)), record)
        if kind == ".mkv":
            return MaskVideoSink(uri, file_targets(path, uri))
        if kind == ".jsonl":
            return RleSink(path, uri)
        if kind == ".png":
            return ImageSink(uri, ImageNames(path.parent, path.name), IndexedPngCoder())
        if kind in _LOSSY:
            raise ConfigError(f"masks {uri!r}: {kind} is lossy and would destroy the labels: give {_MASKS}")
    return None


def is_watched(uri: str) -> bool:
    """Whether an output goes to whoever looks on while it is made, rather than into files or a pipe."""
    return "://" in uri


def wants_plain(uri: str) -> bool:
    """Whether an output wants the pictures without paint too."""
    return re.match(r"https?://@", uri) is not None


def check_writable(uri: str, path: str) -> None:
    """See that an output could be made where its name says, without making anything.

    Args:
        uri: the output, as `open_output` and `open_masks` take it.
        path: the file it writes; the directory, or the pattern, where it writes many.

    Raises:
        SinkError: it could not.
    """
    address = serve_address(uri)
    if address is not None:
        check_free(address)
    if is_watched(uri):
        return
    if has_clock(uri) and Path(uri).suffix.lower() in EXTENSIONS:
        path = str(place_of(uri) / "segment")
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
