"""The video engines of an NVIDIA GPU, NVDEC and NVENC, as libav drives them: whether they are here, asked once.

Nothing of NVIDIA's is loaded where there is no driver, and libav, which would complain at length, is not asked.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache, lru_cache
from typing import Literal

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

from pipeline.errors import ConfigError, HardwareError

HwAccel = Literal["auto", "none", "cuda"]
HWACCELS: tuple[HwAccel, ...] = ("auto", "none", "cuda")
"""``"auto"`` takes the GPU where it can, ``"none"`` never asks for it, ``"cuda"`` takes nothing else."""

VideoEngine = Literal["NVDEC", "NVENC"]

CUDA = "cuda"
"""libav's name of the device, and of the pixel format of pictures that lie on it."""

_WINDOWS = os.name == "nt"
_DRIVER = "nvcuda.dll" if _WINDOWS else "libcuda.so.1"
_LIBRARIES: dict[VideoEngine, str] = {
    "NVDEC": "nvcuvid.dll" if _WINDOWS else "libnvcuvid.so.1",
    "NVENC": "nvEncodeAPI64.dll" if _WINDOWS else "libnvidia-encode.so.1",
}


def check_choice(hwaccel: str) -> None:
    """Refuse what is none of `HWACCELS`.

    Raises:
        ConfigError: it is none.
    """
    if hwaccel not in HWACCELS:
        raise ConfigError(f"hwaccel is {', '.join(HWACCELS[:-1])} or {HWACCELS[-1]}, not {hwaccel!r}")


def wanted(engine: VideoEngine, hwaccel: HwAccel) -> bool:
    """Whether the engine shall be tried.

    Raises:
        HardwareError: it was demanded, and is missing.
    """
    if hwaccel == "none":
        return False
    reason = missing(engine)
    if reason and hwaccel == CUDA:
        raise HardwareError(f"hwaccel cuda: no {engine}, {reason}; --hwaccel auto does without")
    return not reason


@cache
def missing(engine: VideoEngine) -> str:
    """Why an engine cannot be used here, on one line; empty where it can be tried.

    The driver's libraries are looked for first, then a context is opened on the GPU.  What the engine takes
    (codecs, sizes, depths; on data-centre chips nothing to encode) is not known before a stream is tried.
    """
    if CUDA not in hwdevices_available():
        return "the installed PyAV is built without CUDA (the wheels for Linux and Windows on x86-64 have it)"
    if not _loads(_DRIVER):
        return f"NVIDIA's driver is not installed ({_DRIVER} cannot be loaded)"
    if not _loads(_LIBRARIES[engine]):
        return (
            f"the driver's {_LIBRARIES[engine]} cannot be loaded (a container needs the capability 'video': "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility)"
        )
    return _no_device()


def one_line(error: Exception) -> str:
    """What an error of libav or of the system says, without the call that failed."""
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


@lru_cache(maxsize=256)
def tell_once(log: logging.Logger, line: str) -> None:
    """Say it, but not again with every connection of an input or every segment of a recording."""
    log.info("%s", line)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@cache
def _no_device() -> str:
    try:
        HWAccel(CUDA).create(av.Codec("h264", "r"))
    except (av.FFmpegError, OSError, NotImplementedError) as error:
        return f"no GPU can be opened ({one_line(error)}; nvidia-smi shows what the driver sees)"
    return ""
