"""The CRF's face, and the backends behind it, against the textbook's sums over all pairs of pixels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.crf import BACKENDS, CRFParameters, DenseCRF
from pipeline.crf.scores import probabilities, unary_energy, upsample
from pipeline.errors import ConfigError
from pipeline.frame import Geometry
from tests.conftest import absent

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each of them: what is tested with it holds for all."""
    if request.param == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        absent("pydensecrf (extra crf-reference)")
    return str(request.param)


def scene(height: int, width: int, classes: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Smooth blobs of colour, and coarse scores that are right on the whole."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    label = ((rows // max(1, height // 2)) * 2 + columns // max(1, width // 2)) % classes
    palette = rng.integers(30, 220, (classes, 3))
    image = (palette[label] + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)
    coarse = label[::4, ::4]
    scores = rng.normal(0, 1, (classes, *coarse.shape)) + 2 * (np.arange(classes)[:, None, None] == coarse)
    return image, scores.astype(np.float32)


def brute_force(image: NDArray[np.uint8], energy: NDArray[np.float32], p: CRFParameters) -> NDArray[np.float64]:
    """Mean field by plain float64 sums over all pairs."""
    height, width = image.shape[:2]
    place = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)

    def kernel(features: NDArray[np.float64]) -> NDArray[np.float64]:
        distance = ((features[:, None] - features[None]) ** 2).sum(-1)
        return np.exp(-0.5 * distance)

    def message(k: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        total = k.sum(axis=1)
        if p.normalization == "after":
            return q @ k / total
        return (q / np.sqrt(total)) @ k / np.sqrt(total)

    smooth, appearance = kernel(place / p.pos_xy), kernel(np.hstack([place / p.bi_xy, colour / p.bi_rgb]))
    unary = energy.reshape(energy.shape[0], -1).astype(np.float64)
    q = probabilities(-unary)
    for _ in range(p.iterations):
        q = probabilities(-unary + p.pos_w * message(smooth, q) + p.bi_w * message(appearance, q))
    return q.reshape(energy.shape)


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_close_to_brute_force(backend: str, normalization: str, iterations: int) -> None:
    """The lattice is an approximation of the sums: labels agree but for near ties."""
    image, scores = scene(20, 28, 4)
    parameters = CRFParameters(3, 3, 4, 20, 20, iterations, normalization)
    crf = DenseCRF(20, 28, 4, parameters, backend=backend)
    exact = brute_force(image, unary_energy(upsample(scores, Geometry(20, 28, 20, 28, 20, 28))), parameters)
    found = crf.marginals(image, scores)
    assert np.abs(found - exact).mean() < (1e-5 if iterations == 0 else 0.03)
    assert (found.argmax(0) == exact.argmax(0)).mean() > (0.999 if iterations == 0 else 0.97)


def test_it_does_what_it_is_for(backend: str) -> None:
    image, scores = scene(48, 64, 4)
    truth = ((np.mgrid[:48, :64][0] // 24) * 2 + np.mgrid[:48, :64][1] // 32) % 4
    crf = DenseCRF(48, 64, 4, CRFParameters(3, 3, 5, 30, 15), backend=backend)
    before = (crf.labels(image, scores, iterations=0) == truth).mean()
    after = (crf.labels(image, scores) == truth).mean()
    assert after > before + 0.05
    assert after > 0.9


def test_labels_are_the_best_marginals_and_out_is_filled(backend: str) -> None:
    image, scores = scene(17, 23, 5)
    crf = DenseCRF(17, 23, 5, CRFParameters(iterations=2), backend=backend)
    marginals = crf.marginals(image, scores)
    assert marginals.shape == (5, 17, 23)
    assert marginals.dtype == np.float32
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-5)
    out, q = np.zeros((17, 23), np.uint8), np.zeros((5, 17, 23), np.float32)
    assert crf.labels(image, scores, out=out) is out
    assert crf.marginals(image, scores, out=q) is q
    np.testing.assert_array_equal(out, marginals.argmax(0))
    np.testing.assert_array_equal(q, marginals)
    np.testing.assert_array_equal(crf.labels(image, scores), out)
    strided = np.zeros((17, 46), np.uint8)[:, ::2]
    np.testing.assert_array_equal(crf.labels(image, scores, out=strided), out)


def test_arrays_may_be_strided_and_half_precision(backend: str) -> None:
    image, scores = scene(16, 20, 3)
    scores = scores.astype(np.float16).astype(np.float32)
    crf = DenseCRF(16, 20, 3, CRFParameters(iterations=2), backend=backend)
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, ::2] = image
    expected = crf.marginals(image, scores)
    np.testing.assert_array_equal(crf.marginals(wide[:, ::2], np.asfortranarray(scores)), expected)
    np.testing.assert_array_equal(crf.marginals(image, scores.astype(np.float16)), expected)


@pytest.mark.parametrize("align", [False, True])
def test_scores_are_spread_by_the_geometry(align: bool) -> None:
    """A ramp in the frame's coordinates, sampled where the geometry says that the scores lie, comes back."""
    geometry = Geometry.fit(45, 80, size=33, multiple=8, align_corners=align)
    rows, columns = (5, 8) if align else (geometry.input_height // 8, geometry.input_width // 8)
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(rows, columns)
    y = (np.arange(rows) - offset_y) / scale_y
    x = (np.arange(columns) - offset_x) / scale_x
    ramp = (2 * y[:, None] + 3 * x)[None].astype(np.float32)
    found = upsample(ramp, geometry)[0]
    inside = (slice(max(0, int(np.ceil(y[0]))), int(y[-1]) + 1), slice(max(0, int(np.ceil(x[0]))), int(x[-1]) + 1))
    expected = 2 * np.arange(45)[:, None] + 3 * np.arange(80)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    assert found[0, 0] >= ramp.min()
    assert found[-1, -1] <= ramp.max()


@pytest.mark.parametrize(("height", "width", "classes"), [(1, 40, 3), (40, 1, 3), (1, 1, 2), (9, 9, 1), (8, 8, 255)])
def test_odd_sizes(backend: str, height: int, width: int, classes: int) -> None:
    image, _ = scene(height, width, 3)
    scores = np.random.default_rng(1).normal(size=(classes, 2, 2)).astype(np.float32)
    crf = DenseCRF(height, width, classes, CRFParameters(iterations=2), backend=backend)
    found = crf.marginals(image, scores)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


GOOD = {"pos_w": 3, "pos_xy": 1, "bi_w": 4, "bi_xy": 67, "bi_rgb": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_w": -1}, "pos_w is a weight from 0 to 1e\\+06, not -1"),
        ({"bi_w": 1e7}, "bi_w is a weight from 0"),
        ({"pos_w": 10**400}, "pos_w is a finite number, not 1000"),
        ({"pos_xy": 1j}, "pos_xy is a finite number"),
        ({"bi_xy": 0}, "bi_xy is a standard deviation and must be above 0"),
        ({"bi_rgb": float("nan")}, "bi_rgb is a finite number"),
        ({"pos_xy": "3"}, "pos_xy is a finite number, not '3'"),
        ({"bi_w": True}, "bi_w is a finite number"),
        ({"iterations": -1}, "iterations is a whole number from 0"),
        ({"iterations": 2.5}, "iterations is a whole number"),
        ({"normalization": "before"}, "'symmetric' or 'after', not 'before'"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRFParameters(**{**GOOD, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 9, 3), np.float32)}, "image is of float32, not uint8"),
        ({"image": np.zeros((9, 8, 3), np.uint8)}, r"image is \(9, 8, 3\), not \(8, 9, 3\)"),
        ({"image": [[1]]}, "image is a list"),
        ({"logits": np.zeros((4, 2, 2), np.float32)}, r"logits are \(4, 2, 2\), not \(3, rows, columns\)"),
        ({"logits": np.zeros((3, 4), np.float32)}, "logits are"),
        ({"logits": np.zeros((3, 0, 2), np.float32)}, "logits are"),
        ({"logits": np.zeros((3, 2, 2), np.float64)}, "logits is of float64, not float32 or float16"),
        ({"logits": np.full((3, 2, 2), np.nan, np.float32)}, "logits contain NaN or infinite values"),
        ({"logits": np.full((3, 2, 2), np.inf, np.float16)}, "logits contain NaN or infinite values"),
        ({"geometry": Geometry(9, 8, 9, 8, 16, 16)}, "geometry is for pictures of 9×8, not 8×9"),
        ({"geometry": "x"}, "geometry is a str, not a Geometry"),
        ({"geometry": Geometry(8, 9, 0, 0, 0, 0)}, "geometry has an empty picture or input"),
        ({"iterations": -2}, "iterations is"),
        ({"out": np.zeros((8, 9), np.int64)}, "out is of int64, not uint8"),
        ({"out": np.zeros((9, 8), np.uint8)}, r"out is \(9, 8\), not \(8, 9\)"),
        ({"out": np.broadcast_to(np.uint8(0), (8, 9))}, "out cannot be written to"),
    ],
)
def test_bad_input_is_refused(backend: str, change: dict[str, object], message: str) -> None:
    crf = DenseCRF(8, 9, 3, CRFParameters(), backend=backend)
    good = {"image": np.zeros((8, 9, 3), np.uint8), "logits": np.zeros((3, 2, 2), np.float32)}
    given = {**good, **change}
    with pytest.raises(ValueError, match=message):
        crf.labels(given.pop("image"), given.pop("logits"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "height is a whole number from 1"),
        ({"classes": 0}, "1 to 255, not 0"),
        ({"classes": 256}, "1 to 255, not 256"),
        ({"mode": "fast"}, "exact, pruned, live"),
        ({"mode": "live", "backend": "pydensecrf"}, "native kernels"),
        ({"height": 8.5}, "height is a whole number from 1 to 65535, not 8.5"),
        ({"height": "8"}, "height is a whole number from 1 to 65535, not '8'"),
        ({"width": 10**10}, "width is a whole number"),
        ({"height": 60000, "width": 60000}, "more than 134217728 pixels"),
        ({"classes": True}, "classes is a whole number from 1 to 255, not True"),
        ({"threads": 0}, "threads is a whole number from 1 to 256, not 0"),
        ({"threads": 1.0}, "threads is a whole number"),
        ({"parameters": None}, "parameters is a NoneType, not CRFParameters"),
        *(
            ({"parameters": parameters, "backend": backend}, message)
            for backend in BACKENDS
            for parameters, message in (
                (CRFParameters(pos_xy=0.0001), "pos_xy: too small for this picture"),
                (CRFParameters(bi_rgb=0.01), "bi_rgb: too small"),
            )
        ),
    ],
)
def test_a_crf_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    given = {"height": 8, "width": 9, "classes": 3, "parameters": CRFParameters(), **arguments}
    with pytest.raises(ValueError, match=message):
        DenseCRF(**given)  # type: ignore[arg-type]


