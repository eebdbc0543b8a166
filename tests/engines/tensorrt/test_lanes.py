"""What goes wrong on the GPU, or takes long: frames and builds go on."""

from __future__ import annotations

import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.base import (
    BatchSession,
    CancelledError,
    EngineError,
    EngineOptions,
    FrameMap,
    FrameSession,
    Model,
    PageLocking,
    RawFrame,
    Request,
)
from tests.engines.support import WAIT_S, open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),  # of what is freed
]

SIZE = (32, 48)


def frame(height: int, width: int) -> RawFrame:
    """A grey picture that fills the network's input, and the labels to be."""
    where = FrameMap("rgb24", (height, width), SIZE, [[1.0] * 4] * 3, (0.5, 0.0, 0.5, 0.0))
    return RawFrame((np.full((height, width, 3), 99, np.uint8),), where, np.full((height, width), 255, np.uint8))


def test_what_is_there_is_given_while_another_size_is_built(fake: Machine, dynamic: Model, tmp_path: Path) -> None:
    """Frames go on, kept sessions are found, and plans that were built before are loaded."""
    begun, go_on = threading.Event(), threading.Event()
    options = EngineOptions("fp32", cache=tmp_path / "cache")

    def slowly(step: int) -> None:
        if step == 0:
            begun.set()
            assert go_on.wait(WAIT_S)

    with open_engine_for(dynamic, "tensorrt", options) as engine:
        engine.session(64, 64)
    with open_engine_for(dynamic, "tensorrt", options) as engine, ThreadPoolExecutor(3) as threads:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        fake.trt.faults["build"] = slowly
        others = [threads.submit(engine.session, 48, 32) for _ in range(2)]
        try:
            assert begun.wait(WAIT_S)
            taken = frame(64, 96)
            threads.submit(session.start_frames, [taken]).result(WAIT_S).wait(WAIT_S)
            assert threads.submit(engine.session, *SIZE).result(WAIT_S) is session
            loaded = threads.submit(engine.session, 64, 64).result(WAIT_S)
            assert not any(other.done() for other in others)
        finally:
            go_on.set()
        assert others[0].result(WAIT_S) is others[1].result(WAIT_S)
    assert loaded.input_size == (64, 64)
    assert (taken.labels < 255).all()
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 3


def test_an_engine_that_gave_up_builds_nothing_and_runs_what_it_has(
    machine: Machine, small: Model, tmp_path: Path
) -> None:
    cache, image = tmp_path / "cache", picture(SIZE)
    options = EngineOptions("fp32", cache=cache)
    with open_engine_for(small, "tensorrt", options) as engine:
        engine.session(48, 32)
    with open_engine_for(small, "tensorrt", options) as engine:
        session = engine.session(*SIZE)
        kept = sorted(cache.iterdir())
        engine.cancel()
        for _ in range(2):
            with pytest.raises(CancelledError, match="the build of the plan was called off"):
                engine.session(64, 64)
        assert engine.session(*SIZE) is session
        assert np.isfinite(score(session, image)).all()
        assert engine.session(48, 32).input_size == (48, 32), "its plan is there"
    assert sorted(cache.iterdir()) == kept


