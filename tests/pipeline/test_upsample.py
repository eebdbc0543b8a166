from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import _native
from pipeline.frame import Geometry
from pipeline.stages.upsample import Before, alive_classes, class_counts, coarse_winners, upsample_argmax


def reference_scores(scores: np.ndarray, geometry: Geometry) -> np.ndarray:
    """C×H×W float64: plain bilinear interpolation through the geometry's map, clamped at the edges."""

    def axis(pixels: int, scale: float, offset: float, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip(scale * np.arange(pixels) + offset, 0, cells - 1)
        near = np.minimum(at.astype(int), max(0, cells - 2))
        return near, np.minimum(near + 1, cells - 1), at - near

    _, h, w = scores.shape
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(h, w)
    y0, y1, fy = axis(geometry.frame_height, scale_y, offset_y, h)
    x0, x1, fx = axis(geometry.frame_width, scale_x, offset_x, w)
    wide = scores.astype(np.float64)
    rows = wide[:, y0] * (1 - fy)[:, None] + wide[:, y1] * fy[:, None]
    return rows[:, :, x0] * (1 - fx) + rows[:, :, x1] * fx


def check(scores: np.ndarray, geometry: Geometry, labels: np.ndarray) -> None:
    full = reference_scores(scores, geometry)
    want = full.argmax(0)
    gap = full.max(0) - np.take_along_axis(full, labels[None].astype(int), 0)[0]
    wrong = (labels != want) & (gap >= 1e-5 * max(np.ptp(scores), 1e-30))
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} pixels wrong"


