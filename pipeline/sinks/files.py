"""Where bytes go: a file that gets its name when it is finished, or standard output.

libav writes through these objects instead of by name, because a Python object is told of every
failed byte: a write never raises (an exception inside libav's callback could be lost), it
keeps the first error, and `check` raises it.
"""

from __future__ import annotations

import errno
import itertools
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol

from pipeline.errors import SinkError
from pipeline.sinks.unfinished import hidden, lock

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


class _Descriptor:
    """Unbuffered bytes into a file descriptor; remembers its first error.

    Attributes:
        written: bytes so far.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._error: OSError | None = None
        self.written = 0

    @property
    def name(self) -> str:
        return self._name

    def write(self, data: bytes) -> int:
        if self._error is None and self._descriptor >= 0:
            rest = memoryview(data)
            try:
                while rest:  # a disk that fills up takes a part first
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                self._error = error
            self.written += len(data)
        return len(data)

    def check(self) -> None:
        if self._error is not None:
            raise cannot_write(self._name, self._error) from self._error

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)  # network disks tell of a full quota only here
            except OSError as error:
                self._error = self._error or error


class PartFile(_Descriptor):
    """A file written beside its final name, hidden, and renamed over it when finished.

    Its directory is made as `make_directory` does, and removed again by `discard`.  A symbolic link is followed: the
    file it points to is replaced, not the link.  Nothing is synchronised to the disk: after
    a power cut the result must be computed again anyway.

    Args:
        path: final name.
        name: how messages call the output.

    Raises:
        SinkError: cannot be created there.
    """

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name, -1)
        self._final = Path(os.path.realpath(path))
        self._made: list[Path] = []
        self._current: Path | None = None
        try:
            _refuse_special(self._final)
            self._made = make_directory(self._final.parent)
            self._current = hidden(self._final)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._current, flags, 0o666)
            lock(self._descriptor)  # as long as the process lives: what it leaves behind is free
        except OSError as error:
            self._current = None
            self.discard()
            raise cannot_write(name, error) from error

    def seekable(self) -> bool:
        """True: libav goes back to fill in sizes and indices."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self.seek(0, os.SEEK_CUR)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; returns the position in bytes.  Never raises, see `check`."""
        if self._error is not None or self._descriptor < 0:
            return 0
        try:
            return os.lseek(self._descriptor, offset, whence)
        except OSError as error:
            self._error = error
            return 0

    def finish(self) -> None:
        """Close the file under its hidden name."""
        self._close()
        self.check()

    def publish(self) -> None:
        """Rename over the final name."""
        assert self._current is not None, "published once, after it was opened"
        try:
            self._current.replace(self._final)
        except OSError as error:
            raise cannot_write(self._name, error) from error
        self._current = self._final

    def keep(self, good: Callable[[Path], bool]) -> bool:
        """After an error: the final name for what was written, where that is ``good``, else `discard`.

        Returns:
            Whether there is a file.
        """
        self._close()
        with suppress(OSError, SinkError):
            if self._current is not None and good(self._current):
                self.publish()
                return True
        self.discard()
        return False

    def discard(self) -> None:
        """Remove the file, whatever its name now, and the directories made for it."""
        self._close()
        if self._current is not None:
            with suppress(OSError):
                self._current.unlink()
            self._current = None
        remove_directories(self._made)
        self._made = []


