"""The engine of TensorRT: scores, order, memory, graphs, plans; on fakes, and the same on a GPU."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.base import (
    BatchSession,
    Engine,
    EngineError,
    EngineOptions,
    FrameMap,
    FrameSession,
    MissingEngineError,
    Model,
    PageLocking,
    RawFrame,
    Session,
)
from engines.cli import main
from engines.plans import PlanCache
from engines.zoo import load_model
from tests.engines.support import WAIT_S, expected_scores, open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine

pytestmark = pytest.mark.timeout(600)  # a real plan takes its time

SIZE = (32, 48)


def expected(model: Model, image: np.ndarray) -> np.ndarray:
    values = image.transpose(2, 0, 1).astype(np.float64)
    if model.mean is not None and model.std is not None:
        values = (values - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]
    return expected_scores(model.path, values)


def blank(session: Session) -> np.ndarray:
    return np.full(session.score_shape, np.nan, np.float32)


@pytest.fixture
def opened() -> Iterator[list[Engine]]:
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.close()


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


def test_a_plan_is_built_once_and_kept(machine: Machine, small: Model, tmp_path: Path) -> None:
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    for _ in range(2):
        with open_engine_for(small, "tensorrt", options) as engine:
            image = picture(SIZE)
            np.testing.assert_allclose(
                score(engine.session(*SIZE), image), expected(small, image), rtol=1e-3, atol=1e-2
            )
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.rpartition(".")[2] for name in kept if name.startswith("TensorRT")] == ["timing"]
    assert len([name for name in kept if name.startswith("small-48x32-fp32-")]) == 1
    if machine.cuda:
        assert sum(entry[1] == "build_serialized_network" for entry in machine.trt.log) == 1


def test_a_plan_that_tensorrt_refuses_is_built_anew(
    fake: Machine, small: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engines.plans")
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    with open_engine_for(small, "tensorrt", options) as engine:
        engine.session(*SIZE)
        key = engine._key(SIZE)  # type: ignore[attr-defined]
    PlanCache(tmp_path / "cache")._write(key, b"XXXX of another driver")
    with open_engine_for(small, "tensorrt", options) as engine:
        score(engine.session(*SIZE), picture(SIZE))
    assert "cannot be loaded by TensorRT: Serialization assertion failed: magic tag does not match" in caplog.text


def test_a_plan_of_another_release_is_not_taken(fake: Machine, small: Model, tmp_path: Path) -> None:
    for version in ("11.4.0.106", "11.5.0.1"):
        fake.trt.__version__ = version
        with open_engine_for(small, "tensorrt", EngineOptions("fp32", cache=tmp_path / "cache")) as engine:
            engine.session(*SIZE)
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 2


def built(fake: Machine, model: Model, options: EngineOptions, **more: bool) -> tuple[dict[str, object], bytes]:
    """What TensorRT's builder was given: its settings and the graph."""
    import json

    from engines.backends.tensorrt import TensorRTEngine

    engine = TensorRTEngine(model, options, **more)
    plan = engine._build(SIZE, None)
    engine.close()
    header, _, graph = plan[4:].partition(b"\n")
    return json.loads(header), graph


