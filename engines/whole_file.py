"""A file that is there whole or not at all, however it is written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.base import EngineError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into; it takes that name where nothing fails, and is gone where something does.

    Raises:
        EngineError: nothing can be written there.
    """
    target = path.resolve()  # a link stays one
    # Nobody else may write it, whatever the umask: a plan that a group can write is not read.
    unfinished = target.with_name(f".{target.stem[:64]}-{secrets.token_hex(8)}{target.suffix}.part")
    try:
        unfinished.touch(0o644, exist_ok=False)
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
