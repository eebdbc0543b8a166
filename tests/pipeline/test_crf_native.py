"""The native CRF: against pydensecrf on real pictures, its modes against each other, and what it refuses."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pictures import Picture, camera_pictures, synthetic
from pipeline import _native
from pipeline.crf import CRFParameters, DenseCRF
from pipeline.crf.native import Native, levels
from pipeline.crf.scores import unary_energy, upsample
from pipeline.frame import Geometry
from tests.conftest import absent
from tests.pipeline.test_crf import brute_force, scene

pytestmark = pytest.mark.timeout(60)

PUBLISHED = CRFParameters()
WIDE = CRFParameters(3, 3, 10, 80, 13)
NARROW = CRFParameters(3, 2, 5, 50, 5)
PARAMETERS = pytest.mark.parametrize(
    "parameters",
    [PUBLISHED, WIDE, NARROW, replace(WIDE, normalization="after"), replace(PUBLISHED, normalization="after")],
    ids=["published", "wide", "narrow", "wide after", "published after"],
)
TIE = 1e-4


@pytest.fixture(scope="module")
def camera(data: Path) -> list[Picture]:
    """Camera pictures at a small size, with real scores."""
    return [*camera_pictures(data, (180, 320))]


@pytest.fixture(scope="module", params=[(360, 640), (513, 513)], ids=["640x360", "513x513"])
def full_size(request: pytest.FixtureRequest, data: Path) -> list[Picture]:
    size = request.param
    return [*camera_pictures(data, size), synthetic(size, 21, 21), synthetic(size, 21, 8), synthetic(size, 11, 11)]


def marginals(picture: Picture, parameters: CRFParameters, iterations: int, **options: object) -> np.ndarray:
    crf = DenseCRF(*picture.image.shape[:2], len(picture.logits), parameters, **options)  # type: ignore[arg-type]
    return crf.marginals(picture.image, picture.logits, geometry=picture.geometry, iterations=iterations)


def labels(picture: Picture, parameters: CRFParameters, iterations: int, **options: object) -> np.ndarray:
    crf = DenseCRF(*picture.image.shape[:2], len(picture.logits), parameters, **options)  # type: ignore[arg-type]
    return crf.labels(picture.image, picture.logits, geometry=picture.geometry, iterations=iterations)


def lost(truth: np.ndarray, found: np.ndarray) -> float:
    """By how much the worst label is less probable than the best one."""
    chosen = np.take_along_axis(truth, found.argmax(0)[None], 0)[0]
    return float((truth.max(0) - chosen).max())


@PARAMETERS
def test_labels_are_pydensecrfs(camera: list[Picture], parameters: CRFParameters) -> None:
    need_pydensecrf()
    worst = {}
    for picture in [*camera[::3], synthetic((181, 203), 21, 21)]:
        truth = marginals(picture, parameters, 5, backend="pydensecrf")
        worst[picture.name] = parity(picture, parameters, 5, truth)
    assert max(worst.values()) < TIE, max(worst.items(), key=lambda item: item[1])


def need_pydensecrf() -> None:
    if importlib.util.find_spec("pydensecrf") is None:
        absent("pydensecrf (extra crf-reference)")


def parity(picture: Picture, parameters: CRFParameters, iterations: int, truth: np.ndarray) -> float:
    """By how much the worst label of the native kernels is less probable than pydensecrf's."""
    found = marginals(picture, parameters, iterations)
    assert np.abs(truth - found).max() < 5e-3, picture.name
    np.testing.assert_array_equal(labels(picture, parameters, iterations), found.argmax(0))
    return lost(truth, found)