def test_numbers_may_be_numpys() -> None:
    image, scores = scene(8, 9, 3)
    parameters = CRFParameters(np.float32(3), np.float64(1), 4, 67, 3, np.int64(2))
    assert parameters == CRFParameters(iterations=2)
    assert [type(value) for value in (parameters.pos_w, parameters.iterations)] == [float, int]
    crf = DenseCRF(np.int64(8), np.uint8(9), np.int32(3), parameters, threads=np.int64(1))
    np.testing.assert_array_equal(crf.labels(image, scores, iterations=np.int64(2)), crf.labels(image, scores))


def test_scores_of_any_size_are_a_distribution(backend: str) -> None:
    """Differences of the largest numbers overflow, unless they are taken before anything is summed up."""
    scores = np.random.default_rng(0).choice([-3e38, 3e38], (3, 2, 2)).astype(np.float32)
    found = DenseCRF(8, 9, 3, CRFParameters(iterations=2), backend=backend).marginals(
        np.zeros((8, 9, 3), np.uint8), scores
    )
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_a_missing_backend_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.crf.dense.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'deeplab-stream\[crf-reference\]'"):
        DenseCRF(8, 9, 3, CRFParameters(), backend="pydensecrf")
    DenseCRF(8, 9, 3, CRFParameters())
    with pytest.raises(ConfigError, match="'gpu' is unknown: choose from native, pydensecrf"):
        DenseCRF(8, 9, 3, CRFParameters(), backend="gpu")


def test_importing_the_face_imports_no_backend() -> None:
    program = "import sys, pipeline.crf; print([name for name in sys.modules if 'densecrf' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "[]\n"
