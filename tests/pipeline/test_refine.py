"""Refining in worker processes: the same labels as the same arithmetic done here."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cpu import divide
from pipeline.crf import CRFParameters, DenseCRF
from pipeline.errors import ConfigError, StageError
from pipeline.flow import WorkerPool
from pipeline.frame import FORMATS, Colour, Geometry
from pipeline.slots import Ring, Slot, SlotLayout
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.iterations import IterationBudget
from pipeline.stages.prepare import to_rgb
from pipeline.stages.refine import CRFWork, RefineSpec, frame_of, open_refiner, refine_slot, worker_pool
from tests.conftest import absent

pytestmark = pytest.mark.timeout(30)

FEW = CRFParameters(3, 3, 4, 30, 10, iterations=2)


@dataclass(frozen=True)
class Choice:
    kind: str = "crf"
    backend: str = "native"
    mode: str = "auto"
    crf: CRFParameters = field(default_factory=lambda: FEW)


@pytest.fixture
def _pydensecrf() -> None:
    if importlib.util.find_spec("pydensecrf") is None:
        absent("pydensecrf (extra crf-reference)")


def ring_of(name: str = "yuv420p", count: int = 4) -> Ring:
    geometry = Geometry.fit(45, 79, size=36, multiple=8)  # with an edge to the right and below
    scores = (5, geometry.input_height // 8, geometry.input_width // 8)
    return Ring(SlotLayout(FORMATS[name], Colour(6), 45, 79, geometry, scores), count)


def fill(slot: Slot, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top = 1 << slot.layout.format.depth
    for plane in slot.planes:
        plane[:] = rng.integers(top // 4, top // 2, plane.shape)
        plane[:, plane.shape[1] // 2 :] += top // 4
    slot.scores[:] = rng.normal(0, 2, slot.scores.shape)
    slot.labels[:] = 200


def expected(kind: str, slot: Slot, mode: str = "pruned", iterations: int = 2) -> np.ndarray:
    rgb = to_rgb(frame_of(slot, 0))
    if kind == "guided":
        return GuidedRefiner(45, 79).labels(rgb, slot.scores.copy(), slot.geometry)
    crf = DenseCRF(slot.layout.height, slot.layout.width, slot.layout.score_shape[0], FEW, mode=mode)
    return crf.labels(rgb, slot.scores.copy(), geometry=slot.geometry, iterations=iterations)


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le"])
@pytest.mark.parametrize("kind", ["crf", "guided"])
def test_workers_write_the_labels_into_the_slots(kind: str, name: str) -> None:
    with ring_of(name) as ring, ring_of("yuv444p", 1) as other, WorkerPool(2, RefineSpec(kind, FEW)) as pool:
        lane, second = pool.lane(ring), pool.lane(other)
        for slot in ring:
            fill(slot, slot.index)
            lane.submit(slot.index, slot.index)
        fill(other[0], 99)
        second.submit(0, 0)  # another layout for the same workers
        for slot in ring:
            outcome = lane.next(20)
            assert (outcome.slot, outcome.refined) == (slot.index, True)
            assert outcome.value == (CRFWork(2, 5) if kind == "crf" else None)
            np.testing.assert_array_equal(slot.labels, expected(kind, slot))
        assert second.next(20).refined
        np.testing.assert_array_equal(other[0].labels, expected(kind, other[0]))
        if sys.platform == "linux":
            for pid in pool.pids:
                assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


@pytest.mark.parametrize("kind", ["crf", "guided"])
def test_a_slot_may_be_refined_right_here(kind: str) -> None:
    with ring_of() as ring:
        fill(ring[0], 5)
        refine_slot(Choice("none"), ring[0])
        assert (ring[0].labels == 200).all()
        refine_slot(Choice(kind), ring[0])
        np.testing.assert_array_equal(ring[0].labels, expected(kind, ring[0]))


def test_frames_with_a_deadline_get_the_iterations_that_fit() -> None:
    most = 12
    spec = RefineSpec("crf", replace(FEW, iterations=most))
    with ring_of() as ring, WorkerPool(1, spec) as pool:
        lane, slot = pool.lane(ring), ring[1]

        def iterations(deadline: float | None) -> int:
            fill(slot, 7)
            lane.submit(1, 0, deadline)
            work = lane.next(20).value
            assert isinstance(work, CRFWork)
            mode = "pruned" if deadline is None else "live"
            np.testing.assert_array_equal(slot.labels, expected("crf", slot, mode, work.iterations))
            return work.iterations

        assert [iterations(math.inf) for _ in range(3)] == [most] * 3
        assert iterations(time.monotonic() - 1) == 2, "late already: the least that is worth it"
        assert iterations(time.monotonic() + 60) == most
        assert iterations(None) == most, "what is not live waits"


@pytest.mark.parametrize(("fixed", "each"), [(20.0, 4.0), (0.0, 10.0), (60.0, 1.0)])
@pytest.mark.parametrize("allowed", [25.0, 45.0, 70.0, 1000.0])
def test_the_number_of_iterations_settles_at_what_fits(fixed: float, each: float, allowed: float) -> None:
    budget = IterationBudget(10)
    taken = []
    for picture in range(12):
        if picture == 6:
            budget.took(2, fixed + 2 * each)  # and comes up from below, too
        iterations = budget.choose(allowed)
        taken.append((iterations, fixed + each * iterations))
        budget.took(*taken[-1])
    assert all(2 <= iterations <= 10 for iterations, _ in taken)
    if fixed + 2 * each <= allowed:
        assert taken[5][1] <= allowed
        assert all(time <= allowed for _, time in taken[6:])
        assert taken[-1][0] == 10 or fixed + each * taken[-1][0] + taken[-1][1] / taken[-1][0] > allowed
    else:
        assert [taken[5][0], taken[-1][0]] == [2, 2]


def test_fewer_than_two_are_taken_only_if_asked_for() -> None:
    for most in (0, 1):
        budget = IterationBudget(most)
        budget.took(most, 1.0)
        assert budget.choose(-1.0) == budget.choose(0.5) == most


@pytest.mark.usefixtures("_pydensecrf")
def test_pydensecrf_can_still_be_had() -> None:
    with ring_of() as ring:
        fill(ring[0], 3)
        choice = Choice(backend="pydensecrf")
        assert refine_slot(choice, ring[0]) == CRFWork(2, 5)
        crf = DenseCRF(45, 79, 5, FEW, backend="pydensecrf")
        rgb = to_rgb(frame_of(ring[0], 0))
        np.testing.assert_array_equal(ring[0].labels, crf.labels(rgb, ring[0].scores, geometry=ring[0].geometry))


def test_scores_that_are_not_finite_are_an_error_with_the_frame() -> None:
    with ring_of() as ring, WorkerPool(1, RefineSpec("crf", FEW)) as pool:
        fill(ring[2], 2)
        ring[2].scores[0, 0, 0] = np.nan
        lane = pool.lane(ring)
        lane.submit(2, 17)
        with pytest.raises(StageError, match="refine failed on frame 17: ValueError: logits contain NaN"):
            lane.next(20)


def test_the_choice_decides() -> None:
    plan = divide(2, 1, live=False)
    assert worker_pool(Choice("none"), plan) is None
    with pytest.raises(ConfigError, match="'magic' is unknown: choose from guided, crf"):
        worker_pool(Choice("magic"), plan)


def test_the_plan_says_how_many_workers() -> None:
    pool = worker_pool(Choice(), divide(4, 3, live=False))
    assert pool is not None
    with pool:
        assert pool.workers == 3


def test_a_missing_extra_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.crf.dense.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="crf-reference"):
        worker_pool(Choice(backend="pydensecrf"), divide(2, 1, live=False))


def test_the_specification_travels() -> None:
    spec = RefineSpec("crf", FEW)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert callable(open_refiner(spec))
