"""What libav is asked to open, and what to say when it will not."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from pipeline.errors import SourceAbsentError, SourceDeniedError, SourceError, SourceLostError
from pipeline.hwaccel import CUDA, one_line
from pipeline.sources.pictures import MAX_PIXELS
from pipeline.sources.tls import mistrusted

_log = logging.getLogger(__name__)

CAMERAS = ("v4l2", "avfoundation", "dshow")
"""libav's formats for cameras."""

_LOOK_UP_S = 1.0
"""How long to find out whether a name can be resolved, which only makes a message better."""


class Waiting:
    """Waits for a descriptor in one thread, until something comes, time is up, or another thread says `wake`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # so that nobody writes into a descriptor that was closed and used again
        self._ears, self._mouth = os.pipe()
        self.woken = False

    def until_ready(self, descriptor: int, timeout: float | None) -> bool:
        """Whether something came (or the other side ended); False when time is up, or after `wake`."""
        if os.name != "posix":
            return not self.woken
        found = select.select([descriptor, self._ears], [], [], timeout)[0]
        return descriptor in found and not self.woken

    def wake(self) -> None:
        """End the wait, and all that follow, now; for any thread."""
        with self._lock:
            self.woken = True
            if self._mouth >= 0:
                os.write(self._mouth, b"!")

    def close(self) -> None:
        """Give the descriptors back; harmless when repeated."""
        with self._lock:
            if self._mouth >= 0:
                os.close(self._mouth)
                os.close(self._ears)
                self._ears = self._mouth = -1


class DeadlinePipe:
    """A pipe as libav reads it, with a deadline for silence.

    libav's own ``pipe:`` protocol blocks without end when the writer stalls.
    """

    def __init__(self, descriptor: int, timeout: float, name: str) -> None:
        """Read from a duplicate of ``descriptor``; more than ``timeout`` seconds of silence is an error."""
        self._descriptor = os.dup(descriptor)
        self._timeout = timeout
        self._waiting = Waiting()
        self._interrupted = False
        self.name = name

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end, and after `wake`.

        Raises:
            SourceError: nothing came in time.
        """
        try:
            if self._waiting.until_ready(self._descriptor, self._timeout):
                return os.read(self._descriptor, size)
        except KeyboardInterrupt:  # libav would throw it away
            self._interrupted = True
            self.wake()
        if self._waiting.woken:
            return b""
        raise SourceError(f"{self.name}: nothing came for {self._timeout:g} s; is the program stuck that writes it?")

    def pass_on_interrupt(self) -> None:
        """Raise the KeyboardInterrupt that came while libav was reading."""
        if self._interrupted:
            raise KeyboardInterrupt

    def wake(self) -> None:
        """As if the writer had ended; for any thread."""
        self._waiting.wake()

    def close(self) -> None:
        """Give the duplicate back; harmless when repeated."""
        self._waiting.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class Target:
    """One thing for libav to open.

    Attributes:
        url: what libav gets, or the pipe that it reads.
        shown: the same for people, credentials masked.
        format: libav's demuxer by name, None to probe.
        options: libav's options for protocol and demuxer.
        open_timeout, read_timeout: seconds, None for things that cannot stall.
        seekable: going back and forth is worth trying.
        live: does not wait for its reader; None to decide by what opening tells.
        network: comes from another machine: a failing read means lost.
        endless: has no end of its own: where it is live, an end means lost.
        max_pixels: larger pictures are refused.
    """

    url: str | DeadlinePipe
    shown: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    open_timeout: float | None = None
    read_timeout: float | None = None
    seekable: bool = True
    live: bool | None = False
    network: bool = False
    endless: bool = False
    max_pixels: int = MAX_PIXELS


def open_container(target: Target, *, on_gpu: bool = False) -> InputContainer:
    """Open and probe.

    Args:
        target: what to open.
        on_gpu: have NVDEC decode what it takes; where no context can be had on the GPU (its memory may be full),
            libav decodes in software.

    Raises:
        SourceLostError: it cannot be reached, or does not answer in time.
        SourceDeniedError: it wants other credentials.
        SourceAbsentError: a camera that is away or in use.
        SourceError: it cannot be opened; one line that names the input and the way out.
    """
    file: str | BinaryIO = target.url  # type: ignore[assignment]  # PyAV takes anything that has read()
    with ExitStack() as undo:
        if isinstance(target.url, DeadlinePipe):
            undo.callback(target.url.close)
        container = _open(file, target, on_gpu=on_gpu)
        undo.pop_all()
        return container


_NO_CONTEXT = (av.UnknownError, av.ExternalError, av.PermissionError, av.MemoryError)
"""What libav says where a GPU cannot be opened."""


