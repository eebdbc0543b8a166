"""A file that is there whole or not at all, for whoever writes it by a library."""

from __future__ import annotations

import os
import tempfile
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
    try:
        handle, name = tempfile.mkstemp(suffix=f"{path.suffix}.part", dir=path.resolve().parent)
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    unfinished = Path(name)
    try:
        unfinished.chmod(0o644)
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
