"""Motion between frames and scores that follow it: against pictures whose motion is known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import _native
from pipeline.frame import FORMATS, Colour, Frame, Geometry
from pipeline.stages.motion import CUT, Guide, Motion, measure, measure_both
from pipeline.stages.propagate import Memory, State, between, carry, mix, step

Array = NDArray[np.float32]

H, W = 192, 256
GEOMETRY = Geometry(H, W, H, W, H, W)
CELLS = (48, 64)
CELL = H / CELLS[0]
INSIDE = (slice(6, -6), slice(6, -6))


def texture(seed: int, height: int = 2 * H, width: int = 2 * W) -> Array:
    """Something to look at, at many scales: levels 0 to 255."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width), np.float32)
    for size in (4, 8, 16, 32, 64):
        coarse = random.normal(size=(height // size + 3, width // size + 3)).astype(np.float32)
        y, x = np.arange(height) / size, np.arange(width) / size
        picture += size**0.5 * bilinear(coarse, *np.meshgrid(y, x, indexing="ij"))
    return 128 + 45 * (picture - picture.mean()) / picture.std()


def bilinear(picture: Array, y: Array, x: Array) -> Array:
    """Samples between pixels."""
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    rows, columns = np.clip([top, top + 1], 0, picture.shape[0] - 1), np.clip([left, left + 1], 0, picture.shape[1] - 1)
    upper = picture[rows[0], columns[0]] * (1 - right) + picture[rows[0], columns[1]] * right
    lower = picture[rows[1], columns[0]] * (1 - right) + picture[rows[1], columns[1]] * right
    return upper * (1 - down) + lower * down


def view(scene: Array, dy: float = 0, dx: float = 0, zoom: float = 1) -> Array:
    """The middle of a scene; what is at (y, x) lay ``(dy, dx)`` away, and ``zoom`` times as far from the middle."""
    y, x = np.mgrid[:H, :W].astype(np.float32)
    y, x = (y - H / 2) * zoom + H / 2 + dy, (x - W / 2) * zoom + W / 2 + dx
    return bilinear(scene, y + H / 2, x + W / 2)


def frame(luma: Array, depth: int = 8) -> Frame:
    format_ = FORMATS["yuv420p" if depth == 8 else "yuv420p10le"]
    height, width = luma.shape
    planes = [np.full(shape, 1 << depth - 1, format_.dtype) for shape in format_.plane_shapes(height, width)]
    planes[0][:] = np.clip(np.rint(luma * (1 << depth - 8)), 0, (1 << depth) - 1)
    return Frame((planes[0], planes[1], planes[2]), format_, Colour(), 0, Fraction(0), Fraction(1), 0, 0, "test")  # type: ignore[arg-type]


def motion(now: Array, before: Array, depth: int = 8) -> Motion:
    return measure(Guide.of(frame(now, depth)), Guide.of(frame(before, depth)), GEOMETRY, CELLS)


def still(trust: float = 1.0) -> Motion:
    return Motion(np.zeros((*CELLS, 2), np.float32), np.full(CELLS, trust, np.float32))


def scores(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(3, *CELLS)).astype(np.float32)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (3, -5), (-0.6, 1.3), (14, 22)])
def test_a_translation_is_found(dy: float, dx: float, depth: int) -> None:
    scene = texture(1)
    found = motion(view(scene, dy, dx), view(scene), depth)
    error = found.path[INSIDE] * CELL - [dy, dx]
    assert np.abs(error).mean() < 0.15
    assert found.trust[INSIDE].mean() > 0.9
    if (dy, dx) == (0, 0):
        assert not found.path.any()
        assert (found.trust == 1).all()


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (3, -5), (14, 22)])
def test_the_way_back_comes_with_it(dy: float, dx: float) -> None:
    scene = texture(1)
    now, before = Guide.of(frame(view(scene, dy, dx))), Guide.of(frame(view(scene)))
    found, back = measure_both(now, before, GEOMETRY, CELLS)
    alone = measure(now, before, GEOMETRY, CELLS)
    assert np.array_equal(found.path, alone.path)
    assert np.array_equal(found.trust, alone.trust)
    assert np.abs(back.path[INSIDE] * CELL + [dy, dx]).mean() < 0.3
    assert back.trust[INSIDE].mean() > 0.85