class StandardOutput(_Descriptor):
    """The process's standard output, taken for the stream alone.

    As long as it is taken, descriptor 1 leads to standard error, so that whatever any library
    prints cannot end up inside the stream.

    Raises:
        SinkError: it is a terminal, closed, or taken by another output.
    """

    _taken: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__("standard output", -1)
        if StandardOutput._taken:
            raise SinkError("standard output is taken by another output: only one can be -")
        try:
            terminal = os.isatty(1)
            sys.stdout.flush()
            self._descriptor = os.dup(1)
        except (OSError, AttributeError, ValueError) as error:  # closed, or no sys.stdout at all
            raise cannot_write(self._name, error) from error
        if terminal:
            self._close()
            raise SinkError("standard output is a terminal: pipe it, as in … --output - | ffplay -")
        _lead_to_standard_error(1)
        StandardOutput._taken = True

    def seekable(self) -> bool:
        """False, also where it happens to be a file: it may be appended to."""
        return False

    def finish(self) -> None:
        """Give the descriptor back."""
        self._give_back()
        self.check()

    def publish(self) -> None:
        """Nothing to do: it has no name."""

    def discard(self) -> None:
        """Give the descriptor back; what was read is read."""
        self._give_back()

    def _give_back(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError, AttributeError, ValueError):
                sys.stdout.flush()  # what Python still holds was printed while it led elsewhere
            with suppress(OSError):
                os.dup2(self._descriptor, 1)
            self._close()
            StandardOutput._taken = False


def _lead_to_standard_error(descriptor: int) -> None:
    try:
        os.dup2(2, descriptor)
    except OSError:  # no standard error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def refuse_input(name: str, path: Path, uri: str) -> None:
    """See that an output does not write over what the input is read from.

    Args:
        name: how messages call the output.
        path: the file it would write, or the directory it would fill.
        uri: the input.

    Raises:
        SinkError: both are the same file, or pictures are read from that directory.
    """
    source = Path(uri)
    if any(sign in source.name for sign in "%*?["):  # a sequence of pictures
        source = source.parent
    try:
        same = path.samefile(source)
    except (OSError, ValueError):
        same = False
    if same:
        what = "the directory that the input is read from" if path.is_dir() else "the input itself"
        raise SinkError(f"{name} is {what}: choose another")


def check_place(path: Path, name: str, *, own: bool = False) -> None:
    """See that a `PartFile` could be made, without making anything.

    Args:
        path: final name.
        name: how messages call the output.
        own: its directory is the output's own, see `make_directory`.

    Raises:
        SinkError: it could not.
    """
    try:
        final = Path(os.path.realpath(path))
        _refuse_special(final)
        there = (*(each.parent for each in _missing(final.parent, own)), final.parent)[0]
        if not os.access(there, os.W_OK | os.X_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY
            raise PermissionError(errno.EROFS if read_only else errno.EACCES, "not writable")
    except OSError as error:
        raise cannot_write(name, error) from error


def make_directory(directory: Path, *, own: bool = False) -> list[Path]:
    """See that there is the directory that holds an output: it is made where it alone is missing.

    So ``out/overlay.mp4`` makes ``out``.  A longer path that is not there is a slip of the pen more often than a
    wish, and so is one right below the root, where only a privileged user could make it.

    Args:
        directory: what holds the output.
        own: it is the output itself, as ``out/masks/`` is: then ``out`` is what holds it.

    Returns:
        The directories that were made, outermost first, for `remove_directories`.

    Raises:
        OSError: cannot be made.
    """
    directory = Path(os.path.realpath(directory))
    made: list[Path] = []
    try:
        for path in _missing(directory, own):
            path.mkdir(exist_ok=True)  # another output of this run may be first
            made.append(path)
    except OSError:
        remove_directories(made)
        raise
    return made


def remove_directories(made: list[Path]) -> None:
    """Remove the directories that `make_directory` made, as far as they are empty."""
    for path in reversed(made):
        with suppress(OSError):
            path.rmdir()


def _missing(directory: Path, own: bool) -> list[Path]:
    """The directories that `make_directory` would make, outermost first.

    Raises:
        OSError: it would not, or there is a file in the way.
    """
    missing = list(itertools.takewhile(lambda path: not path.exists(), (directory, *directory.parents)))
    there = missing[-1].parent if missing else directory
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a directory")
    holders = missing[1:] if own else missing
    if len(holders) > 1 or (holders and there == there.parent):
        raise OSError(f"its directory does not exist: make it with mkdir -p {shlex.quote(str(holders[0]))}")
    return missing[::-1]


def _refuse_special(path: Path) -> None:
    """See that no directory, device or pipe would be replaced by a file.

    Raises:
        OSError: it would.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file, but a device, pipe or socket")
