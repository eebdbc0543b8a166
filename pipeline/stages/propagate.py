"""Scores that follow the motion of the picture from frame to frame.

Two uses of one memory.  **Smoothing**: a frame's fresh scores are mixed with those of the frames before it, each
cell's by how many frames it has been seen in and by how far its motion is trusted.  **Propagation**: a frame that
did not pass the network takes the scores of the last one that did, along the motion between them (as X. Zhu et al.,
"Deep Feature Flow for Video Recognition", CVPR 2017, do with features), and, where it can wait for it, of the next one,
too.

`step` is a pure function of the state before a frame, the frame and its scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline import _native
from pipeline.frame import Float32
from pipeline.stages.motion import Motion, same_scene


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The scores of one frame.

    Attributes:
        scores: C×h×w float32.
        seen: h×w float32, how many frames' scores are in each cell's: 1 where the frame's own are alone.
    """

    scores: Float32
    seen: Float32

    @classmethod
    def fresh(cls, scores: Float32) -> Memory:
        """Of a frame whose scores are the network's own."""
        return cls(scores, np.ones(scores.shape[1:], np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is known after a frame.

    Attributes:
        memory: of the last frame that passed the network.
        motion: from the last frame to that one; None where they are the same.
        fresh: C×h×w float32, the network's own scores of that frame, where the frame before is to see them.
    """

    memory: Memory
    motion: Motion | None = None
    fresh: Float32 | None = None


def step(state: State | None, motion: Motion | None, fresh: Float32 | None, *, smooth: bool) -> tuple[State, Float32]:
    """One frame.

    Args:
        state: after the frame before, None at the beginning.
        motion: from this frame to the one before; None where they have nothing to do with one another.
        fresh: C×h×w float32, the network's scores of this frame; None if it did not pass the network.
        smooth: mix fresh scores with the memory.

    Returns:
        The state after this frame, and the frame's scores; ``fresh`` itself where nothing is mixed in.

    Raises:
        ValueError: there are neither fresh scores nor any to follow.
    """
    followed = follow(state, motion)
    if fresh is not None:
        observed = observe(followed, fresh, smooth=smooth)
        return observed, observed.memory.scores
    if followed is None:
        raise ValueError("a frame without scores of its own follows nothing")
    return followed, carry(followed)


def follow(state: State | None, motion: Motion | None) -> State | None:
    """The state seen from the next frame; None where it shows another scene."""
    if state is not None and same_scene(motion):
        return State(state.memory, motion if state.motion is None else motion.after(state.motion))
    return None


def observe(followed: State | None, fresh: Float32, *, smooth: bool) -> State:
    """The state after a frame that passed the network.

    Args:
        followed: the state seen from this frame.
        fresh, smooth: as `step`'s.
    """
    own = Memory.fresh(fresh)
    return State(own if followed is None or not smooth else mix(followed, own))


def carry(state: State) -> Float32:
    """The remembered scores where the motion has taken them: C×h×w float32."""
    if state.motion is None:
        return state.memory.scores
    out = np.empty_like(state.memory.scores)
    _native.carry_scores(state.memory.scores, state.motion.path, out)
    return out


def between(earlier: State, later: State, share: float) -> Float32:
    """The scores of a frame between two that passed the network: C×h×w float32, what both say along the motion.

    Each counts by the trust in the motion to it, so what is covered in the one comes from the other.

    Args:
        earlier, later: both seen from this frame.
        share: of the later one, 0 to 1, where both are trusted alike.

    Raises:
        ValueError: one of them is this frame.
    """
    one, other = earlier.motion, later.motion
    if one is None or other is None:
        raise ValueError("nothing lies between a frame and itself")
    out = np.empty_like(earlier.memory.scores)
    _native.between_scores(
        earlier.memory.scores, one.path, one.trust, later.memory.scores, other.path, other.trust, share, out
    )
    return out


def mix(state: State, now: Memory) -> Memory:
    """The mean of a frame's scores and those of another one, all frames seen in them counting alike.

    Where the picture moves or is not trusted, what the other one has seen counts less, so that the mean forgets; where
    it stands still it is the mean of all frames.

    Args:
        state: the other one, earlier or later, seen from this frame.
        now: this frame's.

    Raises:
        ValueError: they are the same frame.
    """
    memory, motion = state.memory, state.motion
    if motion is None:
        raise ValueError("this frame's scores are in the memory already")
    out, seen = np.empty_like(memory.scores), np.empty_like(memory.seen)
    _native.mix_scores(memory.scores, memory.seen, motion.path, motion.trust, now.scores, now.seen, out, seen)
    return Memory(out, seen)
