"""How many mean-field iterations a picture of a live stream gets: as many as its deadline allows."""

from __future__ import annotations

LEAST = 2
"""Fewer would leave the network's labels much as they are: the stream then rather drops frames."""


class IterationBudget:
    """Chooses the number of iterations from what the last picture took.

    A picture takes some time whatever the number (its lattice, the last pass), and as much again for each
    iteration.  Scaling the last picture's time as if it were all iterations therefore never promises
    too much where it raises the number, and where it lowers it comes down to what fits within a few pictures.
    It needs no guess of either part, and follows what the picture shows and who else uses the machine.

    Args:
        most: iterations where there is time enough.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(LEAST, most)
        self._each: float | None = None

    def choose(self, seconds: float) -> int:
        """Iterations for a picture that may take so many seconds; all of them before anything is known."""
        if self._each is None or seconds >= self._each * self._most:
            return self._most
        return max(self._least, int(max(0.0, seconds) / self._each))

    def took(self, iterations: int, seconds: float) -> None:
        """Learn what a picture took."""
        self._each = seconds / max(1, iterations)