def smooth(rng: np.random.Generator, classes: int, height: int, width: int) -> np.ndarray:
    """Scores as networks give them: broad blobs, a few ties, some classes never best."""
    coarse = rng.normal(size=(classes, max(2, height // 6), max(2, width // 6))).astype(np.float32) * 4
    geometry = Geometry(height, width, height, width, height, width)
    return np.ascontiguousarray(reference_scores(coarse, geometry).astype(np.float32))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_labels_equal_the_float64_reference(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.sampled_from([1, 2, 3, 11, 21, 40, 255]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    frame = (draw(st.integers(1, 90)), draw(st.integers(1, 130)))
    picture = (draw(st.integers(1, 120)), draw(st.integers(1, 150)))
    given_size = (picture[0] + draw(st.integers(0, 20)), picture[1] + draw(st.integers(0, 20)))
    geometry = Geometry(*frame, *picture, *given_size, draw(st.booleans()))
    kind = draw(st.sampled_from(["noise", "smooth", "integers", "huge"]))
    if kind == "smooth":
        scores = smooth(rng, classes, height, width)
    elif kind == "integers":  # many exact ties
        scores = rng.integers(-2, 3, (classes, height, width)).astype(np.float32)
    else:
        scores = (rng.normal(size=(classes, height, width)) * (1 if kind == "noise" else 1e36)).astype(np.float32)
    labels, counts = upsample_argmax(scores, geometry)
    check(scores, geometry, labels)
    assert np.array_equal(counts, np.bincount(labels.ravel(), minlength=classes))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_labels_hold_on_as_the_float64_reference_says(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.sampled_from([1, 2, 3, 11, 40, 255]))
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 100))
    geometry = Geometry(*(draw(st.integers(1, 120)) for _ in "yx"), height, width, height, width, draw(st.booleans()))
    scores = smooth(rng, classes, height, width) if draw(st.booleans()) else (
        rng.normal(size=(classes, height, width)).astype(np.float32)
    )  # fmt: skip
    margin = np.full((height, width), draw(st.sampled_from([0.0, 0.1, 1.0, 100.0])), np.float32)
    if draw(st.booleans()):
        margin *= rng.random(margin.shape, np.float32)
    ahead = (scores + rng.normal(size=scores.shape)).astype(np.float32) if draw(st.booleans()) else None
    full, needed = reference_scores(scores, geometry), reference_scores(margin[None], geometry)[0]
    winner = full.argmax(0).astype(np.uint8)
    # Mostly the winner's own label, as from frame to frame, else any, even one that is no class of these scores.
    any_label = rng.integers(0, classes + 1, winner.shape)
    same = rng.random(winner.shape) < draw(st.sampled_from([0.0, 0.7, 1.0]))
    held = np.where(same, winner, any_label).astype(np.uint8)
    labels, counts = upsample_argmax(scores, geometry, None, Before(held, margin, ahead))
    known = held < classes
    own = np.take_along_axis(full, np.where(known, held, 0)[None].astype(int), 0)[0]
    behind = full.max(0) - own
    if ahead is not None:
        later, pair = reference_scores(ahead, geometry), np.stack([winner, known * held]).astype(int)
        lead = np.subtract(*np.take_along_axis(later, pair, 0))
        behind += np.where(held == winner, 0, np.clip(lead, -needed, needed))
    behind = np.where(known, behind, np.inf)
    unsure = np.abs(behind - needed) < 1e-5 * max(np.ptp(scores), 1e-30)
    if ahead is not None and classes > 1:  # it depends on which of two is called the winner
        unsure |= np.subtract(*np.partition(full, (-2, -1), 0)[[-1, -2]]) < 1e-5 * max(np.ptp(scores), 1e-30)
    keeps = behind <= needed
    assert np.array_equal(labels[keeps & ~unsure], held[keeps & ~unsure])
    check_where = ~keeps & ~unsure
    gap = full.max(0) - np.take_along_axis(full, labels[None].astype(int), 0)[0]
    assert not (check_where & (gap >= 1e-5 * max(np.ptp(scores), 1e-30))).any()
    assert np.array_equal(counts, np.bincount(labels.ravel(), minlength=classes))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(360, 640, 360), (480, 270, 321), (1080, 1920, 512), (97, 331, 64)]
)
@pytest.mark.parametrize("align", [False, True])
def test_real_sizes(height: int, width: int, size: int, align: bool) -> None:
    geometry = Geometry.fit(height, width, size=size, multiple=8, align_corners=align)
    cells = [(side - align) // 8 + align for side in (geometry.input_height, geometry.input_width)]
    scores = smooth(np.random.default_rng(1), 5, *cells)
    check(scores, geometry, upsample_argmax(scores, geometry)[0])


def test_ties_go_to_the_lowest_class() -> None:
    geometry = Geometry(30, 40, 30, 40, 32, 40)
    labels, counts = upsample_argmax(np.ones((7, 4, 5), np.float32), geometry)
    assert not labels.any()
    assert counts.tolist() == [1200, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_label_holds_on_where_others_are_equal(margin: float) -> None:
    geometry = Geometry(30, 40, 30, 40, 32, 40)
    held = np.random.default_rng(9).integers(0, 7, (30, 40)).astype(np.uint8)
    scores, share = np.ones((7, 4, 5), np.float32), np.full((4, 5), margin, np.float32)
    assert np.array_equal(upsample_argmax(scores, geometry, None, Before(held, share))[0], held)
    assert np.array_equal(upsample_argmax(scores, geometry, None, Before(held, share, scores))[0], held)


def test_a_class_that_wins_only_between_the_corners_is_found() -> None:
    scores = np.array([[[9, 0]], [[8, 8]], [[0, 9]]], np.float32)
    labels, _ = upsample_argmax(scores, Geometry(1, 100, 1, 100, 1, 100))
    assert set(labels.ravel()) == {0, 1, 2}
    assert alive_classes(scores).tolist() == [0, 2]


def test_bands_make_the_whole() -> None:
    scores = smooth(np.random.default_rng(2), 4, 20, 30)
    geometry = Geometry(157, 211, 150, 200, 160, 240)
    want, want_counts = upsample_argmax(scores, geometry)
    out, counts = np.full_like(want, 99), np.zeros(4, np.int64)
    for begin, end in ((0, 1), (1, 50), (50, 50), (50, 157)):
        _native.upsample_argmax(scores, *geometry.score_map(20, 30), out, counts, begin, end)
    assert np.array_equal(out, want)
    assert np.array_equal(counts, want_counts)


@pytest.mark.parametrize("sees", [False, True])
def test_labels_hold_on_in_bands_and_in_parts_of_wider_arrays(sees: bool) -> None:
    random = np.random.default_rng(10)
    scores, ahead = (smooth(random, 4, 20, 30) for _ in range(2))
    geometry = Geometry(157, 211, 150, 200, 160, 240)
    board = random.integers(0, 4, (170, 256)).astype(np.uint8)
    held, margin = board[3:160, 20:231], np.linspace(0, 4, 600, dtype=np.float32).reshape(20, 30)
    before = Before(held, margin, ahead if sees else None)
    want, want_counts = upsample_argmax(scores, geometry, None, Before(held.copy(), margin, before.ahead))
    assert 0.1 < (want != upsample_argmax(scores, geometry)[0]).mean() < 0.9
    assert np.array_equal(upsample_argmax(scores, geometry, None, before)[0], want)
    wide, counts = np.full((160, 300), 99, np.uint8), np.zeros(4, np.int64)
    out = wide[1:158, 7:218]
    for begin, end in ((0, 1), (1, 50), (50, 157)):
        _native.upsample_argmax(
            scores, *geometry.score_map(20, 30), out, counts, begin, end, before.labels, margin, before.ahead
        )
    assert np.array_equal(out, want)
    assert np.array_equal(counts, want_counts)
    out[:] = 99
    assert (wide == 99).all()


def test_out_may_be_a_part_of_a_wider_array() -> None:
    scores = smooth(np.random.default_rng(3), 3, 9, 9)
    geometry = Geometry(50, 60, 50, 60, 72, 72)
    board = np.full((60, 80), 77, np.uint8)
    labels, _ = upsample_argmax(scores, geometry, board[5:55, 10:70])
    assert np.array_equal(labels, upsample_argmax(scores, geometry)[0])
    board[5:55, 10:70] = 77
    assert (board == 77).all()


def test_winners_and_alive_classes() -> None:
    scores = np.random.default_rng(4).normal(size=(9, 33, 131)).astype(np.float32)
    scores[5] = -9
    assert np.array_equal(coarse_winners(scores), scores.argmax(0))
    assert alive_classes(scores).tolist() == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("place", [(0, 0, 5), (2, 11, 69)])
def test_a_score_that_is_no_number_is_refused(bad: float, place: tuple[int, int, int]) -> None:
    scores = np.zeros((3, 20, 70), np.float32)
    scores[place] = bad
    geometry = Geometry(80, 280, 80, 280, 80, 280)
    for call in (lambda: upsample_argmax(scores, geometry), lambda: alive_classes(scores)):
        with pytest.raises(ValueError, match="NaN, infinite"):
            call()


def test_bad_arrays_are_refused() -> None:
    geometry = Geometry(8, 8, 8, 8, 8, 8)
    good = np.zeros((2, 4, 4), np.float32)
    locked = np.zeros((8, 8), np.uint8)
    locked.flags.writeable = False
    bad_scores = (good[0], good.astype(np.float64), good[:, ::2], np.zeros((256, 4, 4), np.float32),
                  np.zeros((2, 0, 4), np.float32), np.zeros((0, 4, 4), np.float32))  # fmt: skip
    for scores in bad_scores:
        with pytest.raises(ValueError):
            upsample_argmax(scores, geometry)
    for out in (np.zeros((8, 9), np.uint8), np.zeros((8, 8), np.int8), np.zeros((8, 16), np.uint8)[:, ::2], locked):
        with pytest.raises(ValueError):
            upsample_argmax(good, geometry, out)
    out, counts = np.zeros((8, 8), np.uint8), np.zeros(2, np.int64)
    for labels in (np.zeros((8, 9), np.uint8), np.zeros((8, 8), np.int8), np.zeros((8, 16), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match="before"):
            upsample_argmax(good, geometry, None, Before(labels, np.ones((4, 4), np.float32)))
    for margin in (-0.1, np.nan, np.inf):
        some = np.ones((4, 4), np.float32)
        some[3, 2] = margin
        with pytest.raises(ValueError, match="margin"):
            upsample_argmax(good, geometry, None, Before(out, some))
    for margins in (np.ones((4, 5), np.float32), np.ones((4, 4)), np.ones((4, 8), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="margin"):
            upsample_argmax(good, geometry, None, Before(out, margins))
    with pytest.raises(ValueError, match="margin: is missing"):
        _native.upsample_argmax(good, 1.0, 0.0, 1.0, 0.0, out, counts, 0, 8, out.copy())
    for ahead in (good[:1], good[:, :3].copy(), good.astype(np.float64)):
        with pytest.raises(ValueError, match=r"ahead|scores"):
            upsample_argmax(good, geometry, None, Before(out, np.ones((4, 4), np.float32), ahead))
    for rows in ((-1, 8), (0, 9), (5, 4)):
        with pytest.raises(ValueError):
            _native.upsample_argmax(good, 1.0, 0.0, 1.0, 0.0, out, counts, *rows)
    for numbers in ((-1.0, 0.0), (np.nan, 0.0), (1.0, np.inf)):
        with pytest.raises(ValueError):
            _native.upsample_argmax(good, *numbers, 1.0, 0.0, out, counts, 0, 8)
    with pytest.raises(ValueError):
        _native.upsample_argmax(good, 1.0, 0.0, 1.0, 0.0, out, np.zeros(3, np.int64), 0, 8)


def test_other_threads_run_meanwhile() -> None:
    """The kernel releases the GIL: two threads' work overlaps with a third that only counts."""
    scores = np.random.default_rng(5).normal(size=(40, 200, 300)).astype(np.float32)
    geometry = Geometry(1080, 1920, 1080, 1920, 1080, 1920)
    done = threading.Event()
    ticks = 0

    def work() -> None:
        upsample_argmax(scores, geometry)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        ticks += 1
        done.wait(0.001)
    thread.join()
    assert ticks > 3


def test_class_counts() -> None:
    labels = np.random.default_rng(6).integers(0, 30, (37, 61)).astype(np.uint8)
    assert np.array_equal(class_counts(labels, 21), np.bincount(labels.ravel(), minlength=30)[:21])
    assert np.array_equal(class_counts(labels[:, 3:40], 30), np.bincount(labels[:, 3:40].ravel(), minlength=30))
    for bad in (labels.astype(np.int64), labels[:, ::2], labels[0]):
        with pytest.raises(ValueError):
            class_counts(bad, 21)