def test_what_the_builder_is_given(fake: Machine, dynamic: Model) -> None:
    settings, _ = built(fake, dynamic, EngineOptions("fp32", batch=4))
    assert settings["shapes"] == {"picture": [[1, *SIZE, 3], [4, *SIZE, 3], [4, *SIZE, 3]]}
    assert settings["network"] == 1 << int(fake.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert (settings["flags"], settings["cleared"], settings["hardware"]) == ([], ["TF32"], "")
    settings, _ = built(fake, dynamic, EngineOptions("fp16"), portable=True)
    assert (settings["flags"], settings["cleared"]) == (["VERSION_COMPATIBLE"], [])
    assert settings["hardware"] == "AMPERE_PLUS"


def test_a_network_for_one_picture_takes_no_batch(fake: Machine, small: Model) -> None:
    with (
        open_engine_for(small, "tensorrt", EngineOptions("fp32", batch=2)) as engine,
        pytest.raises(EngineError, match="small takes one picture at a time"),
    ):
        engine.session(*SIZE)


def test_what_tensorrt_cannot_build_is_told_in_its_words(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        fake.trt.faults["build"] = "Could not find any implementation for node Conv_3"
        with pytest.raises(EngineError, match="cannot build the plan: Could not find any implementation for node"):
            engine.session(*SIZE)
        fake.trt.faults["build"] = None
        fake.trt.faults["builder"] = "CUDA initialization failure with error: 35"
        with pytest.raises(EngineError, match="TensorRT cannot build here: CUDA initialization failure with error: 35"):
            engine.session(*SIZE)


def test_ctrl_c_ends_a_build_at_the_next_step(fake: Machine, small: Model, tmp_path: Path) -> None:
    steps = []

    def interrupt(step: int) -> None:
        steps.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if step > 3:
            signal.sigtimedwait([], 0.05)

    fake.trt.faults["build"] = interrupt
    with open_engine_for(small, "tensorrt", EngineOptions("fp32", cache=tmp_path / "cache")) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.session(*SIZE)
        assert 4 <= len(steps) < 19
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["plans.lock"]
        fake.trt.faults.clear()
        score(engine.session(*SIZE), picture(SIZE))  # the next try is free to go on


def test_no_gpu_is_told_with_the_way_out(fake: Machine, small: Model) -> None:
    fake.gpu.fail["cudaGetDeviceCount"] = "cudaErrorInsufficientDriver"
    with pytest.raises(MissingEngineError, match=r"no NVIDIA GPU can be used here \(.*InsufficientDriver.*driver"):
        open_engine(small, "tensorrt")


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


def test_the_command_builds_what_the_stream_takes(
    fake: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["build", "street", "--engine", "tensorrt", "--precision", "fp16", "--max-batch", "2"]
    words += ["--frame", "128x96", "--size", "96"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.startswith("street: fp16, 128×96, batches of up to 2 on Fake GPU by TensorRT 1")
    (plan,) = (tmp_path / "deeplab-stream" / "compiled").glob("street-128x96-fp16-*.plan")
    for options in (EngineOptions("fp16", batch=2, cache=plan.parent), EngineOptions("auto", cache=plan.parent)):
        with open_engine_for(load_model("street"), "tensorrt", options) as engine:
            engine.session(96, 128)
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 1
    assert main([*words[:-1], "97"]) == 0
    assert main([*words[:6], "--max-batch", "0"]) == 1
    assert "--max-batch 0" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["nv12", "yuv420p", "p010le", "yuv422p10le", "rgb24"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_frame_costs_its_bytes_in_and_its_labels_out(
    machine: Machine, layout: str, locked: bool, dynamic: Model
) -> None:
    """Labels are those of the scores that the kernels' own picture gives; all is done on the device, in order."""
    from pipeline.frame import Colour, Geometry
    from pipeline.stages.colour import yuv_to_rgb
    from pipeline.stages.upsample import upsample_argmax
    from tests.engines.tensorrt.test_pixels import by_kernel, decoded

    colour = Colour(space=1)
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2)) as engine:
        session = engine.session(*SIZE)
        for turn, frame_size in enumerate([(64, 96), (50, 70), (96, 144), (64, 96)]):
            geometry = Geometry.inside(*frame_size, input_height=SIZE[0], input_width=SIZE[1])
            _, planes = decoded(layout, frame_size)
            labels = np.full(frame_size, 255, np.uint8)
            scores = session.score_shape
            where = FrameMap(
                layout, frame_size, (geometry.picture_height, geometry.picture_width),
                yuv_to_rgb(colour, 8).tolist(), geometry.score_map(*scores[1:]),
            )  # fmt: skip
            if locked:
                assert isinstance(engine, PageLocking)
                for array in (*planes, labels):
                    engine.page_lock(array)
            copied = len(machine.cuda.copies) if machine.cuda else 0
            assert isinstance(session, FrameSession)
            assert session.takes(layout)
            request = session.start_frames([RawFrame(tuple(planes), where, labels)])
            assert not machine.cuda or (labels == 255).all()
            request.wait(WAIT_S)
            image = by_kernel(layout, planes, dynamic, geometry, colour)
            expected, _ = upsample_argmax(score(session, image), geometry)
            assert (labels == expected).mean() > 0.999, turn
            if machine.cuda:
                moved = machine.cuda.copies[copied : copied + len(planes) + 1]
                assert moved == [*(("in", plane.nbytes) for plane in planes), ("out", labels.nbytes)]
            if locked:
                for array in (*planes, labels):
                    engine.page_unlock(array)  # type: ignore[attr-defined]
    if machine.pixels:
        assert machine.pixels.launched == ["prepare_rgb" if layout == "rgb24" else "prepare_yuv", "label"] * 4


def test_frames_of_any_size_and_layout_share_a_request(machine: Machine, dynamic: Model) -> None:
    """What a batch gives is what each of its frames gives alone, with memory that is large enough for all."""
    from pipeline.frame import Colour, Geometry
    from pipeline.stages.colour import yuv_to_rgb
    from tests.engines.tensorrt.test_pixels import decoded

    matrix = yuv_to_rgb(Colour(space=1), 8).tolist()
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", batch=4)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)

        def frame(layout: str, size: tuple[int, int]) -> RawFrame:
            geometry = Geometry.inside(*size, input_height=SIZE[0], input_width=SIZE[1])
            picture = (geometry.picture_height, geometry.picture_width)
            where = FrameMap(layout, size, picture, matrix, geometry.score_map(*session.score_shape[1:]))
            return RawFrame(tuple(decoded(layout, size)[1]), where, np.full(size, 255, np.uint8))

        kinds = [("yuv420p", (51, 71)), ("yuv420p10le", (64, 96)), ("nv12", (96, 144)), ("rgb24", (33, 47))]
        for chosen in (kinds[:2], kinds[::-1], kinds[1:]):
            together = [frame(*kind) for kind in chosen]
            session.start_frames(together).wait(WAIT_S)
            for kind, each in zip(chosen, together, strict=True):
                alone = frame(*kind)
                session.start_frames([alone]).wait(WAIT_S)
                assert len(np.unique(alone.labels)) > 1
                assert (each.labels == alone.labels).mean() > 0.999, kind


def test_a_frame_that_is_none_is_told(fake: Machine, dynamic: Model) -> None:
    planes = [np.zeros((64, 96), np.uint8), np.zeros((32, 48, 2), np.uint8)]
    labels = np.zeros((64, 96), np.uint8)
    where = FrameMap("nv12", (64, 96), (32, 48), [[1.0] * 4] * 3, (0.5, 0.0, 0.5, 0.0))
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        for change, message in (
            ({"where": replace(where, layout="yuyv422")}, "frames of yuyv422 cannot be taken: choose from rgb24, nv12"),
            ({"planes": planes[:1]}, "a frame of nv12 has planes of 64×96, 32×48×2 uint8"),
            ({"planes": [plane.astype(np.uint16) for plane in planes]}, "has planes of 64×96, 32×48×2 uint8"),
            ({"labels": labels[:1]}, "the labels of a frame of 96×64"),
            ({"labels": np.zeros((96, 64), np.uint8).T}, "must be contiguous"),
        ):
            given = {"planes": planes, "where": where, "labels": labels} | change
            with pytest.raises(EngineError, match=message):
                session.start_frames([RawFrame(**given)])  # type: ignore[arg-type]
        for frames in ([], [RawFrame(tuple(planes), where, labels)] * 2):
            with pytest.raises(EngineError, match=f"a batch of {len(frames)} pictures: .* opened for 1 to 1 at once"):
                session.start_frames(frames)
        with ThreadPoolExecutor(1) as thread:  # one that has not spoken to the GPU before
            thread.submit(session.start_frames, [RawFrame(tuple(planes), where, labels)]).result().wait(WAIT_S)
