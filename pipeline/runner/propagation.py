"""What one input's frames take over from those before them, on their way through the stream.

Two threads use it.  The one that prepares frames looks at the motion and says which frames pass the network
(`Propagation.look`); a later one, in the same order, says what every frame follows (`Propagation.follow`).  A key
frame has memory of its own for the network, so that a slot is free again once its frame is labelled, whenever the
network is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from pipeline.flow import Buffer
from pipeline.frame import Float32, Frame, Geometry, UInt8
from pipeline.options import PropagateOptions
from pipeline.stages.keyframes import KeyFrames, affordable
from pipeline.stages.motion import Guide, Motion, measure, measure_both, same_scene
from pipeline.stages.propagate import State, follow, observe
from pipeline.telemetry import PropagationMeter

GAP_S = 1.0
"""Frames that lie further apart have nothing to do with one another."""

_NEVER = 1 << 30


class Key:
    """Where the network works on a key frame.

    Attributes:
        image: its input.
        scores: its answer.
        arrived: holds one item when the answer is there.
    """

    def __init__(self, image_shape: tuple[int, int, int], score_shape: tuple[int, int, int]) -> None:
        self.image: UInt8 = np.empty(image_shape, np.uint8)
        self.scores: Float32 = np.empty(score_shape, np.float32)
        self.arrived: Buffer[None] = Buffer(1)


@dataclass(slots=True)
class _Awaited:
    """A key frame that is with the network.

    Attributes:
        key: where.
        base: the state seen from it, without its own scores.
        motion: from the last frame to it; None while it is the last itself.
    """

    key: Key
    base: State | None
    motion: Motion | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast frames must go; None where the network is waited for.

    Attributes:
        interval: seconds from one frame to the next, None while it is not known.
        network: seconds that the network takes for one frame.
        live: never wait for it longer than the latency allows.
        max_latency_ns: a frame's age beyond which it is not waited for; None: two of the intervals.
    """

    interval: Callable[[], float | None]
    network: Callable[[], float]
    live: bool
    max_latency_ns: int | None = None


class Propagation:
    """The memory of one input and epoch.

    Args:
        options: what is asked for.
        geometry: where the scores lie in the frames.
        score_shape: C×h×w.
        keys: frames that may be with the network at once.
        pace: see `Pace`.
        meter: counts what happens.
    """

    def __init__(
        self,
        options: PropagateOptions,
        *,
        geometry: Geometry,
        score_shape: tuple[int, int, int],
        keys: int,
        pace: Pace,
        meter: PropagationMeter,
    ) -> None:
        self._options = options
        self._geometry = geometry
        self._cells = score_shape[1:]
        self._pace = pace
        self._meter = meter
        self._guide: Guide | None = None
        self._last: Frame | None = None
        self._choice = KeyFrames(options.infer_every, self._fewest if self._paced else None)
        self._issued = self._arrived = 0
        self._state: State | None = None
        self._awaited: _Awaited | None = None
        image = (geometry.input_height, geometry.input_width, 3)
        self._keys = [Key(image, score_shape) for _ in range(keys)]
        self._free: Buffer[Key] = Buffer(keys)
        for key in self._keys:
            self._free.put(key)

    @property
    def buffers(self) -> tuple[Buffer[Key] | Buffer[None], ...]:
        """All that its threads wait on."""
        return (self._free, *(key.arrived for key in self._keys))

    # ---- in the thread that prepares

    def look(self, frame: Frame) -> tuple[Motion | None, Motion | None, Key | None]:
        """The motion from a frame to the one before and, where frames wait, back; where the network shall work on it.

        Each is None where there is none.
        """
        began = time.thread_time()
        guide, before, last = Guide.of(frame), self._guide, self._last
        self._guide, self._last = guide, frame
        motion = back = None
        if before is not None and last is not None and 0 < frame.pts - last.pts <= GAP_S:
            if self.withholds:
                motion, back = measure_both(guide, before, self._geometry, self._cells)
                if not same_scene(motion):  # trusts of the two ways differ, and a cut is one for both
                    back = None
            else:
                motion = measure(guide, before, self._geometry, self._cells)
        key = self._free.get() if self._choice.choose(motion) else None
        self._issued += key is not None
        confidence = motion.confidence if motion is not None else None
        cut = last is not None and not same_scene(motion)
        self._meter.looked(time.thread_time() - began, confidence, key=key is not None, cut=cut)
        return motion, back, key

    @property
    def withholds(self) -> bool:
        """Whether frames wait for the next key frame, to take over from both sides."""
        return self._options.active and not self._pace.live

    @property
    def foresees(self) -> bool:
        """Whether key frames, too, wait for the next frame, whose scores then count in theirs."""
        return self._options.temporal and self.withholds

    @property
    def _paced(self) -> bool:
        options = self._options
        return options.infer_every != 1 and (self._pace.live or options.target_fps is not None)

    def _fewest(self) -> int:
        if self._pace.live and self._issued > self._arrived:
            return _NEVER
        if self._options.infer_every != "auto":
            return 1
        target = self._options.target_fps
        interval = 1 / target if target is not None else self._pace.interval()
        return affordable(self._pace.network(), interval) if interval is not None else 1

    # ---- in the thread that collects from the engine

    def arrive(self, key: Key) -> None:
        """The network is done with a key frame."""
        self._arrived += 1
        key.arrived.put(None)

    # ---- in the thread that labels next

    def follow(self, frame: Frame, motion: Motion | None, key: Key | None) -> State:
        """The state after the next frame.

        Args:
            frame, motion, key: in the order of `look`, and as it gave them.
        """
        state, awaited = follow(self._state, motion), self._awaited
        if awaited is not None:
            awaited.motion = self._on(awaited, motion)
        if key is not None:
            if awaited is not None:  # two are with the network at a cut alone
                self._take(awaited, inf)
            awaited = _Awaited(key, state)
        if awaited is not None:
            taken = self._take(awaited, inf if state is None else self._deadline(frame))
            if taken is not None:
                state, awaited = taken, None
            elif awaited.key is key:
                self._meter.late += 1
        assert state is not None
        self._state, self._awaited = state, awaited
        return state

    def _on(self, awaited: _Awaited, motion: Motion | None) -> Motion | None:
        if motion is None:
            return None
        return motion if awaited.motion is None else motion.after(awaited.motion)

    def _take(self, awaited: _Awaited, deadline: float) -> State | None:
        """The state by a key frame's own scores, seen from the last frame; None if they are not there in time."""
        try:
            with self._meter.waiting:
                awaited.key.arrived.get(None if deadline == inf else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return None
        smooth = self._options.temporal
        fresh = awaited.key.scores
        mixed = smooth and awaited.base is not None
        own = fresh.copy() if not mixed or self.foresees else fresh
        observed = observe(awaited.base, own, smooth=smooth)
        self._free.put(awaited.key)
        return State(observed.memory, awaited.motion, own if self.foresees else None)

    def _deadline(self, frame: Frame) -> float:
        if not (self._pace.live and self._paced):
            return inf
        latency = self._pace.max_latency_ns
        if latency is not None:
            return (frame.captured_ns + latency) / 1e9
        interval = self._pace.interval()
        return frame.captured_ns / 1e9 + 2 * interval if interval is not None else inf
