"""Frames that wait for the next key frame, where nothing presses: they take over from both sides.

A frame between two key frames is as near to the one as to the other on average, and what the motion uncovers is to be
seen in the later one.  So the frames of files, which did not pass the network, are withheld until the next key frame's
scores are there.

A key frame, too, may wait for the next frame if scores are mixed: where that passes the network as well, what it shows
tells an outline that moves from one that trembles.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.frame import Float32
from pipeline.stages.keyframes import LONGEST
from pipeline.stages.motion import Motion, same_scene
from pipeline.stages.propagate import Memory, State, between, carry, mix

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sides(Generic[T]):
    """A frame that may be labelled, and what it takes its scores from.

    Attributes:
        item: the frame, as it was given.
        earlier: the last key frame seen from it, which it may be itself.
        later: the next one, or None.
        share: of that, 0 to 1, in a frame between the two; a key frame counts the later one as one more frame.
        ahead: C×h×w float32, the next frame's scores where they lie in that, if a key frame has waited for them.
    """

    item: T
    earlier: State
    later: State | None = None
    share: float = 0.0
    ahead: Float32 | None = None

    def scores(self) -> Float32:
        """C×h×w float32, to be copied."""
        if self.later is None:
            return carry(self.earlier)
        if self.earlier.motion is None:
            return mix(self.later, self.earlier.memory).scores
        return between(self.earlier, self.later, self.share)


@dataclass(frozen=True, slots=True)
class _Frame(Generic[T]):
    item: T
    state: State
    back: Motion | None


class Waiting(Generic[T]):
    """The frames since the last key frame, `LONGEST` at most: before them, the oldest go by one side alone.

    Args:
        foresees: key frames wait for the next frame, too.
    """

    def __init__(self, *, foresees: bool = False) -> None:
        self._foresees = foresees
        self._frames: deque[_Frame[T]] = deque()
        self._key: _Frame[T] | None = None  # and then there is nothing else

    def add(self, item: T, state: State, back: Motion | None) -> list[Sides[T]]:
        """Take the next frame.

        Args:
            item: whatever the frame is known by.
            state: after it.
            back: the motion from the frame before to this one; None where they have nothing to do with one another.

        Returns:
            Frames that need wait no longer, in their order.
        """
        frame = _Frame(item, state, back)
        if state.motion is not None:
            done = self._let_key_go(None)
            if len(self._frames) == LONGEST:
                done.append(self._alone())
            self._frames.append(frame)
            return done
        done = [*self._let_key_go(frame), *self._meet(state, back)]
        if self._foresees:
            self._key = frame
        else:
            done.append(Sides(item, state))
        return done

    def end(self) -> list[Sides[T]]:
        """Those that still wait, when no key frame comes any more."""
        return [*self._let_key_go(None), *(self._alone() for _ in range(len(self._frames)))]

    def _let_key_go(self, following: _Frame[T] | None) -> list[Sides[T]]:
        key, self._key = self._key, None
        if key is None:
            return []
        if following is not None and following.state.fresh is not None and same_scene(following.back):
            later = State(Memory.fresh(following.state.fresh), following.back)
            return [Sides(key.item, key.state, later, ahead=following.state.memory.scores)]
        return [Sides(key.item, key.state)]

    def _alone(self) -> Sides[T]:
        frame = self._frames.popleft()
        return Sides(frame.item, frame.state)

    def _meet(self, key: State, back: Motion | None) -> list[Sides[T]]:
        if not same_scene(back):
            return [self._alone() for _ in range(len(self._frames))]
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
