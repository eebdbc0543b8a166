"""Where bytes go: a file that gets its name when it is finished, or standard output.

libav writes through these objects instead of by name, because a Python object is told of every
failed byte: a write never raises (an exception inside libav's callback could be lost), it
keeps the first error, and `check` raises it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pipeline.errors import SinkError
from pipeline.sinks.places import make_directory, refuse_special, remove_directories
from pipeline.sinks.target import cannot_write
from pipeline.sinks.unfinished import hidden, lock


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
            refuse_special(self._final)
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