def step_by_step(picture: Picture, parameters: CRFParameters, stops: Sequence[int]) -> Iterator[np.ndarray]:
    """pydensecrf's marginals after each of these numbers of iterations, of one inference."""
    from pipeline.crf.reference import Reference

    classes, (height, width) = len(picture.logits), picture.image.shape[:2]
    energy = unary_energy(upsample(picture.logits, picture.geometry)).reshape(classes, -1)
    reference = Reference(height, width, classes, parameters)
    field = reference.field(picture.image, np.ascontiguousarray(energy))
    now, *scratch = field.startInference()
    for iteration in range(1, max(stops) + 1):
        field.stepInference(now, *scratch)
        if iteration in stops:
            yield np.array(now, np.float32).reshape(classes, height, width)


@pytest.mark.slow
@pytest.mark.timeout(600)
@PARAMETERS
def test_labels_are_pydensecrfs_on_every_picture(full_size: list[Picture], parameters: CRFParameters) -> None:
    need_pydensecrf()
    stops = (1, 5, 10)
    worst = {}
    for picture in full_size:
        for iterations, truth in zip(stops, step_by_step(picture, parameters, stops), strict=True):
            worst[picture.name, iterations] = parity(picture, parameters, iterations, truth)
    assert max(worst.values()) < TIE, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
@pytest.mark.parametrize("field", ["pos_w", "pos_xy", "bi_w", "bi_xy", "bi_rgb"])
def test_a_wrong_kernel_would_be_noticed(field: str, normalization: str) -> None:
    """Nearer to the sums over all pairs than with any parameter a third off."""
    image, scores = scene(20, 28, 4)
    image = (image.astype(int) + np.mgrid[:20, :28][1][..., None] * 2).clip(0, 255).astype(np.uint8)
    right = CRFParameters(2, 2.5, 4, 9, 30, 1, normalization)
    exact = brute_force(image, unary_energy(upsample(scores, Geometry(20, 28, 20, 28, 20, 28))), right)

    def error(parameters: CRFParameters) -> float:
        return float(np.abs(DenseCRF(20, 28, 4, parameters).marginals(image, scores) - exact).mean())

    here = error(right)
    for factor in (0.6, 1.7):
        assert here < error(replace(right, **{field: getattr(right, field) * factor}))


def agreement(
    pictures: list[Picture], mode: str, parameters: CRFParameters, iterations: int
) -> Iterator[tuple[float, float, str]]:
    """Shares of all pixels and of those that the exact CRF changes that a mode labels alike."""
    for picture in pictures:
        exact = labels(picture, parameters, iterations)
        raw = labels(picture, parameters, 0)
        same = labels(picture, parameters, iterations, mode=mode) == exact
        yield float(same.mean()), float(same[exact != raw].mean()) if (exact != raw).any() else 1.0, picture.name


@PARAMETERS
def test_pruned_agrees_with_exact(camera: list[Picture], parameters: CRFParameters) -> None:
    for every, changed, name in agreement([*camera, synthetic((180, 320), 21, 6)], "pruned", parameters, 5):
        assert every > 0.999, name
        assert changed > 0.99, name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("iterations", [5, 10])
@PARAMETERS
def test_the_modes_agree_at_full_size(full_size: list[Picture], parameters: CRFParameters, iterations: int) -> None:
    for every, changed, name in agreement(full_size, "pruned", parameters, iterations):
        assert every > 0.999, name
        assert changed > 0.99, name
    for every, _, name in agreement([p for p in full_size if ":" in p.name], "live", parameters, iterations):
        assert every > 0.995, name


def test_live_agrees_with_exact(camera: list[Picture]) -> None:
    for every, _, name in agreement(camera, "live", WIDE, 5):
        assert every > 0.99, name  # a small picture has more boundary


def test_pruned_leaves_out_the_classes_that_cannot_win() -> None:
    picture = synthetic((90, 120), 21, 5)
    picture.logits[5:] -= 20
    crf = DenseCRF(90, 120, 21, WIDE, mode="pruned")
    assert crf.stats is None
    found = crf.marginals(picture.image, picture.logits, geometry=picture.geometry)
    assert crf.stats is not None
    assert crf.stats.classes == 5
    assert crf.stats.vertices > 100
    assert not found[5:].any()
    assert np.abs(found - marginals(picture, WIDE, 10)).max() < 1e-3