def _open(file: str | BinaryIO, target: Target, *, on_gpu: bool) -> InputContainer:
    try:
        return av.open(
            file,
            "r",
            format=target.format,
            options=dict(target.options),
            timeout=(target.open_timeout, target.read_timeout),
            metadata_errors="replace",
            hwaccel=HWAccel(CUDA, allow_software_fallback=True) if on_gpu else None,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        if on_gpu and isinstance(error, _NO_CONTEXT) and isinstance(file, str):
            container = _open(file, target, on_gpu=False)
            _log.warning("%s: decoded in software, the GPU cannot be opened (%s)", target.shown, one_line(error))
            return container
        raise _refusal(target, error) from error


_DENIED = "the server wants another user name or password ({reason}); they go in front of the host: USER:${{NAME}}@HOST"
_NOTHING = "{reason}; check the path behind the host, and whether its publisher runs"
_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (
        (av.ExitError, av.TimeoutError),
        "no answer within {timeout:g} s; check the address, the network and the password",
    ),
    (FileNotFoundError, "no such file or device"),
    (IsADirectoryError, "is a directory"),
    (av.HTTPUnauthorizedError, _DENIED),
    (av.HTTPForbiddenError, "refused by the server ({reason}); check user name and password"),
    (av.HTTPNotFoundError, _NOTHING),
    ((av.HTTPClientError, av.HTTPError), "{reason}"),
    (PermissionError, "no permission to read it"),
    (ConnectionRefusedError, "connection refused; is the server running on that port?"),
    (av.ProtocolNotFoundError, "libav cannot open that kind of address here"),
)
"""The first type that fits tells the message."""

NOT_ALLOWED = (
    "no permission to use it; on Linux cameras are for the group video: sudo usermod -aG video $USER, and log in again"
)

_CAMERA_REASONS = {
    errno.EACCES: NOT_ALLOWED,
    errno.EBUSY: "another program uses it",
    errno.EINVAL: "cannot give what is asked of it; --list-inputs shows its sizes and formats",
}

_PASSING = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EBUSY, errno.EIO)
"""What a camera fails at that is pulled out, or held by another program for a while."""

_RECORDED = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".jpg", ".jpeg", ".png"))
"""How names of files end: what is not there now will not come by itself, as a stream or a playlist does."""

_FINAL = (FileNotFoundError, av.HTTPClientError, av.ProtocolNotFoundError, PermissionError, ValueError)
"""What a network stream fails at for good: asking again will not help."""


def _refusal(target: Target, error: Exception) -> SourceError:
    message = f"{target.shown}: {_why_not(target, error)}"
    if isinstance(error, av.HTTPUnauthorizedError | av.HTTPForbiddenError):
        return SourceDeniedError(message)
    if target.network and isinstance(error, av.HTTPClientError) and not _is_recorded(target):
        return SourceLostError(message, cause="absent")
    if target.format in CAMERAS and isinstance(error, OSError) and error.errno in _PASSING:
        return SourceAbsentError(message)
    page = isinstance(error, av.InvalidDataError) and target.seekable  # a web server's answer that is no video
    if target.network and not page and (isinstance(error, av.InvalidDataError) or not isinstance(error, _FINAL)):
        return SourceLostError(message, cause="unreachable")
    return SourceError(message)


def _is_recorded(target: Target) -> bool:
    return not target.live and Path(str(target.url).partition("?")[0]).suffix.lower() in _RECORDED


_LISTENING = ("udp:", "rtp:")


def _why_not(target: Target, error: Exception) -> str:
    if isinstance(error, av.ExitError | av.TimeoutError) and str(target.url).startswith(_LISTENING):
        return f"nothing came within {target.open_timeout or 0:g} s; is it sent to this address and port?"
    if target.format in CAMERAS and isinstance(error, OSError) and error.errno in _CAMERA_REASONS:
        return _CAMERA_REASONS[error.errno]
    for types, message in _REASONS:
        if isinstance(error, types):
            return message.format(timeout=target.open_timeout or 0, reason=one_line(error))
    if isinstance(error, av.InvalidDataError | EOFError):
        return _not_a_video(target)
    if target.network and isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return _unreachable(target, error)
    return f"cannot be opened ({one_line(error)})"


_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EIO)


def _unreachable(target: Target, error: OSError) -> str:
    """An input/output error says nothing, and libav tells it of much."""
    if error.errno == errno.EIO:
        if why := _mistrusted(target):
            return (
                f"the server's certificate is not believed ({why}); name the authority that signed it by "
                "SSL_CERT_FILE, or set source: {tls_verify: false} in a preset if the network is yours"
            )
        if host := _unknown_host(target):
            return f"no such host {host!r}, its name cannot be resolved; check the address and the name server"
    return f"cannot be reached ({one_line(error)}); check the address"


def _mistrusted(target: Target) -> str | None:
    if target.options.get("tls_verify") != "1":
        return None
    try:
        return mistrusted(urlsplit(str(target.url)))
    except ValueError:
        return None


def _unknown_host(target: Target) -> str | None:
    """The host's name, where it is one that cannot be resolved: libav tells an input/output error of that."""
    try:
        host = urlsplit(str(target.url)).hostname
    except ValueError:  # brackets that hold no address
        return None
    if not host:
        return None
    unknown: list[str] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None)
        except (socket.gaierror, UnicodeError):
            unknown.append(host)
        done.set()

    # A thread that nobody waits for: a name server that is silent holds one for half a minute.
    threading.Thread(target=look_up, name="name look-up", daemon=True).start()
    done.wait(_LOOK_UP_S)
    return host if unknown else None


def _not_a_video(target: Target) -> str:
    if target.network:
        return "the server sends no video that libav knows"
    if _size(target) == 0:
        return "the file is empty"
    return "not a video, or one that was cut off before its index was written"


def _size(target: Target) -> int | None:
    try:
        return Path(str(target.url).removeprefix("file:")).stat().st_size if isinstance(target.url, str) else None
    except OSError:
        return None
