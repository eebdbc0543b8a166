"""The native CRF on fields of all kinds: against the sums over all pairs, pydensecrf, and its own modes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.pictures import synthetic
from pipeline.crf import CRFParameters, DenseCRF
from pipeline.crf.scores import behind_the_best, unary_energy, upsample
from pipeline.frame import Geometry
from tests.pipeline.test_crf import brute_force, scene
from tests.pipeline.test_crf_native import NARROW, WIDE, marginals, need_pydensecrf

pytestmark = pytest.mark.timeout(60)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_field_is_refused_or_has_a_distribution(data: st.DataObject) -> None:
    """Odd sizes, classes, deviations, scores of any magnitude."""
    draw = data.draw
    height, width = draw(st.sampled_from([(1, 1), (1, 37), (29, 1), (2, 3), (7, 11), (16, 17), (18, 16)]))
    classes = draw(st.sampled_from([1, 2, 3, 9, 24, 33, 255]))
    sigma = st.sampled_from([1e-300, 1e-6, 0.05, 0.25, 0.4, 1.0, 3.0, 40.0, 1e6])
    parameters = CRFParameters(
        draw(st.sampled_from([0.0, 1.0, 4.0, 60.0])), draw(sigma), draw(st.sampled_from([0.0, 3.0, 90.0])), draw(sigma),
        draw(sigma), draw(st.integers(0, 3)), draw(st.sampled_from(["symmetric", "after"])),
    )  # fmt: skip
    mode, threads = draw(st.sampled_from(["exact", "pruned", "live"])), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    scores = rng.normal(0, draw(st.sampled_from([0.0, 1.0, 1e3, 1e37])), (classes, 2, 3)).astype(np.float32)
    try:
        crf = DenseCRF(height, width, classes, parameters, mode=mode, threads=threads)
    except ValueError as error:
        assert "too small" in str(error)
        assert min(parameters.pos_xy, parameters.bi_xy, parameters.bi_rgb) < 0.5
        return
    found = crf.marginals(image, scores)
    assert np.isfinite(found).all()
    assert found.sum(0).max() < 1 + 1e-3
    if mode == "exact":
        assert found.sum(0).min() > 1 - 1e-3
    assert crf.labels(image, scores).max(initial=0) < classes


@dataclass(frozen=True, slots=True)
class Field:
    """A picture, its scores, and the energy."""

    image: NDArray[np.uint8]
    scores: NDArray[np.float32]
    parameters: CRFParameters

    def inferred(self, **options: str) -> NDArray[np.float32]:
        """Marginals; another example is taken if the lattice does not fit its keys."""
        height, width = self.image.shape[:2]
        try:
            crf = DenseCRF(height, width, len(self.scores), self.parameters, **options)  # type: ignore[arg-type]
        except ValueError as error:
            assert "too small" in str(error)
            reject()
        return crf.marginals(self.image, self.scores)


@st.composite
def fields(draw: st.DrawFn) -> Field:
    """Noise, blobs and one colour; no ties, and no weights by which a rounding would become a label."""
    height, width = draw(st.sampled_from([(1, 37), (29, 1), (7, 11), (16, 17), (18, 16)]))
    classes = draw(st.sampled_from([2, 3, 9, 24, 33]))
    sigma = st.sampled_from([0.25, 0.4, 1.0, 3.0, 40.0, 1e6])
    parameters = CRFParameters(
        draw(st.sampled_from([0.0, 1.0, 4.0])), draw(sigma), draw(st.sampled_from([0.0, 3.0])), draw(sigma),
        draw(sigma), draw(st.integers(0, 2)), draw(st.sampled_from(["symmetric", "after"])),
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = {
        "noise": rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "blobs": scene(height, width, classes)[0],
        "flat": np.full((height, width, 3), 77, np.uint8),
    }[draw(st.sampled_from(["noise", "blobs", "flat"]))]
    scores = rng.normal(0, draw(st.sampled_from([1.0, 5.0, 1e3])), (classes, 2, 3)).astype(np.float32)
    return Field(image, scores, parameters)


@settings(max_examples=25, deadline=None)
@given(field=fields())
def test_exact_is_close_to_the_sums_over_all_pairs(field: Field) -> None:
    """The lattice approximates them; without a kernel every sixth example would be beyond these bounds."""
    size = field.image.shape[:2]
    energy = unary_energy(upsample(behind_the_best(field.scores), Geometry(*size, *size, *size)))
    found, right = field.inferred(), brute_force(field.image, energy, field.parameters)
    if field.parameters.iterations == 0:
        np.testing.assert_allclose(found, right, atol=1e-4)
    assert np.abs(found - right).sum(0).mean() / 2 < 0.08
    assert (found.argmax(0) == right.argmax(0)).mean() > 0.85


@settings(max_examples=60, deadline=None)
@given(field=fields())
def test_exact_is_pydensecrf(field: Field) -> None:
    need_pydensecrf()
    np.testing.assert_allclose(field.inferred(), field.inferred(backend="pydensecrf"), atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(field=fields())
def test_pruned_is_exact(field: Field) -> None:
    same = field.inferred().argmax(0) == field.inferred(mode="pruned").argmax(0)
    assert same.mean() > 0.95


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
@pytest.mark.parametrize("weight", [0.3, 0.7, 0.9, 1.2, 2.0, 3.0, 6.0])
def test_a_class_that_messages_lift_above_its_rivals_is_alive(weight: float, normalization: str) -> None:
    """Two rivals take turns, and the third, a little behind both of them, wins all in between or nothing."""
    x = np.linspace(-1, 1, 17)
    image = np.full((24, 64, 3), 128, np.uint8)
    parameters = CRFParameters(weight / 2, 10, weight / 2, 30, 10, 10, normalization)
    left_out = 0
    for ahead in (0.02, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8, 2.5, 3.5):
        one, two = ahead - 6 * np.maximum(x, 0), ahead + 6 * np.minimum(x, 0)
        logits = np.stack([one, two, 0 * x])[:, None].repeat(2, 1).astype(np.float32)
        exact = DenseCRF(24, 64, 3, parameters).labels(image, logits)
        crf = DenseCRF(24, 64, 3, parameters, mode="pruned")
        found = crf.labels(image, logits)
        assert crf.stats is not None
        left_out += crf.stats.classes == 2
        if (exact == 2).any():
            assert crf.stats.classes == 3, ahead
        assert (found == exact).mean() > 0.999, ahead
    assert left_out > 0


@pytest.mark.parametrize("mode", ["pruned", "live"])
def test_classes_left_out_stay_behind_between_cells_that_differ(mode: str) -> None:
    """Each cell has another of them near its winner: interpolated, their sum is more than any of them."""
    logits = np.random.default_rng(0).normal(0, 1e3, (9, 2, 3)).astype(np.float32)
    image = np.full((16, 24, 3), 77, np.uint8)
    exact, found = (DenseCRF(16, 24, 9, NARROW, mode=which) for which in ("exact", mode))
    for iterations in (0, 3):
        same = found.labels(image, logits, iterations=iterations) == exact.labels(image, logits, iterations=iterations)
        assert same.mean() > 0.98, iterations


def test_weights_that_lift_any_class_leave_none_out() -> None:
    """Where a probability at its lower bound is enough to win by, all are alive."""
    picture = synthetic((40, 60), 21, 6)
    picture.logits[6:] -= 60
    crf = DenseCRF(40, 60, 21, CRFParameters(1e5, 3, 1e5, 10, 3, 2), mode="pruned")
    crf.labels(picture.image, picture.logits, geometry=picture.geometry)
    assert crf.stats is not None
    assert crf.stats.classes == 21


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
@pytest.mark.parametrize("mode", ["exact", "pruned", "live"])
def test_a_kernel_without_weight_changes_nothing(mode: str, normalization: str) -> None:
    """It is as if its weight were too small to be seen."""
    picture = synthetic((60, 80), 11, 6)
    for change in ({"pos_w": 0.0}, {"bi_w": 0.0}, {"pos_w": 0.0, "bi_w": 0.0}):
        without = replace(WIDE, normalization=normalization, **change)
        small = replace(WIDE, normalization=normalization, **dict.fromkeys(change, 1e-30))
        for threads in (1, 2):
            crf = DenseCRF(60, 80, 11, without, mode=mode, threads=threads)
            found = crf.marginals(picture.image, picture.logits, geometry=picture.geometry, iterations=3)
            np.testing.assert_allclose(found, marginals(picture, small, 3, mode=mode), atol=1e-5)
            assert crf.stats is not None
            assert (crf.stats.vertices == 0) == ("bi_w" in change)


@pytest.mark.parametrize("mode", ["exact", "pruned", "live"])
def test_no_iterations_build_no_lattice(mode: str) -> None:
    picture = synthetic((60, 80), 11, 6)
    crf = DenseCRF(60, 80, 11, WIDE, mode=mode)
    for iterations in (3, 0, 3):
        crf.labels(picture.image, picture.logits, geometry=picture.geometry, iterations=iterations)
        assert crf.stats is not None
        assert (crf.stats.vertices > 0) == (iterations > 0)