def test_a_class_between_two_others_is_alive() -> None:
    """It wins nowhere among the scores, but between them."""
    logits = np.array([[[6.0, -6.0]], [[-6.0, 6.0]], [[1.0, 1.0]]], np.float32)
    image = np.zeros((1, 40, 3), np.uint8)
    crf = DenseCRF(1, 40, 3, WIDE, mode="pruned")
    crf.labels(image, logits, geometry=Geometry(1, 40, 1, 40, 1, 40))
    assert crf.stats is not None
    assert crf.stats.classes == 3


@pytest.mark.parametrize("mode", ["exact", "pruned", "live"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(mode: str, threads: int) -> None:
    for parameters in (PUBLISHED, WIDE):
        for picture in (synthetic((180, 320), 21, 6), synthetic((181, 203), 11, 11)):
            alone = marginals(picture, parameters, 3, mode=mode)
            together = marginals(picture, parameters, 3, mode=mode, threads=threads)
            assert np.abs(alone - together).max() < 1e-4
            assert lost(alone, together) < TIE


def sure_picture(height: int, width: int, classes: int, times: float = 4.0) -> Picture:
    """One whose labels are mostly settled after an iteration, so that most pixels are frozen."""
    picture = synthetic((height, width), classes, min(classes, 9))
    return replace(picture, logits=picture.logits * np.float32(times))


@pytest.mark.parametrize("mode", ["exact", "pruned", "live"])
def test_threads_freeze_the_same_pixels(mode: str) -> None:
    for parameters in (WIDE, NARROW, replace(WIDE, normalization="after")):
        picture = sure_picture(99, 141, 11)
        alone, together = (marginals(picture, parameters, 8, mode=mode, threads=threads) for threads in (1, 3))
        np.testing.assert_allclose(together, alone, atol=1e-4)


@PARAMETERS
def test_frozen_pixels_change_none_of_pydensecrfs_labels(parameters: CRFParameters) -> None:
    need_pydensecrf()
    for classes in (4, 11, 21):
        for iterations in (4, 10, 20):
            picture = sure_picture(93, 141, classes)
            truth = marginals(picture, parameters, iterations, backend="pydensecrf")
            assert parity(picture, parameters, iterations, truth) < TIE, (classes, iterations)


def test_more_threads_than_columns() -> None:
    image, scores = scene(40, 20, 3)
    for parameters in (PUBLISHED, CRFParameters(3, 30, 4, 20, 20)):
        alone = DenseCRF(40, 20, 3, parameters).marginals(image, scores)
        np.testing.assert_allclose(
            DenseCRF(40, 20, 3, parameters, threads=7).marginals(image, scores), alone, atol=1e-4
        )


@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("classes", [3, 11, 21, 30, 70])
def test_every_instruction_set_computes_the_same(level: str, classes: int) -> None:
    if level not in levels():
        pytest.skip(f"this processor has no {level}")
    picture = synthetic((70, 94), classes, min(classes, 9))
    found = []
    for which in ("auto", level):
        q = np.empty((classes, 70, 94), np.float32)
        native = Native(70, 94, classes, WIDE, mode="exact", threads=1, level=which)
        native.infer(picture.image, picture.logits, picture.geometry, 5, labels=None, marginals=q)
        found.append(q)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_frames_do_not_remember_each_other() -> None:
    """Memory is kept, answers are not: other classes alive, another lattice, other iterations in between."""
    first, second = synthetic((60, 80), 21, 12, seed=1), synthetic((60, 80), 21, 3, seed=2)
    for mode in ("exact", "pruned", "live"):
        crf = DenseCRF(60, 80, 21, WIDE, mode=mode)
        fresh = marginals(first, WIDE, 4, mode=mode)
        for picture, iterations in ((first, 4), (second, 1), (second, 0), (first, 7), (first, 4)):
            last = crf.marginals(picture.image, picture.logits, geometry=picture.geometry, iterations=iterations)
        np.testing.assert_allclose(last, fresh, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(59, 17), (49, 17), (33, 65), (17, 1)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_last_tile_of_few_pixels_reads_nothing_beyond(height: int, width: int, threads: int) -> None:
    """Sweeps take pixels by sixteens; AddressSanitizer sees it where there are fewer and too little memory."""
    image, scores = scene(height, width, 9)
    scores[5:] -= 60
    for mode in ("live", "pruned"):
        alone, together = (
            DenseCRF(height, width, 9, replace(WIDE, iterations=2), mode=mode, threads=n).marginals(image, scores)
            for n in (1, threads)
        )
        np.testing.assert_allclose(together, alone, atol=1e-4)


def test_large_weights_do_not_overflow() -> None:
    picture = synthetic((40, 60), 5, 5)
    found = marginals(picture, CRFParameters(500, 3, 800, 30, 20), 5)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


def test_the_gil_is_released() -> None:
    picture = synthetic((360, 640), 21, 21)
    crf = DenseCRF(360, 640, 21, PUBLISHED)
    done = threading.Event()
    steps = 0

    def work() -> None:
        crf.labels(picture.image, picture.logits, geometry=picture.geometry)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.002):
        steps += 1
    thread.join(30)
    assert steps > 3


GOOD: dict[str, object] = {
    "height": 8, "width": 9, "classes": 3, "pos_w": 3.0, "pos_xy": 1.0, "bi_w": 4.0, "bi_xy": 60.0, "bi_rgb": 10.0,
    "symmetric": True, "mode": "exact", "threads": 1, "level": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0}, {"width": 70000}, {"height": 60000, "width": 60000}, {"classes": 0}, {"classes": 256},
        {"pos_w": -1.0}, {"bi_w": float("nan")}, {"pos_xy": 0.0}, {"bi_rgb": float("inf")}, {"bi_xy": 1e-6},
        {"mode": "fast"}, {"threads": 0}, {"threads": 1000}, {"level": "avx9000"},
    ],
)  # fmt: skip
def test_the_extension_refuses_what_the_face_would(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        _native.DenseCRF(**{**GOOD, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((8, 9, 4), np.uint8)}, {"image": np.zeros((8, 9, 3), np.int8)},
        {"image": np.zeros((8, 18, 3), np.uint8)[:, ::2]}, {"scores": np.zeros((4, 2, 2), np.float32)},
        {"scores": np.zeros((3, 2, 2), np.float64)}, {"scores": np.full((3, 2, 2), np.nan, np.float32)},
        {"scores": np.full((3, 2, 2), np.inf, np.float32)}, {"scores": np.zeros((3, 2, 4), np.float32)[..., ::2]},
        {"scale_y": -1.0}, {"offset_x": float("nan")}, {"iterations": -1}, {"iterations": 10**6},
        {"labels": np.zeros((9, 8), np.uint8)}, {"labels": np.zeros((8, 9), np.int16)},
        {"labels": np.zeros((8, 18), np.uint8)[:, ::2]}, {"marginals": np.zeros((2, 8, 9), np.float32)},
        {"marginals": np.zeros((3, 8, 9), np.float64)},
    ],
)  # fmt: skip
def test_the_extension_refuses_arrays_that_it_cannot_use(change: dict[str, object]) -> None:
    crf = _native.DenseCRF(**GOOD)  # type: ignore[arg-type]
    good: dict[str, object] = {
        "image": np.zeros((8, 9, 3), np.uint8), "scores": np.zeros((3, 2, 2), np.float32), "scale_y": 0.2,
        "offset_y": 0.0, "scale_x": 0.2, "offset_x": 0.0, "iterations": 2, "labels": None, "marginals": None,
    }  # fmt: skip
    with pytest.raises(ValueError):
        crf.infer(**{**good, **change})  # type: ignore[arg-type]
    crf.infer(**good)  # type: ignore[arg-type]
