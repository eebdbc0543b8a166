"""What is done before the first frame, so that none waits for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engines.base import BatchSession, EngineError, EngineOptions, FrameSession, Model
from pipeline.options import InputOptions
from pipeline.runner import Runner
from tests.engines.support import WAIT_S, open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine, real_tensorrt
from tests.engines.tensorrt.test_lanes import SIZE, frame
from tests.pipeline import clips
from tests.pipeline.running import options_of

pytestmark = pytest.mark.timeout(120)

ONCE = (
    "cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaGraphInstantiate",
)  # fmt: skip


def made(fake: Machine) -> Counter[str]:
    """What first requests wait for, as often as it was done."""
    found = Counter({name: fake.gpu.calls[name] for name in ONCE})
    found["contexts"] = sum(entry[1] == "create_execution_context" for entry in fake.trt.log)
    return found


@contextmanager
def nothing_new(fake: Machine) -> Iterator[None]:
    before = made(fake)
    yield
    assert made(fake) == before


@pytest.mark.parametrize("raw", [False, True], ids=["pictures", "frames"])
def test_each_lane_has_run_each_size_of_batch(raw: bool, fake: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=3, batch=4)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, BatchSession)
        assert isinstance(session, FrameSession)
        session.warm_up(frame(64, 96) if raw else None)
        assert fake.gpu.calls["cudaGraphInstantiate"] == 3 * 4
        with nothing_new(fake):
            session.warm_up(frame(64, 96))
            assert not any(stream.waiting for stream in fake.gpu.streams)
            for count in range(1, 5):
                images = [picture(SIZE, number) for number in range(count)]
                for _ in range(3):
                    outs = [[np.empty(session.score_shape, np.float32) for _ in images] for _ in range(3)]
                    requests = [session.start_batch(images, each) for each in outs]
                    for request in requests:
                        request.wait(WAIT_S)
                    for each in outs[1:]:
                        np.testing.assert_array_equal(each, outs[0])
        if raw:
            with nothing_new(fake):
                taken = [frame(64, 96) for _ in range(4)]
                session.start_frames(taken).wait(WAIT_S)
            assert all((each.labels < 255).all() for each in taken)


def test_requests_of_other_sizes_keep_their_places(machine: Machine, dynamic: Model) -> None:
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2)) as engine:
        session, other = engine.session(*SIZE), engine.session(48, 32)
        assert isinstance(other, FrameSession)
        outs = [np.full(session.score_shape, np.nan, np.float32) for _ in range(2)]
        requests = [session.start(picture(SIZE), out) for out in outs]
        with ThreadPoolExecutor(2) as threads:
            for warmed in [threads.submit(other.warm_up, None) for _ in range(2)]:
                warmed.result(WAIT_S)
        for request, out in zip(requests, outs, strict=True):
            request.wait(WAIT_S)
            assert np.isfinite(out).all()
        assert np.isfinite(score(other, picture((48, 32)))).all()


@pytest.mark.gpu
def test_the_first_requests_take_no_longer_than_others(dynamic: Model) -> None:
    real_tensorrt()
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2, batch=2)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        session.warm_up(frame(64, 96))
        took = []
        for _ in range(40):
            began = time.perf_counter()
            session.start_frames([frame(64, 96)]).wait(WAIT_S)
            took.append(time.perf_counter() - began)
    first, others = max(took[:2]), sorted(took[2:])[len(took) // 2]
    assert first < 5 * others + 0.003


def test_what_cannot_be_run_is_told_before_the_first_frame(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32", requests=1)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        fake.gpu.fail["cudaGraphLaunch"] = "cudaErrorMemoryAllocation"
        with pytest.raises(EngineError, match="MemoryAllocation"):
            session.warm_up(None)
        fake.gpu.fail.clear()
        session.warm_up(None)
        assert np.isfinite(score(session, picture(SIZE))).all()


@pytest.mark.parametrize("flags", [{}, {"temporal": True}], ids=["frames", "scores"])
def test_a_run_makes_nothing_once_it_has_started(
    flags: dict[str, bool], fake: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clip = str(clips.build("h264", tmp_path).path)
    given = [InputOptions(clip, name, outputs=("null",)) for name in "ab"]
    with Runner(options_of(given, "street", engine="tensorrt", size=96, **flags)) as runner, nothing_new(fake):
        assert fake.gpu.calls["cudaGraphLaunch"] > 0
        report = runner.run()
    assert report.frames == 60


def test_a_new_size_is_warmed_up_by_its_own_input_alone(
    fake: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first frame finds all that it needs, while the other input goes on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from engines.backends.tensorrt import TensorRTSession

    threads: list[tuple[str, tuple[int, int]]] = []
    warm_up = TensorRTSession.warm_up

    def noted(session: TensorRTSession, given: object) -> None:
        before = made(fake)["contexts"]
        warm_up(session, given)  # type: ignore[arg-type]
        if made(fake)["contexts"] > before:
            threads.append((threading.current_thread().name, session.input_size))

    monkeypatch.setattr(TensorRTSession, "warm_up", noted)
    inputs = [clips.build(name, tmp_path) for name in ("size change", "h264")]
    given = [InputOptions(str(one.path), name, outputs=("null",)) for one, name in zip(inputs, "ab", strict=True)]
    with Runner(options_of(given, "street", engine="tensorrt", size=64)) as runner:
        begun = len(threads)
        report = runner.run()
    assert [one.written for one in report.inputs] == [len(one.numbers) for one in inputs]
    assert begun >= 1
    assert {name for name, _ in threads[begun:]} == {"a prepare"}
