from __future__ import annotations

import threading
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import _native
from pipeline.frame import Geometry
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.upsample import coarse_winners, upsample_argmax

Sampling = tuple[np.ndarray, np.ndarray, np.ndarray]


def sampling(at: np.ndarray, count: int) -> Sampling:
    at = np.clip(at, 0, count - 1)
    near = np.minimum(at.astype(int), max(0, count - 2))
    return near, np.minimum(near + 1, count - 1), at - near


def bilinear(data: np.ndarray, y: Sampling, x: Sampling) -> np.ndarray:
    """h×w×… sampled at the outer product of two axes."""
    tail = (1,) * (data.ndim - 2)
    fy, fx = y[2].reshape(-1, 1, *tail), x[2].reshape(1, -1, *tail)
    rows = data[y[0]] * (1 - fy) + data[y[1]] * fy
    return rows[:, x[0]] * (1 - fx) + rows[:, x[1]] * fx


def box(data: np.ndarray, radius: int) -> np.ndarray:
    out = np.empty_like(data)
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            window = data[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            out[y, x] = window.mean((0, 1))
    return out


class Axis:
    """Squares along one side of a picture, by the definition in words: parts or groups of score cells."""

    def __init__(self, pixels: int, scale: float, offset: float, cells: int, per_cell: float) -> None:
        place = (scale * np.arange(pixels) + offset + 0.5) * per_cell - 0.5
        first, last = floor(place[0] + 0.5), floor(place[-1] + 0.5)
        self.members = [np.flatnonzero(np.floor(place + 0.5) == k) for k in range(first, last + 1)]
        self.score = sampling((np.arange(first, last + 1) + 0.5) / per_cell - 0.5, cells)
        self.at = sampling(place - first, last - first + 1)
        at = np.clip(scale * np.arange(pixels) + offset, 0, cells - 1)
        # A pixel half-way between two cells is as near to the one as to the other, whatever the rounding says.
        self.cells = [np.rint(at - 1e-9).astype(int), np.rint(at + 1e-9).astype(int)]


def reference(
    image: np.ndarray,
    scores: np.ndarray,
    maps: tuple[float, ...],
    per_cell: tuple[float, float],
    *,
    radius: int,
    reach: int,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """He et al.'s filter step by step in float64.

    Returns:
        H×W×C values, H×W×C whether a class may be given, H×W×C whether it must be considered; the last
        two differ half-way between score cells.
    """
    guide = image.reshape(*image.shape[:2], -1) / 255.0
    classes, h, w = scores.shape
    best = scores.argmax(0)
    alive = np.unique(best)
    ys = Axis(image.shape[0], maps[0], maps[1], h, per_cell[0])
    xs = Axis(image.shape[1], maps[2], maps[3], w, per_cell[1])
    small = np.array([[guide[np.ix_(r, c)].mean((0, 1)) for c in xs.members] for r in ys.members])
    logits = bilinear(np.moveaxis(scores[alive].astype(float), 0, -1), ys.score, xs.score)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    mean_i, mean_p = box(small, radius), box(p, radius)
    cov_ip = box(small[..., :, None] * p[..., None, :], radius) - mean_i[..., :, None] * mean_p[..., None, :]
    var = box(small[..., :, None] * small[..., None, :], radius) - mean_i[..., :, None] * mean_i[..., None, :]
    a = np.linalg.solve(var + epsilon * np.eye(guide.shape[2]), cov_ip)
    b = mean_p - (a * mean_i[..., :, None]).sum(-2)
    a, b = bilinear(box(a, radius), ys.at, xs.at), bilinear(box(b, radius), ys.at, xs.at)
    values = np.full((*image.shape[:2], classes), -np.inf)
    values[..., alive] = (a * guide[..., None]).sum(-2) + b
    near = np.zeros((h, w, classes), bool)
    for y in range(h):
        for x in range(w):
            near[y, x, np.unique(best[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1])] = True
    nearest = [near[rows][:, columns] for rows in ys.cells for columns in xs.cells]
    return values, np.logical_or.reduce(nearest), np.logical_and.reduce(nearest)


def smooth_scores(rng: np.random.Generator, classes: int, h: int, w: int) -> np.ndarray:
    coarse = rng.normal(size=(max(2, h // 3), max(2, w // 3), classes)) * 3
    y, x = (sampling(np.linspace(0, side - 1, n), side) for side, n in zip(coarse.shape, (h, w), strict=False))
    return np.ascontiguousarray(np.moveaxis(bilinear(coarse, y, x), -1, 0).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_he_et_als_filter(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 50))
    classes, h, w = draw(st.sampled_from([1, 2, 5, 70])), draw(st.integers(1, 12)), draw(st.integers(1, 14))
    geometry = Geometry(height, width, height, width, height + draw(st.integers(0, 9)), width, draw(st.booleans()))
    maps = geometry.score_map(h, w)
    per_cell = tuple(
        draw(st.sampled_from([0.5, 1.0, 2.0, 3.0]))
        if scale == 0
        else min(1 / scale, draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])))
        for scale in (maps[0], maps[2])
    )
    radius, reach, epsilon = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.sampled_from([1e-3, 1e-2]))
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if draw(st.booleans()):
        image = image[..., 0]
    scores = smooth_scores(rng, classes, h, w)
    values, allowed, considered = reference(
        image, scores, maps, (per_cell[0], per_cell[1]), radius=radius, reach=reach, epsilon=epsilon
    )
    out = np.full((height, width), 250, np.uint8)
    _native.GuidedFilter().labels(
        np.ascontiguousarray(image), scores, *maps, per_cell[0], per_cell[1], radius, reach, epsilon, out
    )
    index = out[..., None].astype(int)
    assert np.take_along_axis(allowed, index, -1).all()
    best = np.where(considered, values, -np.inf).max(-1)
    assert (best - np.take_along_axis(values, index, -1)[..., 0] < 5e-3).all()


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ground truth with curved boundaries: a tilted band, a disc and the rest."""
    y, x = np.mgrid[0:height, 0:width]
    truth = np.zeros((height, width), np.uint8)
    truth[y > height * 0.55 + 0.2 * (x - width / 2)] = 1
    cy, cx = height * rng.uniform(0.3, 0.5), width * rng.uniform(0.3, 0.6)
    truth[np.hypot(y - cy, x - cx) < height * 0.22] = 3
    return truth


def coarse_scores(truth: np.ndarray, classes: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """What a network at ``stride`` would say of it: the classes' shares in each cell, blurred and uncertain."""
    h, w = truth.shape[0] // stride, truth.shape[1] // stride
    shares = np.stack([(truth == c).reshape(h, stride, w, stride).mean((1, 3)) for c in range(classes)])
    padded = np.pad(shares, ((0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = sum(padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
    return np.ascontiguousarray((np.log(blurred + 0.02) + rng.normal(0, 0.1, blurred.shape)).astype(np.float32))


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("guide", ["colour", "luma"])
def test_it_finds_the_pictures_edges(stride: int, guide: str) -> None:
    """Beside the same scores upsampled bilinearly, at least a third of the wrong pixels are gone."""
    rng = np.random.default_rng(stride)
    wrong, wrong_bilinear = 0, 0
    for _ in range(3):
        truth = blobs(rng, 192, 256)
        scores = coarse_scores(truth, 4, stride, rng)
        colours = np.array([[60, 90, 150], [110, 120, 90], [0, 0, 0], [180, 150, 140]])
        image = np.clip(colours[truth] + rng.normal(0, 6, (192, 256, 3)), 0, 255).astype(np.uint8)
        geometry = Geometry(192, 256, 192, 256, 192, 256)
        shown = image if guide == "colour" else np.ascontiguousarray(image.mean(-1).astype(np.uint8))
        wrong += int((GuidedRefiner(192, 256).labels(shown, scores, geometry) != truth).sum())
        wrong_bilinear += int((upsample_argmax(scores, geometry)[0] != truth).sum())
    assert wrong_bilinear > 300
    assert wrong < wrong_bilinear * 2 / 3


def test_a_flat_picture_leaves_the_labels_much_as_they_are() -> None:
    rng = np.random.default_rng(0)
    truth = blobs(rng, 160, 240)
    scores, geometry = coarse_scores(truth, 4, 8, rng), Geometry(160, 240, 160, 240, 160, 240)
    flat = np.full((160, 240, 3), 99, np.uint8)
    same = GuidedRefiner(160, 240).labels(flat, scores, geometry) == upsample_argmax(scores, geometry)[0]
    assert same.mean() > 0.98


def test_no_class_appears_that_is_not_best_nearby() -> None:
    rng = np.random.default_rng(1)
    height, width, h, w = 150, 230, 15, 23
    scores = rng.normal(size=(12, h, w)).astype(np.float32)
    scores[:, :, : w // 2] -= 50
    scores[2, :, : w // 2] += 60
    scores[7] = -100
    geometry = Geometry(height, width, height, width, height, width)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels = GuidedRefiner(height, width).labels(image, scores, geometry)
    assert (labels[:, : (w // 2 - 2) * 10] == 2).all()
    assert 7 not in labels
    best = coarse_winners(scores)
    for y, x in zip(*np.nonzero(labels != 255), strict=True):
        cy, cx = y // 10, x // 10
        assert labels[y, x] in best[max(0, cy - 1) : cy + 2, max(0, cx - 1) : cx + 2]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 1), (7, 5), (480, 270), (721, 1281)])
def test_any_size_and_again(size: tuple[int, int]) -> None:
    """The memory that is kept changes nothing, whatever was computed in between."""
    rng = np.random.default_rng(2)
    geometry = Geometry.fit(*size, size=96 if min(size) > 90 else 16, multiple=8)
    scores = smooth_scores(rng, 6, geometry.input_height // 8, geometry.input_width // 8)
    other = smooth_scores(rng, 20, 2 * geometry.input_height, geometry.input_width)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    refiner = GuidedRefiner(*size)
    first = refiner.labels(image, scores, geometry)
    assert set(np.unique(first)) <= set(np.unique(coarse_winners(scores)))
    refiner.labels(image, other, geometry)
    refiner.labels(image[..., 1].copy(), scores, geometry)
    board = np.full((size[0], size[1] + 4), 9, np.uint8)
    again = refiner.labels(image, scores, geometry, board[:, 2:-2])
    assert np.array_equal(first, again)
    assert (board[:, :2] == 9).all()
    assert (board[:, -2:] == 9).all()


def test_threads_that_share_one_wait() -> None:
    rng = np.random.default_rng(3)
    geometry = Geometry(120, 160, 120, 160, 120, 160)
    image = rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    jobs = [smooth_scores(rng, classes, 15, 20) for classes in (2, 9, 30, 5)]
    refiner = GuidedRefiner(120, 160)
    want = [refiner.labels(image, scores, geometry) for scores in jobs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            labels = refiner.labels(image, jobs[number], geometry)
            wrong.extend([number] * (not np.array_equal(labels, want[number])))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_makes_no_sense_is_refused() -> None:
    geometry = Geometry(16, 24, 16, 24, 16, 24)
    image, scores = np.zeros((16, 24, 3), np.uint8), np.zeros((2, 4, 6), np.float32)
    refiner = GuidedRefiner(16, 24)
    bad_scores = scores.copy()
    bad_scores[1, 2, 3] = np.nan
    for arguments in (
        (image[:8], scores, geometry),
        (image[..., :2], scores, geometry),
        (image.astype(np.float32), scores, geometry),
        (np.zeros((16, 48, 3), np.uint8)[:, ::2], scores, geometry),
        (image, scores[0], geometry),
        (image, scores.astype(np.float64), geometry),
        (image, bad_scores, geometry),
        (image, scores, Geometry(16, 25, 16, 25, 16, 25)),
        (image, scores, geometry, np.zeros((16, 23), np.uint8)),
        (image, scores, geometry, np.zeros((16, 24), np.int8)),
    ):
        with pytest.raises(ValueError):
            refiner.labels(*arguments)  # type: ignore[arg-type]
    for wrong in ({"epsilon": 0.0}, {"epsilon": np.nan}, {"finest": -1.0}):
        with pytest.raises(ValueError):
            GuidedRefiner(16, 24, **wrong)
    with pytest.raises(ValueError):
        GuidedRefiner(0, 24)
    out = np.zeros((16, 24), np.uint8)
    good = [0.25, -0.375, 0.25, -0.375, 1.0, 1.0, 1, 1, 1e-3]
    _native.GuidedFilter().labels(image, scores, *good, out)  # type: ignore[arg-type]
    for place, value in ((0, -1), (1, np.nan), (4, 0), (4, 5), (5, np.inf), (5, np.nan), (6, -1), (7, 10**6), (8, 0)):
        numbers = list(good)
        numbers[place] = value
        with pytest.raises(ValueError):
            _native.GuidedFilter().labels(image, scores, *numbers, out)  # type: ignore[arg-type]


def test_the_grid_follows_the_cells() -> None:
    refiner = GuidedRefiner(360, 640)
    for cell, squares in ((2.0, 1.0), (4.0, 1.0), (8.0, 1.0), (16.0, 2.0), (32.0, 4.0), (1.0, 0.5), (0.5, 0.25)):
        assert refiner._squares(1 / cell) == squares
        assert squares / cell <= 0.5 or ceil(cell) <= 2
