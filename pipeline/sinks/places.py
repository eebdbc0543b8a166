"""Where files go: what would be in their way, and the directories that are made for them."""

from __future__ import annotations

import errno
import itertools
import os
import shlex
from contextlib import suppress
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.sinks.target import cannot_write


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
        refuse_special(final)
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


def refuse_special(path: Path) -> None:
    """See that no directory, device or pipe would be replaced by a file.

    Raises:
        OSError: it would.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file, but a device, pipe or socket")
