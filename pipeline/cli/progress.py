"""The progress bar of a run."""

from __future__ import annotations

import contextlib
import sys

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.runner import Runner


class _Bar(tqdm):  # type: ignore[type-arg]
    """Without tqdm's thread that looks after bars which are updated too rarely."""

    monitor_interval = 0


class Progress:
    """Frames, FPS and time left on standard error, with log lines above it; silent where nobody looks.

    Args:
        runner: whose frames are counted.
        shown: False hides it altogether.
    """

    def __init__(self, runner: Runner, *, shown: bool) -> None:
        self._runner = runner
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        totals = [lane.source.info.frames for lane in self._runner.lanes]
        known = [total for total in totals if total is not None]
        total = sum(known) if len(known) == len(totals) else None
        self._bar = self._stack.enter_context(
            _Bar(total=total, unit=" frames", disable=not self._shown, dynamic_ncols=True, smoothing=0.1)
        )
        if self._shown:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def update(self) -> None:
        """Show what has been done by now."""
        self._bar.update(self._runner.frames - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
