"""Which frames pass the network, where not all do."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Literal

from pipeline.stages.motion import Motion, same_scene

DOUBT = 0.45
"""Share of the picture that still follows from the last key frame below which ``auto`` takes a new one."""

LONGEST = 8
"""Frames after which ``auto`` takes one however well all follows: what is small and new shows in no mean."""

SHARE = 0.7
"""Of the time, for the network; the rest is for what every frame needs."""


class KeyFrames:
    """Chooses the key frames of one stream, in its order.

    Args:
        every: N: every Nth frame; ``"auto"``: where trust in the motion since the last is lost, at a cut, and
            at least every `LONGEST` frames; or as often as ``fewest`` allows.
        fewest: how many frames there must be from one key frame to the next for the network to keep up; None where
            it is waited for.  A frame that follows nothing is a key frame all the same.
    """

    def __init__(self, every: int | Literal["auto"], fewest: Callable[[], int] | None = None) -> None:
        self._every = every
        self._fewest = fewest
        self._since = 0
        self._confidence = 0.0

    def choose(self, motion: Motion | None) -> bool:
        """Whether the next frame passes the network.

        Args:
            motion: from it to the frame before; None where there is none.
        """
        self._since += 1
        self._confidence *= motion.confidence if motion is not None else 0.0
        if same_scene(motion) and not self._due():
            return False
        self._since, self._confidence = 0, 1.0
        return True

    def _due(self) -> bool:
        fewest = self._fewest() if self._fewest is not None else 1
        if self._since < fewest:
            return False
        if self._every != "auto":
            return self._since >= self._every
        return self._fewest is not None or self._confidence < DOUBT or self._since >= LONGEST


def affordable(network_s: float, frame_s: float) -> int:
    """Frames from one key frame to the next, so that the network takes no more than its `SHARE` of the time.

    Args:
        network_s: what the network takes for one, in seconds.
        frame_s: from one frame to the next.
    """
    return max(1, ceil(network_s / (SHARE * frame_s))) if frame_s > 0 else 1