def test_a_zoom_is_found_and_what_enters_is_not_trusted() -> None:
    scene = texture(2)
    found = motion(view(scene, zoom=1.08), view(scene))  # the camera goes back: the rim is new
    y, x = np.mgrid[: CELLS[0], : CELLS[1]]
    truth = np.stack([(y + 0.5 - CELLS[0] / 2) * 0.08, (x + 0.5 - CELLS[1] / 2) * 0.08], -1)
    assert np.abs(found.path - truth)[INSIDE].mean() * CELL < 0.3
    gone = (np.abs(truth + np.stack([y, x], -1) - (np.array(CELLS) - 1) / 2) > np.array(CELLS) / 2 + 1).any(-1)
    assert found.trust[gone].mean() < 0.2
    assert found.trust[INSIDE].mean() > 0.9


def test_it_is_as_good_as_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="the flow to compare with")
    scene = texture(3)
    y, x = np.mgrid[:H, :W].astype(np.float32)
    dy, dx = 3 * np.sin(x / 40) + 2, 4 * np.cos(y / 30)
    before, now = view(scene), bilinear(scene, y + dy + H / 2, x + dx + W / 2)
    found = motion(now, before)
    truth = np.stack([dy, dx], -1).reshape(CELLS[0], 4, CELLS[1], 4, 2).mean((1, 3)) / CELL
    theirs = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        np.clip(now, 0, 255).astype(np.uint8), np.clip(before, 0, 255).astype(np.uint8), None
    )[..., ::-1]
    theirs = theirs.reshape(CELLS[0], 4, CELLS[1], 4, 2).mean((1, 3)) / CELL
    ours = np.linalg.norm(found.path - truth, axis=-1)[INSIDE].mean()
    assert ours <= np.linalg.norm(theirs - truth, axis=-1)[INSIDE].mean() * 1.25
    assert ours * CELL < 0.35


def test_what_was_covered_is_not_trusted() -> None:
    """A square moves over a ground that stands still; what it uncovers was not to be seen before."""
    ground, square = texture(4)[:H, :W], texture(5)[:64, :64]
    before, now = ground.copy(), ground.copy()
    before[64:128, 96:160] = square
    now[64:128, 112:176] = square
    found = motion(now, before)
    uncovered, moved, far = np.s_[17:31, 25:27], np.s_[18:30, 30:42], np.s_[:, :16]
    assert found.trust[uncovered].mean() < 0.3
    assert found.trust[moved].mean() > 0.8
    assert np.abs(found.path[moved] * CELL - [0, -16]).mean() < 0.5
    assert found.trust[far].mean() > 0.95


def test_a_cut_leaves_no_ghost() -> None:
    before, now = view(texture(6)), view(texture(7))
    cut = motion(now, before)
    assert cut.confidence < CUT / 2
    state, _ = step(None, None, scores(0), smooth=True)
    fresh = scores(1)
    state, out = step(state, cut, fresh, smooth=True)
    assert out is fresh
    assert (state.memory.seen == 1).all()


def test_a_state_follows_only_what_it_has_seen() -> None:
    with pytest.raises(ValueError, match="follows nothing"):
        step(None, None, None, smooth=False)
    state, _ = step(None, None, scores(0), smooth=False)
    with pytest.raises(ValueError, match="follows nothing"):
        step(state, still(CUT / 2), None, smooth=False)


def test_a_still_picture_gives_the_mean_of_all_scores() -> None:
    picture = view(texture(8))
    same = motion(picture, picture)
    state, given = None, [scores(seed) for seed in range(40)]
    for fresh in given:
        state, out = step(state, same if state is not None else None, fresh, smooth=True)
    assert state is not None
    np.testing.assert_allclose(out, np.mean(given, 0), atol=1e-4)
    np.testing.assert_allclose(state.memory.seen, 40, rtol=1e-5)


