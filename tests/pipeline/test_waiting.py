"""Frames of files that wait for a later one."""

from __future__ import annotations

import numpy as np

from pipeline.runner.waiting import Sides, Waiting
from pipeline.stages.keyframes import LONGEST
from pipeline.stages.motion import CUT
from pipeline.stages.propagate import Memory, State
from tests.pipeline.following import sure


def known(still: bool = True) -> State:
    """A state at a key frame or, ``still``, at a frame after it in which nothing has moved."""
    return State(Memory.fresh(np.ones((1, 2, 3), np.float32)), sure(1.0) if still else None)


def told_apart(done: list[Sides[int]]) -> list[tuple[int, float | None]]:
    """Frames and their share of the later key frame, None where they go by one side."""
    return [(each.item, each.share if each.later is not None else None) for each in done]


def test_frames_wait_for_the_next_key_frame() -> None:
    waiting: Waiting[int] = Waiting()
    assert told_apart(waiting.add(0, known(still=False), None)) == [(0, None)]
    assert [waiting.add(index, known(), sure(1.0)) for index in (1, 2, 3)] == [[], [], []]
    met = waiting.add(4, known(still=False), sure(1.0))
    assert told_apart(met) == [(1, 0.25), (2, 0.5), (3, 0.75), (4, None)]
    assert waiting.add(5, known(), sure(1.0)) == []
    assert told_apart(waiting.end()) == [(5, None)]
    assert waiting.end() == []


def test_a_key_frame_waits_for_the_next_frame_where_scores_are_mixed() -> None:
    fresh = np.full((1, 2, 3), 7, np.float32)
    key = State(Memory.fresh(np.ones((1, 2, 3), np.float32)), None, fresh)
    waiting: Waiting[int] = Waiting(foresees=True)
    assert waiting.add(0, key, None) == []
    (one,) = waiting.add(1, key, sure(1.0))
    assert one.item == 0
    assert np.allclose(one.scores(), (1 + 7) / 2)
    assert told_apart(waiting.add(2, known(), sure(1.0))) == [(1, None)], "the next one shows nothing of its own"
    assert told_apart(waiting.add(3, key, sure(1.0))) == [(2, 0.5)]
    assert told_apart(waiting.add(4, key, sure(CUT / 2))) == [(3, None)], "the next one is another scene"
    assert told_apart(waiting.end()) == [(4, None)]


def test_a_cut_is_not_waited_across() -> None:
    for back in (None, sure(CUT / 2)):
        waiting: Waiting[int] = Waiting()
        waiting.add(1, known(), sure(1.0))
        assert told_apart(waiting.add(2, known(still=False), back)) == [(1, None), (2, None)]


def test_no_more_frames_wait_than_there_is_room_for() -> None:
    waiting: Waiting[int] = Waiting()
    done = [told_apart(waiting.add(index, known(), sure(1.0))) for index in range(LONGEST + 2)]
    assert done == [*LONGEST * [[]], [(0, None)], [(1, None)]]
    assert len(waiting.add(99, known(still=False), sure(1.0))) == LONGEST + 1
