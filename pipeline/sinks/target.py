"""What takes an output's bytes, and what its failures are called."""

from __future__ import annotations

import errno
from typing import Protocol

from pipeline.errors import SinkError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows here",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "its directory does not exist, or no file can be made in it",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EISDIR: "there is a directory of that name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EPIPE: "whoever read it has stopped reading",
}


def cannot_write(name: str, error: BaseException) -> SinkError:
    """The one-line error for ``error`` met while writing the output ``name``."""
    number = error.errno if isinstance(error, OSError) else None
    reason = _REASONS.get(number or 0)
    if reason is None:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(text.split()) or type(error).__name__
    return SinkError(f"{name} cannot be written: {reason}")


class Target(Protocol):
    """Something that takes bytes and in the end keeps or forgets them."""

    @property
    def name(self) -> str:
        """The output as people know it, for messages."""

    @property
    def written(self) -> int:
        """Bytes taken so far."""

    def write(self, data: bytes) -> int:
        """Take bytes; never raises, see `check`."""

    def check(self) -> None:
        """Raise the first error met, if any.

        Raises:
            SinkError: what went wrong.
        """

    def finish(self) -> None:
        """All bytes are there: close.

        Raises:
            SinkError: now or before, bytes could not be written.
        """

    def publish(self) -> None:
        """Give the finished bytes their final name.

        Raises:
            SinkError: could not be renamed.
        """

    def discard(self) -> None:
        """Forget everything; harmless at any time, never raises."""


def commit(*targets: Target) -> None:
    """Finish all targets, then publish all; when one of them fails, none stays.

    Raises:
        SinkError: of the first that failed.
    """
    try:
        for target in targets:
            target.finish()
        for target in targets:
            target.publish()
    except SinkError:
        for target in reversed(targets):  # the first made the directories
            target.discard()
        raise