def test_a_start_that_fails_leaves_nothing_under_way(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32", requests=1)) as engine:
        session = engine.session(*SIZE)
        image = picture(SIZE)
        fake.trt.faults["execute"] = "the device is lost"
        with pytest.raises(AssertionError, match="the device is lost"):
            score(session, image)
        assert not any(stream.waiting for stream in fake.gpu.streams), "the picture's copy is waited for"
        fake.trt.faults.clear()
        assert np.isfinite(score(session, image)).all()


def test_where_there_is_no_more_memory_smaller_frames_go_on(fake: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=1)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        session.start_frames([frame(64, 96)]).wait(WAIT_S)
        for name in ("cudaMalloc", "cudaHostAlloc"):
            alive = dict(fake.gpu.alive)
            fake.gpu.fail[name] = "cudaErrorMemoryAllocation"
            with pytest.raises(EngineError, match="MemoryAllocation"):
                session.start_frames([frame(640, 960)])
            del fake.gpu.fail[name]
            assert dict(fake.gpu.alive) == alive
            again = frame(64, 96)
            session.start_frames([again]).wait(WAIT_S)
            assert (again.labels < 255).all()


def test_no_memory_to_run_a_plan_is_told(fake: Machine, dynamic: Model) -> None:
    """When its size is opened, and when a batch of another size comes first."""
    told = r"TensorRT cannot run the plan \(.*OutOfMemory\): the GPU's memory is used up.* smaller --size"
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=1, batch=2)) as engine:
        fake.trt.faults["context"] = "createExecutionContext: Error Code 2: OutOfMemory"
        with pytest.raises(EngineError, match=told):
            engine.session(*SIZE)
        fake.trt.faults.clear()
        session, image = engine.session(*SIZE), picture(SIZE)
        assert isinstance(session, BatchSession)
        score(session, image)
        fake.trt.faults["context"] = "createExecutionContext: Error Code 2: OutOfMemory"
        outs = [np.empty(session.score_shape, np.float32) for _ in range(2)]
        with pytest.raises(EngineError, match=told):
            session.start_batch([image, image], outs)
        assert np.isfinite(score(session, image)).all(), "what is there goes on"


def test_broken_times_of_kernels_are_measured_anew(fake: Machine, small: Model, tmp_path: Path) -> None:
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    with open_engine_for(small, "tensorrt", options) as engine:
        engine.session(*SIZE)
        (kept,) = (tmp_path / "cache").glob("*.timing")
        kept.write_bytes(b"broken")
        engine.session(2 * SIZE[0], 2 * SIZE[1])
    assert kept.read_bytes() != b"broken"


@pytest.fixture
def impatient(fake: Machine, monkeypatch: pytest.MonkeyPatch) -> float:
    """How long a GPU that hangs is waited for."""
    from engines import cancellation

    monkeypatch.setattr(cancellation, "GIVE_UP_S", 0.3)
    return 0.3


