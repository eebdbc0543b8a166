"""A module that starts a thread when it is imported, as some libraries do."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.slots import Slot

_thread = threading.Thread(target=threading.Event().wait, daemon=True)
_thread.start()


def open_job(spec: object) -> Callable[[Slot, int, float | None], object]:
    return lambda *_: "alive" if _thread.is_alive() else "dead"
