"""Frames that wait for the next key frame, where nothing presses: they take over from both sides.

A frame between two key frames is as near to the one as to the other on average, and what the motion uncovers is to be
seen in the later one.  So the frames of files, which did not pass the network, are withheld until the next key frame's
scores are there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.frame import Float32
from pipeline.stages.keyframes import LONGEST
from pipeline.stages.motion import CUT, Motion
from pipeline.stages.propagate import State, between, carry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sides(Generic[T]):
    """A frame that may be labelled, and what it takes its scores from.

    Attributes:
        item: the frame, as it was given.
        earlier: the last key frame seen from it.
        later: the next one, or None.
        share: of that, 0 to 1.
    """

    item: T
    earlier: State
    later: State | None = None
    share: float = 0.0

    def scores(self) -> Float32:
        """C×h×w float32, to be copied."""
        return between(self.earlier, self.later, self.share) if self.later is not None else carry(self.earlier)


@dataclass(frozen=True, slots=True)
class _Frame(Generic[T]):
    item: T
    state: State
    back: Motion | None


class Waiting(Generic[T]):
    """The frames since the last key frame, `LONGEST` at most: before them, the oldest go by one side alone."""

    def __init__(self) -> None:
        self._frames: deque[_Frame[T]] = deque()

    def add(self, item: T, state: State, back: Motion | None) -> list[Sides[T]]:
        """Take the next frame.

        Args:
            item: whatever the frame is known by.
            state: after it.
            back: the motion from the frame before to this one; None where they have nothing to do with one another.

        Returns:
            Frames that need wait no longer, in their order.
        """
        if state.motion is None:
            return [*self._meet(state, back), Sides(item, state)]
        done = [self._alone()] if len(self._frames) == LONGEST else []
        self._frames.append(_Frame(item, state, back))
        return done

    def end(self) -> list[Sides[T]]:
        """Those that still wait, when no key frame comes any more."""
        return [self._alone() for _ in range(len(self._frames))]

    def _alone(self) -> Sides[T]:
        frame = self._frames.popleft()
        return Sides(frame.item, frame.state)

    def _meet(self, key: State, back: Motion | None) -> list[Sides[T]]:
        if back is None or back.confidence < CUT:
            return self.end()
        count, path = len(self._frames), back
        ahead: deque[Motion] = deque()
        for frame in reversed(self._frames):
            ahead.appendleft(path)
            path = frame.back.after(path) if frame.back is not None else path
        met = [
            Sides(frame.item, frame.state, State(key.memory, motion), number / (count + 1))
            for number, (frame, motion) in enumerate(zip(self._frames, ahead, strict=True), 1)
        ]
        self._frames.clear()
        return met
