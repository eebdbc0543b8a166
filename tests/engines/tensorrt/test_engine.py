"""The engine of TensorRT: scores, order, memory, graphs; on fakes, and the same on a GPU."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.base import (
    BatchSession,
    EngineError,
    EngineOptions,
    FrameSession,
    Model,
    PageLocking,
    Session,
)
from tests.engines.support import WAIT_S, open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine, expected

pytestmark = pytest.mark.timeout(600)  # a real plan takes its time

SIZE = (32, 48)


def blank(session: Session) -> np.ndarray:
    return np.full(session.score_shape, np.nan, np.float32)


def test_scores_are_the_networks(machine: Machine, small: Model, dynamic: Model) -> None:
    for model in (small, dynamic):
        with open_engine_for(model, "tensorrt", EngineOptions("fp32")) as engine:
            assert engine.info.backend == "tensorrt"
            assert engine.info.version == machine.trt.__version__
            assert engine.info.precision == "fp32"
            image = picture(SIZE, 1)
            found = score(engine.session(*SIZE), image)
            np.testing.assert_allclose(found, expected(model, image), rtol=1e-3, atol=1e-2)


def test_the_real_network_in_half_precision(machine: Machine, models: dict[str, Model]) -> None:
    """street, whose labels hold in it, takes it by itself."""
    model, image = models["street"], picture((96, 128))
    with open_engine_for(model, "openvino", EngineOptions("fp32", threads=1)) as engine:
        plain = score(engine.session(96, 128), image)
    with open_engine_for(model, "tensorrt", EngineOptions("auto")) as engine:
        assert engine.info.precision == "fp16"
        half = score(engine.session(96, 128), image)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.2
    assert (half.argmax(0) == plain.argmax(0)).mean() > 0.99


def test_scores_that_stay_in_half_precision_are_the_same(machine: Machine, dynamic: Model, tmp_path: Path) -> None:
    image, options = picture(SIZE), EngineOptions("fp16", cache=tmp_path / "cache", batch=2)
    with open_engine_for(dynamic, "tensorrt", options) as engine:
        whole = score(engine.session(*SIZE), image)
    with open_engine_for(dynamic, "tensorrt", replace(options, half_scores=True)) as engine:
        assert engine.info.half_scores
        assert engine.output.dtype == "float16"
        session = engine.session(*SIZE)
        assert isinstance(session, BatchSession)
        outs = [np.full(session.score_shape, np.nan, np.float16) for _ in range(2)]
        session.start_batch([image, image], outs).wait(WAIT_S)
        assert isinstance(session, FrameSession)
        assert not session.takes("nv12"), "our kernels read single precision"
        with pytest.raises(EngineError, match=r"score array is .* float32, not .* float16"):
            session.start(image, blank(session))
    for out in outs:
        np.testing.assert_allclose(out, whole, rtol=0, atol=2e-3 * np.abs(whole).max())
    assert len(list((tmp_path / "cache").glob("*.plan"))) == 2
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", half_scores=True)) as engine:
        assert not engine.info.half_scores


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_requests_in_flight_do_not_disturb_each_other(machine: Machine, small: Model, requests: int) -> None:
    rounds = 4
    with open_engine_for(small, "tensorrt", EngineOptions("fp32", requests=requests)) as engine:
        session = engine.session(*SIZE)
        for turn in range(rounds):
            images = [picture(SIZE, turn * requests + i) for i in range(requests)]
            outs = [blank(session) for _ in images]
            flying = [session.start(image, out) for image, out in zip(images, outs, strict=True)]
            with pytest.raises(EngineError, match="requests are unfinished"):
                session.start(images[0], blank(session))
            for request in reversed(flying) if turn % 2 else flying:
                request.wait(WAIT_S)
                request.wait(0)  # harmless
            for image, out in zip(images, outs, strict=True):
                np.testing.assert_allclose(out, expected(small, image), rtol=1e-3, atol=1e-2)


def test_batches_of_all_sizes_in_any_order(machine: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2, batch=3)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, BatchSession)
        for turn, count in enumerate((2, 3, 1, 2, 1, 3, 3)):
            images = [picture(SIZE, 10 * turn + i) for i in range(count)]
            outs = [blank(session) for _ in images]
            session.start_batch(images, outs).wait(WAIT_S)
            for image, out in zip(images, outs, strict=True):
                np.testing.assert_allclose(out, expected(dynamic, image), rtol=1e-3, atol=1e-2)
        for count in (0, 4):
            with pytest.raises(EngineError, match=f"a batch of {count} pictures"):
                session.start_batch([picture(SIZE)] * count, [blank(session)] * count)
        with pytest.raises(EngineError, match="2 pictures and 1 score arrays"):
            session.start_batch([picture(SIZE)] * 2, [blank(session)])
        image = picture(SIZE, 99)
        np.testing.assert_allclose(score(session, image), expected(dynamic, image), rtol=1e-3, atol=1e-2)


def test_page_locked_memory_is_copied_without_a_detour(machine: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        ring = np.zeros(1 << 16, np.uint8)
        image = ring[: 3 * SIZE[0] * SIZE[1]].reshape(*SIZE, 3)
        out = ring[8192 : 8192 + blank(session).nbytes].view(np.float32).reshape(session.score_shape)
        assert isinstance(engine, PageLocking)
        engine.page_lock(ring)
        image[:] = picture(SIZE, 5)
        request = session.start(image, out)
        request.wait(WAIT_S)
        np.testing.assert_allclose(out, expected(dynamic, image), rtol=1e-3, atol=1e-2)
        if machine.cuda:
            # Until the GPU is there it reads the caller's own memory: what is in it then is what counts.
            second = session.start(image, out)
            image[:] = picture(SIZE, 6)
            second.wait(WAIT_S)
            np.testing.assert_allclose(out, expected(dynamic, image), rtol=1e-3, atol=1e-2)
        engine.page_unlock(ring)
        engine.page_unlock(ring)  # harmless
        again = blank(session)
        third = session.start(image, again)
        image[:] = 0  # it was copied before
        third.wait(WAIT_S)
        np.testing.assert_allclose(again, out, atol=1e-6)


def test_scores_are_not_touched_before_they_are_there(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        out = blank(session)
        request = session.start(picture(SIZE), out)
        assert np.isnan(out).all()
        with pytest.raises(EngineError, match="has not finished within 0 s"):
            request.wait(0)
        assert np.isnan(out).all()
        request.wait(WAIT_S)
        assert not np.isnan(out).any()


def test_streams_are_our_own_and_graphs_are_recorded_once(fake: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2, batch=2)) as engine:
        session = engine.session(*SIZE)
        assert len(fake.gpu.streams) == 2
        assert all(stream.flags == fake.gpu.cudaStreamNonBlocking for stream in fake.gpu.streams)
        for _ in range(6):
            for count in (1, 2):
                images = [picture(SIZE, count)] * count
                session.start_batch(images, [blank(session) for _ in images]).wait(WAIT_S)  # type: ignore[attr-defined]
        lanes, batches = 2, 2
        executed = [entry for entry in fake.trt.log if entry[1] == "execute_async_v3"]
        assert 0 not in [entry[2][0] for entry in executed]
        assert len(executed) <= lanes * batches * 2, "plain once, recorded once"
        assert fake.gpu.calls["cudaGraphInstantiate"] == len(executed) // 2
        assert fake.gpu.calls["cudaGraphLaunch"] == 12 - len(executed) // 2
        contexts = [entry for entry in fake.trt.log if entry[1] == "set_device_memory"]
        assert len(contexts) == len(executed) // 2, "a graph keeps a context of its own"


def test_what_cannot_be_recorded_runs_plainly(fake: Machine, small: Model, caplog: pytest.LogCaptureFixture) -> None:
    fake.trt.faults["capture"] = True
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        for seed in range(3):
            image = picture(SIZE, seed)
            np.testing.assert_allclose(score(session, image), expected(small, image), rtol=1e-3, atol=1e-2)
    assert caplog.text.count("without a CUDA graph") == 1
    assert "operation not permitted" in caplog.text
    assert fake.gpu.calls["cudaGraphLaunch"] == 0


def test_everything_is_given_back(fake: Machine, small: Model) -> None:
    engine = open_engine(small, "tensorrt", EngineOptions("fp32", requests=3, batch=1))
    session = engine.session(*SIZE)
    ring = np.zeros(4096, np.uint8)
    assert isinstance(engine, PageLocking)
    engine.page_lock(ring)
    score(session, picture(SIZE))
    forgotten = session.start(picture(SIZE), blank(session))
    assert fake.gpu.alive["Stream"] == 3
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.session(*SIZE)
    del session, forgotten, engine
    gc.collect()
    assert fake.gpu.alive == {}


def test_too_little_memory_is_told_and_leaves_nothing(fake: Machine, small: Model) -> None:
    engine = open_engine(small, "tensorrt", EngineOptions("fp32"))
    fake.gpu.fail["cudaMalloc"] = "cudaErrorMemoryAllocation"
    with pytest.raises(EngineError, match=r"CUDA failed to reserve \d+ MiB on the GPU: .*MemoryAllocation"):
        engine.session(*SIZE)
    engine.close()
    gc.collect()
    assert fake.gpu.alive == {}


def test_a_failure_on_the_gpu_is_told(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        request = session.start(picture(SIZE), blank(session))
        fake.gpu.fail["cudaEventQuery"] = "cudaErrorIllegalAddress"
        with pytest.raises(EngineError, match=r"CUDA failed to finish its work: .*IllegalAddress"):
            request.wait(WAIT_S)
        fake.gpu.fail.clear()
        score(session, picture(SIZE))  # its place is free again


def test_precisions_that_a_model_cannot_give_are_refused(fake: Machine, small: Model) -> None:
    with pytest.raises(EngineError, match="small is not quantised"):
        open_engine(small, "tensorrt", EngineOptions("int8"))
    with pytest.raises(EngineError, match="small is quantised to int8"):
        open_engine(replace(small, quantised=True), "tensorrt", EngineOptions("fp16"))


def test_auto_takes_tensorrt_where_it_is(
    fake: Machine, small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engines")
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setattr("engines.backends.AUTOMATIC_ON_GPU", ("tensorrt",))  # torch, after it, takes seconds to load
    engine = open_engine(small)
    assert engine.info.backend == "tensorrt"
    assert "(there is a GPU)" in caplog.text
    engine.close()
    fake.gpu.fail["cudaSetDevice"] = "cudaErrorDevicesUnavailable"
    engine = open_engine(small)
    assert engine.info.backend == "openvino"
    assert "no NVIDIA GPU can be used here" in caplog.text
    engine.close()
