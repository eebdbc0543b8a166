"""Refinements that fail on purpose; imported by worker processes, so without pytest."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.slots import Slot
from pipeline.stages.upsample import upsample_argmax


@dataclass(frozen=True)
class Fault:
    """What goes wrong at frame ``at``: "raise", "die" (each who tries it), "die once"; or "setup", before any."""

    kind: str
    at: int = 5
    folder: str = ""

    target: ClassVar[str] = "tests.pipeline.refine_jobs:open_job"


def open_job(fault: Fault) -> Callable[[Slot, int, float | None], object]:
    if fault.kind == "setup":
        raise ValueError("no such parameters")

    def job(slot: Slot, index: int, deadline: float | None) -> object:
        if index == fault.at:
            if fault.kind == "raise":
                raise ValueError("on purpose")
            mark = Path(fault.folder) / "died"
            if fault.kind == "die" or not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        upsample_argmax(slot.scores, slot.geometry, slot.labels)
        return None

    return job
