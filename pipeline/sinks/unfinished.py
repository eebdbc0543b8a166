"""Files that are being written: their hidden names, and which of them a living process still holds."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

_HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")
_LONGEST = 255 - len("..01234567.part")
"""Bytes of a name that its hidden one has room for."""


def hidden(final: Path) -> Path:
    """A name of its own for a file that will have the name ``final`` when it is finished, in the same directory."""
    # Of longer names the beginning: sixty characters are no more than 240 bytes.
    name = final.name if len(os.fsencode(final.name)) <= _LONGEST else final.name[:60]
    return final.with_name(f".{name}.{secrets.token_hex(4)}.part")


def final_name(name: str) -> str | None:
    """The inverse of `hidden`, of names alone; None where it is no hidden one."""
    found = _HIDDEN.fullmatch(name)
    return found[1] if found else None


def lock(descriptor: int) -> bool:
    """Hold a file until it is closed, or this process is gone; whether that could be done.

    Not where another process holds it, and nowhere on systems and file systems without locks.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