@pytest.mark.parametrize("told", [True, False], ids=["stopped", "closed alone"])
def test_a_gpu_that_hangs_is_left_behind(
    told: bool, fake: Machine, dynamic: Model, impatient: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever would free its memory would never come back."""
    engine = open_engine(dynamic, "tensorrt", EngineOptions("fp32", requests=2))
    sessions = [engine.session(*SIZE), engine.session(48, 32)]
    assert isinstance(sessions[0], FrameSession)
    sessions[0].start_frames([frame(64, 96)]).wait(WAIT_S)
    ring = np.zeros(1 << 16, np.uint8)
    assert isinstance(engine, PageLocking)
    engine.page_lock(ring)
    request = sessions[0].start_frames([frame(64, 96)])
    score(sessions[1], picture((48, 32)))
    fake.gpu.hangs = True
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"has not finished within 0\.2 s"):
        request.wait(0.2)
    if told:
        engine.cancel()
        with pytest.raises(EngineError, match=r"the GPU has not answered for \d"):
            request.wait(WAIT_S)
        engine.page_unlock(ring)
    engine.close()
    del sessions, request, engine
    gc.collect()
    assert time.monotonic() - began < 5
    assert fake.gpu.blocked == []
    assert fake.gpu.alive["Stream"] == 4, "all is left as it is"
    assert caplog.text.count("what it works on is left behind") == (not told)


@pytest.mark.parametrize(("usual_s", "takes_s"), [(0.0, 0.2), (0.5, 0.7)])
def test_a_slow_gpu_is_waited_for_after_a_stop(
    usual_s: float, takes_s: float, fake: Machine, small: Model, impatient: float
) -> None:
    """Each request gets its time, however many there are, and longer where requests take long."""

    def answer_after(seconds: float, *requests: Request) -> None:
        for request in requests:
            fake.gpu.hangs = True
            timer = threading.Timer(seconds, lambda: setattr(fake.gpu, "hangs", False))
            timer.start()
            request.wait(WAIT_S)
            timer.join()

    with open_engine_for(small, "tensorrt", EngineOptions("fp32", requests=3)) as engine:
        session = engine.session(*SIZE)
        out = np.empty(session.score_shape, np.float32)
        for _ in range(3):  # on each lane
            answer_after(usual_s, session.start(picture(SIZE), out))
        requests = [session.start(picture(SIZE), out) for _ in range(3)]
        engine.cancel()
        answer_after(takes_s, *requests)


def test_while_a_run_goes_on_a_slow_gpu_is_no_hanging_one(
    fake: Machine, small: Model, impatient: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Another input's memory is given back under requests that take long."""
    ring = np.zeros(4096, np.uint8)
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        assert isinstance(engine, PageLocking)
        session = engine.session(*SIZE)
        engine.page_lock(ring)
        request = session.start(picture(SIZE), np.empty(session.score_shape, np.float32))
        fake.gpu.hangs = True
        timer = threading.Timer(2 * impatient, lambda: setattr(fake.gpu, "hangs", False))
        timer.start()
        engine.page_unlock(ring)
        timer.join()
        assert "registered" not in fake.gpu.alive
        request.wait(WAIT_S)
    assert not caplog.text


def test_memory_is_unlocked_while_another_thread_records(fake: Machine, small: Model) -> None:
    """Whoever asks a stream that is recorded, or the whole GPU, spoils the recording."""
    recording, go_on = threading.Event(), threading.Event()

    def block() -> None:
        recording.set()
        assert go_on.wait(WAIT_S)

    ring = np.zeros(4096, np.uint8)
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine, ThreadPoolExecutor(2) as threads:
        assert isinstance(engine, PageLocking)
        session = engine.session(*SIZE)
        engine.page_lock(ring)
        fake.trt.faults["recording"] = block
        scoring = threads.submit(score, session, picture(SIZE))
        assert recording.wait(WAIT_S)
        unlocking = threads.submit(engine.page_unlock, ring)
        with pytest.raises(TimeoutError):
            unlocking.result(0.3)
        go_on.set()
        unlocking.result(WAIT_S)
        assert np.isfinite(scoring.result(WAIT_S)).all()
        score(session, picture(SIZE))
    assert fake.gpu.calls["cudaGraphLaunch"] == 1, "the recording is good"


def test_what_was_lost_on_the_gpu_is_told_once(
    fake: Machine, small: Model, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """After an illegal address everything fails, also what gives memory back."""
    caplog.set_level(logging.INFO)
    engine = open_engine(small, "tensorrt", EngineOptions("fp32"))
    session, ring = engine.session(*SIZE), np.zeros(4096, np.uint8)
    assert isinstance(engine, PageLocking)
    engine.page_lock(ring)
    request = session.start(picture(SIZE), np.empty(session.score_shape, np.float32))
    lost = ("EventQuery", "EventRecord", "Free", "FreeHost", "HostUnregister", "StreamDestroy", "GraphExecDestroy")
    fake.gpu.fail |= {f"cuda{name}": "cudaErrorIllegalAddress" for name in (*lost, "EventDestroy")}
    with pytest.raises(EngineError, match=r"CUDA failed to finish its work: .*IllegalAddress"):
        request.wait(WAIT_S)
    engine.page_unlock(ring)
    engine.close()
    del session, request, engine
    gc.collect()
    assert "IllegalAddress" not in caplog.text
    assert not list(recwarn), "of exceptions that nobody could catch"


def test_the_garbage_collector_may_come_anywhere(fake: Machine, dynamic: Model) -> None:
    """It frees lanes while its thread holds a stream's lock, and while it records."""
    from engines.backends.nvidia import cuda
    from engines.cancellation import Cancellation, Patience

    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=1)) as engine:
        lost = []
        for _ in range(2):
            with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=1)) as other:
                lost.append(other.session(48, 32))
                score(lost[-1], picture((48, 32)))
        session = engine.session(*SIZE)
        before, began = fake.gpu.calls["cudaGraphLaunch"], time.monotonic()
        (stream,) = (stream for stream in cuda._streams if stream is session._lanes._idle[0]._stream)  # type: ignore[attr-defined]
        with stream._lock, cuda._streams_lock:
            lost.pop()
        fake.trt.faults["recording"] = lost.clear
        for _ in range(3):
            assert np.isfinite(score(session, picture(SIZE))).all()
        assert time.monotonic() - began < 2
        assert fake.gpu.calls["cudaGraphLaunch"] - before == 2, "the recording is good"
    assert cuda.all_done(Patience(Cancellation())), "it does not hang"
