"""How far a run is, and what learning rate belongs there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """How far a run is: by its steps, or by the clock if it has a time limit.

    The clock is the wall's: a run that was paused still ends on time.
    """

    total_steps: int
    """Steps of the whole run; only counts where there is no time limit."""

    seconds: float = 0.0
    """Time limit of the whole run; 0 for none."""

    step: int = 0
    spent: float = 0.0
    """Seconds spent before this process."""

    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds spent by this run in all its processes."""
        return self.spent + time.monotonic() - self.started

    def fraction(self) -> float:
        """Share of the run that is done, in 0–1."""
        done = self.elapsed() / self.seconds if self.seconds else self.step / self.total_steps
        return min(1.0, done)


def poly_rate(fraction: float, step: int, warmup: int, power: float) -> float:
    """Factor of the learning rate: a linear rise over `warmup` steps times (1 − fraction)**power."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return float(rise * (1 - fraction) ** power)