def test_a_camera_that_pans_makes_scores_steadier_too() -> None:
    scene, cells = texture(9), texture(10, 2 * CELLS[0], 2 * CELLS[1]) / 64
    state, before, noise, errors = None, None, np.random.default_rng(0), []
    for time in range(8):
        now = view(scene, 0, 3 * time)
        y, x = np.mgrid[: CELLS[0], : CELLS[1]].astype(np.float32)
        true = np.stack([bilinear(cells, y + 20, x + 20 + 3 * time / CELL), np.ones(CELLS, np.float32)])
        fresh = (true + noise.normal(scale=0.5, size=true.shape)).astype(np.float32)
        found = motion(now, before) if before is not None else None
        state, out = step(state, found, fresh, smooth=True)
        before = now
        errors.append(float(np.abs(out - true)[:, 6:-6, 6:-6].mean()))
    assert errors[-1] < 0.72 * errors[0]


def test_scores_are_carried_along_the_motion() -> None:
    scene = texture(11)
    first = texture(12, *CELLS)[None] / 64
    state, _ = step(None, None, np.ascontiguousarray(first), smooth=False)
    for time in range(1, 4):  # eight pixels a frame are two cells
        state, out = step(state, motion(view(scene, 0, 8 * time), view(scene, 0, 8 * time - 8)), None, smooth=False)
        error = np.abs(out[0, 6:-6, 6 : -6 - 2 * time] - first[0, 6:-6, 6 + 2 * time : -6])
        assert error.mean() < 0.1 * np.abs(first).std(), time
    assert state.motion is not None
    assert state.memory.scores is first or (state.memory.scores == first).all()


def test_a_frame_between_two_takes_what_is_covered_from_the_other() -> None:
    """A square moves by eight pixels a frame over a still ground; frame 1 lies between the key frames 0 and 2."""
    ground, square = texture(4)[:H, :W], texture(5)[:64, :64]
    pictures, truths = [], []
    for time in range(3):
        picture, truth = ground.copy(), np.zeros((2, *CELLS), np.float32)
        picture[64:128, 80 + 16 * time : 144 + 16 * time] = square
        truth[1, 16:32, 20 + 4 * time : 36 + 4 * time] = 1
        truth[0] = 1 - truth[1]
        pictures.append(Guide.of(frame(picture)))
        truths.append(truth)
    forth, _ = measure_both(pictures[1], pictures[0], GEOMETRY, CELLS)
    _, back = measure_both(pictures[2], pictures[1], GEOMETRY, CELLS)
    earlier, later = State(Memory.fresh(truths[0]), forth), State(Memory.fresh(truths[2]), back)
    wrong = [
        int((each.argmax(0) != truths[1].argmax(0)).sum())
        for each in (carry(earlier), carry(later), between(earlier, later, 0.5))
    ]
    assert wrong[2] < 0.7 * min(wrong[:2])


def test_between_counts_by_trust_and_share() -> None:
    earlier, later = State(Memory.fresh(scores(0)), still(0.9)), State(Memory.fresh(scores(1)), still(0.3))
    weight = 0.25 * 0.3 / (0.25 * 0.3 + 0.75 * 0.9)
    expected = scores(0) + weight * (scores(1) - scores(0))
    np.testing.assert_allclose(between(earlier, later, 0.25), expected, atol=2e-3)
    np.testing.assert_allclose(between(earlier, later, 0.0), scores(0), atol=1e-5)
    for one, other in ((earlier, State(later.memory)), (State(earlier.memory), later)):
        with pytest.raises(ValueError, match="itself"):
            between(one, other, 0.5)
    with pytest.raises(ValueError, match="share"):
        between(earlier, later, 1.5)


def test_after_frames_that_were_lost_the_trust_decides() -> None:
    scene = texture(13)
    state, _ = step(None, None, scores(0), smooth=True)
    over_the_gap = motion(view(scene, 9, 30), view(scene))  # as if four frames were missing
    state, out = step(state, over_the_gap, scores(1), smooth=True)
    assert state.memory.seen[INSIDE].mean() > 1.4
    assert not np.array_equal(out, scores(1))


