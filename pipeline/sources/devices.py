"""Cameras of this machine: V4L2, AVFoundation, DirectShow."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import av.device
import av.logging

from pipeline.errors import SourceAbsentError, SourceError
from pipeline.sources.base import SourceOptions
from pipeline.sources.sample import sample_path
from pipeline.sources.target import NOT_ALLOWED, Target

DEVICES = Path("/dev")
"""Where Linux keeps its cameras."""

BY_ID = Path("/dev/v4l/by-id")
"""Where Linux names cameras by maker, model and serial number, whatever their number is today."""

_NUMBER = re.compile(r"(?:cam)?(\d+)|/dev/video(\d+)")
_NAMED = "cam:"
_SYSTEMS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_LISTING = {
    "v4l2": {"list_formats": "all"},
    "dshow": {"list_options": "true"},
    "avfoundation": {"framerate": "1000"},  # it names its modes where one is asked for that it has not
}
"""With these libav logs a camera's modes instead of opening it."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """An input that this machine has.

    Attributes:
        uri: what `open_source` takes.
        description: the camera's own name and place, for people.
        modes: what it can send, a line each as libav tells it: format, and sizes or rates.
    """

    uri: str
    description: str
    modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Camera:
    """One camera.

    Attributes:
        number: N of ``camN``.
        names: what it may be called, the one for people first.
        url: what libav opens.
    """

    number: int
    names: tuple[str, ...]
    url: str


def list_inputs() -> list[InputDevice]:
    """Cameras with their modes, those that this user may not use, and the sample clip where it is installed."""
    found = [InputDevice(f"cam{one.number}", ", ".join((*one.names, one.url)), _modes(one.url)) for one in _cameras()]
    found += [InputDevice(f"cam{path.name.removeprefix('video')}", f"{path}: {NOT_ALLOWED}") for path in _forbidden()]
    with suppress(SourceError):
        found.append(InputDevice("sample", f"street clip ({sample_path()})"))
    return found


def is_camera(uri: str) -> bool:
    """Whether ``uri`` is ``camN``, a plain number, ``/dev/videoN``, ``/dev/v4l/…`` or ``cam:NAME``."""
    return _NUMBER.fullmatch(uri) is not None or uri.startswith(("/dev/v4l/", _NAMED))


def camera_target(uri: str, options: SourceOptions) -> Target:
    """What libav opens for a camera on this system.

    Raises:
        SourceAbsentError: no such camera.
        SourceError: several are called so, or no way to cameras on this system.
    """
    system = _SYSTEMS.get(sys.platform)
    if system is None:
        raise SourceError(f"{uri}: cameras cannot be opened on {sys.platform}")
    uri = f"cam{uri}" if uri.isdecimal() else uri
    wishes: dict[str, str] = {"fpsprobesize": "0"}
    if options.video_size is not None:
        wishes["video_size"] = options.video_size
    if options.framerate is not None:
        wishes["framerate"] = f"{options.framerate:g}"
    elif system == "avfoundation":
        wishes["framerate"] = "30"  # its default is one that most cameras refuse
    if options.pixel_format is not None:
        wishes[_format_option(system, options.pixel_format)] = options.pixel_format
    return Target(
        _url_of(uri, system),
        uri,
        format=system,
        options=wishes,
        open_timeout=options.open_timeout,
        read_timeout=options.read_timeout,
        seekable=False,
        live=True,
        endless=True,
    )


def _format_option(system: str, pixel_format: str) -> str:
    if system == "v4l2":
        return "input_format"  # takes codecs too
    return "vcodec" if system == "dshow" and pixel_format in av.codecs_available else "pixel_format"


def _url_of(uri: str, system: str) -> str:
    match = _NUMBER.fullmatch(uri)
    if system == "v4l2" and not uri.startswith(_NAMED):
        path = uri if match is None else f"/dev/video{match[1] or match[2]}"
        if not Path(path).exists():
            where = "" if path == uri else f" ({path})"
            raise SourceAbsentError(f"{uri}: no such camera{where}; --list-inputs shows those that there are")
        return os.path.realpath(path)
    cameras = _cameras()
    if match is not None:
        found = [one for one in cameras if one.number == int(match[1] or match[2])]
    else:
        wanted = uri.removeprefix(_NAMED).casefold()
        found = [one for one in cameras if wanted in (name.casefold() for name in one.names)]
        found = found or [one for one in cameras if any(wanted in name.casefold() for name in one.names)]
    if not found:
        raise SourceAbsentError(f"{uri}: no such camera; --list-inputs shows those that there are")
    if len(found) > 1:
        several = ", ".join(f"cam{one.number} ({one.names[0]})" for one in found)
        raise SourceError(f"{uri}: several cameras are called so: {several}; name one of them")
    return found[0].url


def _cameras() -> list[_Camera]:
    system = _SYSTEMS.get(sys.platform)
    if system is None:
        return []
    try:
        devices = av.device.enumerate_input_devices(system)
    except (av.FFmpegError, OSError, ValueError, RuntimeError):
        return []  # libav fails where there is no device at all
    found = [d for d in devices if not d.media_types or "video" in d.media_types]
    if system == "avfoundation":
        return [_Camera(number, (d.description,), f"{number}:none") for number, d in enumerate(found)]
    if system == "dshow":
        return [_Camera(number, (d.description,), f"video={d.description}") for number, d in enumerate(found)]
    ids = _ids()
    numbered = ((re.search(r"\d+$", d.name), d) for d in found)
    cameras = [
        _Camera(int(number[0]), (d.description, *ids.get(os.path.realpath(d.name), ())), d.name)
        for number, d in numbered
        if number
    ]
    return sorted(cameras, key=lambda one: one.number)


def _forbidden() -> list[Path]:
    """Linux's devices that libav leaves out, since it cannot ask whether they are cameras."""
    effective = os.access in os.supports_effective_ids
    devices = [path for path in DEVICES.glob("video*") if path.name.removeprefix("video").isdecimal()]
    return sorted(path for path in devices if not os.access(path, os.R_OK | os.W_OK, effective_ids=effective))


def _ids() -> dict[str, list[str]]:
    """By device: its names in `BY_ID`."""
    named: dict[str, list[str]] = {}
    with suppress(OSError):
        for link in sorted(BY_ID.iterdir()):
            named.setdefault(os.path.realpath(link), []).append(link.name)
    return named


def _modes(url: str) -> tuple[str, ...]:
    system = _SYSTEMS[sys.platform]
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as lines, suppress(av.FFmpegError, OSError):
            av.open(url, format=system, options=_LISTING[system], timeout=5).close()
    finally:
        av.logging.set_level(level)
    # A line comes in pieces: the formats, then each of their sizes.
    told = "".join(line for _, _, line in lines).splitlines()
    return tuple(" ".join(line.split()) for line in told if line.strip())
