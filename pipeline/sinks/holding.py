"""Files that a living process holds, told from those that one left behind."""

from __future__ import annotations


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