def test_mixed_scores_lie_between_and_nothing_given_is_changed() -> None:
    state = State(Memory.fresh(scores(0)), still(0.5))
    before, fresh = scores(0), scores(1)
    mixed = mix(state, Memory.fresh(fresh))
    np.testing.assert_allclose(mixed.scores, fresh + (before - fresh) / 5, atol=1e-5)
    assert np.array_equal(state.memory.scores, before)
    assert np.array_equal(fresh, scores(1))
    np.testing.assert_allclose(mixed.seen, 1.25)  # half trusted, it counts a quarter
    again = mix(State(Memory.fresh(before), still()), mixed)
    np.testing.assert_allclose(again.scores, mixed.scores + (before - mixed.scores) / 2.25, atol=1e-5)
    np.testing.assert_allclose(again.seen, 2.25)
    with pytest.raises(ValueError, match="in the memory already"):
        mix(State(mixed), mixed)


def test_two_motions_make_one() -> None:
    ahead = Motion(np.full((*CELLS, 2), (1, -2), np.float32), np.full(CELLS, 0.5, np.float32))
    x = np.mgrid[: CELLS[0], : CELLS[1]][1].astype(np.float32)
    slope = Motion(np.stack([0 * x, 0.1 * x], -1), np.full(CELLS, 0.8, np.float32))
    both = ahead.after(slope)
    np.testing.assert_allclose(both.path[:-1, 2:, 1], -2 + 0.1 * (x[:-1, 2:] - 2), atol=1e-5)
    np.testing.assert_allclose(both.path[..., 0], 1)
    np.testing.assert_allclose(both.trust, 0.4, rtol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (17, 400), (33, 1), (1080, 1920)])
def test_every_size_of_picture_has_a_motion(size: tuple[int, int]) -> None:
    luma = np.random.default_rng(0).uniform(0, 255, size).astype(np.float32)
    geometry = Geometry(*size, *size, *size)
    guide = Guide.of(frame(luma))
    found = measure(guide, guide, geometry, (3, 5))
    assert not found.path.any()
    assert (found.trust == 1).all()
    tiny = measure(guide, guide, Geometry(*size, *size, *size, align_corners=True), (1, 1))
    assert np.isfinite(tiny.path).all()


def test_it_is_the_same_every_time() -> None:
    scene = texture(14)
    one, other = (motion(view(scene, 2, 3), view(scene)) for _ in range(2))
    assert np.array_equal(one.path, other.path)
    assert np.array_equal(one.trust, other.trust)


def test_what_does_not_fit_is_refused() -> None:
    picture = view(texture(15))
    large, small = Guide.of(frame(picture)), Guide.of(frame(picture[:100]))
    with pytest.raises(ValueError, match="differ in size"):
        measure(large, small, GEOMETRY, CELLS)
    with pytest.raises(ValueError, match="is where the scores are"):
        same = scores(0)
        _native.carry_scores(same, np.zeros((*CELLS, 2), np.float32), same)
    one, path = np.ones(CELLS, np.float32), np.zeros((*CELLS, 2), np.float32)
    for now, out, out_seen in ((same, same, one.copy()), (scores(1), scores(2), one)):
        with pytest.raises(ValueError, match="is where the"):
            _native.mix_scores(scores(0), one.copy(), path, one.copy(), now, one, out, out_seen)
    with pytest.raises(ValueError, match="now_seen"):
        _native.mix_scores(scores(0), one, path, one, scores(1), one[1:].copy(), scores(2), one.copy())
    with pytest.raises(ValueError, match="path"):
        _native.carry_scores(scores(0), np.zeros((3, 3, 2), np.float32), scores(1))
    nowhere = State(
        Memory.fresh(scores(0)), Motion(np.full((*CELLS, 2), np.nan, np.float32), np.zeros(CELLS, np.float32))
    )
    assert np.isfinite(carry(nowhere)).all()
