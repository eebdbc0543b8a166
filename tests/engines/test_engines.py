"""One contract, every backend: whatever runs a network gives what the torch reference gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.base import BatchSession, Engine, EngineError, EngineOptions, Model, Session
from tests.engines.support import (
    LABELS,
    REFERENCE,
    TF32,
    WAIT_S,
    backends,
    open_engine_for,
    picture,
    score,
)

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Case:
    model: str
    size: tuple[int, int]
    scores: tuple[int, int, int]


EXPORTED = (pytest.mark.slow, pytest.mark.timeout(900))
"""Torch takes its time to export a hundred layers."""

CASES = [
    Case("street", (96, 128), (11, 24, 32)),
    Case("street", (80, 240), (11, 20, 60)),
    Case("voc", (97, 129), (21, 7, 9)),
    Case("voc", (129, 65), (21, 9, 5)),
    # Networks of the registry: an eighth as wide, and (those that a test may wait for) whole.
    *(
        pytest.param(Case(f"narrow {name}", (65, 97), shape), marks=EXPORTED)
        for name, shape in {
            "deeplabv2-vgg16-largefov": (21, 9, 13),
            "deeplabv2-vgg16-aspp-s": (21, 9, 13),
            "deeplabv2-vgg16-aspp-l": (21, 9, 13),
            "deeplabv2-resnet101-largefov": (21, 9, 13),
            "deeplabv2-resnet101-aspp": (21, 9, 13),
            "deeplabv3-resnet50": (21, 5, 7),
            "deeplabv3-resnet101": (21, 5, 7),
            "deeplabv3-mobilenetv2": (21, 5, 7),
            "deeplabv3-mobilenetv2-pooled": (21, 5, 7),
            "deeplabv3-mobilenetv3-large": (21, 5, 7),
            "deeplabv3plus-resnet50": (21, 17, 25),
            "deeplabv3plus-resnet101": (21, 17, 25),
            "deeplabv3plus-mobilenetv3-large": (21, 17, 25),
            "deeplabv3plus-efficientnet-lite0": (21, 17, 25),
            "deeplabv3plus-efficientnet-lite2": (21, 17, 25),
        }.items()
    ),
    *(
        pytest.param(Case(name, (129, 161), shape), marks=EXPORTED)
        for name, shape in {
            "deeplabv2-vgg16-aspp-l": (21, 17, 21),
            "deeplabv2-resnet101-aspp": (21, 17, 21),
            "deeplabv3-resnet101": (21, 9, 11),
            "deeplabv3-mobilenetv3-large": (21, 9, 11),
        }.items()
    ),
]


@pytest.fixture(scope="session")
def opened(models: dict[str, Model]) -> Iterator[Callable[[str, str], Engine]]:
    """Engines by backend and model, for two requests on one thread; opened once."""
    engines: dict[tuple[str, str], Engine] = {}

    def get(backend: str, model: str) -> Engine:
        key = (backend, model)
        if key not in engines:
            options = EngineOptions(precision="fp32", threads=1, requests=2)
            engines[key] = open_engine(models[model], backend, options)
        return engines[key]

    yield get
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.model}-{c.size[1]}x{c.size[0]}")
@backends
def test_scores_equal_the_reference(backend: str, case: Case, opened: Callable[[str, str], Engine]) -> None:
    session = opened(backend, case.model).session(*case.size)
    assert session.input_size == case.size
    assert session.score_shape == case.scores
    image = picture(case.size)
    kept = image.copy()
    scores = score(session, image)
    reference = score(opened(REFERENCE, case.model).session(*case.size), image)
    assert np.isfinite(reference).all()
    assert reference.std() > 0.1
    tolerance, agreeing = (1e-2, 0.99) if backend in TF32 else (1e-4, 0.999)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=tolerance * np.abs(reference).max())
    assert (scores.argmax(0) == reference.argmax(0)).mean() > agreeing
    assert (image == kept).all()


@backends
def test_engine_tells_what_it_is(backend: str, opened: Callable[[str, str], Engine]) -> None:
    engine = opened(backend, "street")
    assert isinstance(engine, Engine)
    assert isinstance(engine.session(96, 128), Session)
    assert engine.model.name == "street"
    assert (engine.info.backend, engine.info.precision, engine.info.requests) == (backend, "fp32", 2)
    assert engine.info.version
    assert engine.info.device
    assert (engine.input.dtype, engine.input.shape, engine.input.kind) == ("uint8", (1, -1, -1, 3), "rgb8")
    assert (engine.output.dtype, engine.output.shape, engine.output.kind) == ("float32", (1, 11, -1, -1), "scores")


@backends
def test_scores_land_in_the_callers_array_and_nowhere_else(backend: str, opened: Callable[[str, str], Engine]) -> None:
    session = opened(backend, "street").session(96, 128)
    image = picture((96, 128))
    plain = score(session, image)
    # As in the stream's ring: neighbours before and behind, and no alignment but that of a float.
    ring = np.full(plain.size + 38, 7.5, np.float32)
    out = ring[19:-19].reshape(plain.shape)
    session.start(image, out).wait(WAIT_S)
    assert (out == plain).all()
    assert (ring[:19] == 7.5).all()
    assert (ring[-19:] == 7.5).all()


@backends
def test_a_readonly_picture_is_taken(backend: str, opened: Callable[[str, str], Engine]) -> None:
    session = opened(backend, "street").session(96, 128)
    image = picture((96, 128))
    plain = score(session, image)
    image.flags.writeable = False
    assert (score(session, image) == plain).all()


@backends
def test_two_requests_in_flight_keep_apart(backend: str, opened: Callable[[str, str], Engine]) -> None:
    session = opened(backend, "street").session(96, 128)
    images = [picture((96, 128), seed) for seed in range(2)]
    alone = [score(session, image) for image in images]
    assert not np.allclose(*alone)
    for _ in range(5):
        together = [np.full(session.score_shape, np.nan, np.float32) for _ in images]
        requests = [session.start(image, out) for image, out in zip(images, together, strict=True)]
        for request in reversed(requests):  # in any order
            request.wait(WAIT_S)
            request.wait(WAIT_S)  # and again: harmless
        assert all((a == b).all() for a, b in zip(alone, together, strict=True))


@backends
def test_one_thread_starts_while_another_waits(backend: str, opened: Callable[[str, str], Engine]) -> None:
    """As the stream uses it: a starter and a collector."""
    session = opened(backend, "street").session(96, 128)
    images = [picture((96, 128), seed) for seed in range(4)]
    alone = [score(session, image) for image in images]
    places, done = threading.Semaphore(2), []
    flying: list[tuple[int, object, np.ndarray]] = []
    filled = threading.Semaphore(0)

    def start() -> None:
        for index in range(12):
            places.acquire(timeout=WAIT_S)
            out = np.full(session.score_shape, np.nan, np.float32)
            flying.append((index, session.start(images[index % 4], out), out))
            filled.release()

    starter = threading.Thread(target=start)
    starter.start()
    for _ in range(12):
        assert filled.acquire(timeout=WAIT_S)
        index, request, out = flying.pop(0)
        request.wait(WAIT_S)  # type: ignore[attr-defined]
        places.release()
        done.append(index)
        assert (out == alone[index % 4]).all()
    starter.join(WAIT_S)
    assert done == list(range(12))


@backends
def test_python_runs_meanwhile(backend: str, opened: Callable[[str, str], Engine]) -> None:
    """The interpreter's lock is free while the network runs: other stages are Python threads too."""
    session = opened(backend, "street").session(320, 480)
    image = picture((320, 480))
    score(session, image)
    ticks, stop = [0.0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    began = time.perf_counter()
    score(session, image)
    took = time.perf_counter() - began
    stop.set()
    ticker.join(WAIT_S)
    inside = [moment for moment in ticks if began < moment < began + took]
    assert len(inside) > 3, f"{len(inside)} ticks of 1 ms in {took * 1e3:.0f} ms"


def test_waiting_can_time_out_and_go_on(opened: Callable[[str, str], Engine]) -> None:
    session = opened("openvino", "street").session(320, 480)
    image = picture((320, 480))
    out = np.full(session.score_shape, np.nan, np.float32)
    request = session.start(image, out)
    with pytest.raises(EngineError, match="not finished within 0 s"):
        request.wait(0)
    request.wait(WAIT_S)
    assert (out == score(session, image)).all()


@backends
@pytest.mark.parametrize(
    ("image", "out", "words"),
    [
        (np.zeros((96, 127, 3), np.uint8), (11, 24, 32), "picture is 96×127×3 uint8, not 96×128×3 uint8"),
        (np.zeros((96, 128, 3), np.float32), (11, 24, 32), "picture is 96×128×3 float32"),
        (np.zeros((96, 256, 3), np.uint8)[:, ::2], (11, 24, 32), "picture is not contiguous"),
        ([[0]], (11, 24, 32), "picture is a list"),
        (np.zeros((96, 128, 3), np.uint8), (11, 24, 31), "score array is 11×24×31 float32, not 11×24×32"),
        (np.zeros((96, 128, 3), np.uint8), np.zeros((11, 24, 32), np.float64), "score array is .* float64"),
        (np.zeros((96, 128, 3), np.uint8), np.zeros((32, 24, 11), np.float32).T, "score array is not contig"),
    ],
)
def test_wrong_arrays_are_refused(
    backend: str, image: np.ndarray, out: object, words: str, opened: Callable[[str, str], Engine]
) -> None:
    session = opened(backend, "street").session(96, 128)
    target = np.zeros(out, np.float32) if isinstance(out, tuple) else out
    for _ in range(3):  # a refusal costs no place
        with pytest.raises(EngineError, match=words):
            session.start(image, target)  # type: ignore[arg-type]
    score(session, picture((96, 128)))


@backends
def test_a_readonly_score_array_is_refused(backend: str, opened: Callable[[str, str], Engine]) -> None:
    session = opened(backend, "street").session(96, 128)
    out = np.zeros(session.score_shape, np.float32)
    out.flags.writeable = False
    with pytest.raises(EngineError, match="read-only"):
        session.start(picture((96, 128)), out)


@backends
def test_too_many_requests_are_refused_over_all_sizes(backend: str, opened: Callable[[str, str], Engine]) -> None:
    engine = opened(backend, "street")
    small, large = engine.session(96, 128), engine.session(80, 240)
    requests = [s.start(picture(s.input_size), np.empty(s.score_shape, np.float32)) for s in (small, large)]
    with pytest.raises(EngineError, match="2 requests are unfinished"):
        small.start(picture((96, 128)), np.empty(small.score_shape, np.float32))
    for request in requests:
        request.wait(WAIT_S)
    score(small, picture((96, 128)))


@backends
@pytest.mark.parametrize(("model", "size"), [("street", (96, 128)), ("voc", (65, 97))])
def test_a_batch_gives_what_its_pictures_give_alone(
    backend: str, model: str, size: tuple[int, int], models: dict[str, Model]
) -> None:
    """Where the engine declares that it takes batches."""
    assert models[model].batches
    with open_engine_for(models[model], backend, EngineOptions("fp32", threads=1, batch=3)) as engine:
        assert engine.info.max_batch in (1, 3)
        if engine.info.max_batch == 1:
            return
        session = engine.session(*size)
        assert isinstance(session, BatchSession)
        images = [picture(size, seed) for seed in range(3)]
        alone = [score(session, image) for image in images]
        for count in (3, 1, 2):
            outs = [np.full(session.score_shape, np.nan, np.float32) for _ in range(count)]
            session.start_batch(images[:count], outs).wait(WAIT_S)
            for scores, single in zip(outs, alone, strict=False):
                np.testing.assert_allclose(scores, single, rtol=0, atol=1e-4 * np.abs(single).max())
        for count in (0, 4):
            with pytest.raises(EngineError, match=f"a batch of {count} pictures: .* opened for 1 to 3 at once"):
                session.start_batch(images[:1] * count, outs[:1] * count)


@backends
def test_precisions_that_cannot_be_are_refused(backend: str, models: dict[str, Model]) -> None:
    with pytest.raises(EngineError, match="int8 needs a model"):
        open_engine(models["street"], backend, EngineOptions(precision="int8"))
    with pytest.raises(EngineError, match="no precision 'half'"):
        open_engine(models["street"], backend, EngineOptions(precision="half"))


@backends
def test_a_broken_model_is_one_line(backend: str, models: dict[str, Model], tmp_path: Path) -> None:
    whole = models["street"].path.read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError) as caught:
        open_engine(replace(models["street"], path=broken), backend)
    assert "broken.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@backends
def test_labels_that_do_not_fit_the_scores_are_refused(backend: str, models: dict[str, Model]) -> None:
    wrong = replace(models["street"], labels=LABELS)
    with open_engine_for(wrong, backend) as engine, pytest.raises(EngineError, match="11 classes but 4 labels"):
        engine.session(96, 128)
