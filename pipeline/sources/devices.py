"""Cameras of this machine."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import av.device

from pipeline.errors import SourceError
from pipeline.sources.base import SourceOptions
from pipeline.sources.sample import sample_path
from pipeline.sources.target import Target

_CAMERA = re.compile(r"(?:cam)?(\d+)|/dev/video(\d+)")
_SYSTEMS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True)
class InputDevice:
    """An input that this machine has.

    Attributes:
        uri: what `open_source` takes.
        description: the camera's own name and place, for people.
    """

    uri: str
    description: str


def list_inputs() -> list[InputDevice]:
    """Cameras, and the sample clip where it is installed."""
    found = [InputDevice(f"cam{number}", text) for number, text in _cameras()]
    with suppress(SourceError):
        found.append(InputDevice("sample", f"street clip ({sample_path()})"))
    return found


def _cameras() -> list[tuple[int, str]]:
    system = _SYSTEMS.get(sys.platform)
    if system is None or system not in av.formats_available | {"v4l2"}:
        return []
    try:
        devices = av.device.enumerate_input_devices(system)
    except (av.FFmpegError, OSError, ValueError, RuntimeError):
        return []  # libav fails where there is no device at all
    cameras = [d for d in devices if not d.media_types or "video" in d.media_types]
    if system != "v4l2":
        return [(number, d.description) for number, d in enumerate(cameras)]
    numbered = ((re.search(r"\d+$", d.name), d) for d in cameras)
    return sorted((int(number[0]), f"{d.description} ({d.name})") for number, d in numbered if number)


def camera_number(uri: str) -> int | None:
    """N of ``camN``, a plain number or ``/dev/videoN``; None for anything else."""
    match = _CAMERA.fullmatch(uri)
    return None if match is None else int(match[1] or match[2])


def camera_target(number: int, options: SourceOptions) -> Target:
    """What libav opens for camera ``number`` on this system.

    Raises:
        SourceError: no such camera, or no way to cameras on this system.
    """
    system = _SYSTEMS.get(sys.platform)
    if system is None:
        raise SourceError(f"cam{number}: cameras cannot be opened on {sys.platform}")
    wishes: dict[str, str] = {"fpsprobesize": "0"}
    if options.size is not None:
        wishes["video_size"] = "{}x{}".format(*options.size)
    if options.fps is not None:
        wishes["framerate"] = f"{options.fps:g}"
    url = f"/dev/video{number}"
    if system == "v4l2" and not Path(url).exists():
        raise SourceError(f"cam{number}: no such camera ({url}); --list-inputs shows those that there are")
    if system == "avfoundation":
        url = f"{number}:none"
        wishes.setdefault("framerate", "30")  # its default is one that most cameras refuse
    elif system == "dshow":
        names = dict(_cameras())
        if number not in names:
            raise SourceError(f"cam{number}: no such camera; --list-inputs shows those that there are")
        url = f"video={names[number]}"
    return Target(
        url,
        f"cam{number}",
        format=system,
        options=wishes,
        open_timeout=options.open_timeout,
        read_timeout=options.read_timeout,
        seekable=False,
        live=True,
    )
