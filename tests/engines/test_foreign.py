"""Anybody's network on every backend, and the life of engines, with networks of one convolution."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines.backends import open_engine
from engines.backends.common import KEPT_SESSIONS
from engines.base import EngineError, EngineOptions, Model
from engines.model_file import read_model
from tests.engines.support import (
    TF32,
    backends,
    cpu_backends,
    expected_scores,
    foreign,
    open_engine_for,
    picture,
    score,
)

pytestmark = pytest.mark.timeout(60)

TASKS = Path("/proc/self/task")


FOREIGN = [
    pytest.param({}, "mean: [123.675, 116.28, 103.53]\nstd: [58.395, 57.12, 57.375]\n", id="float nchw"),
    pytest.param({}, "mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]\nrange: 1\n", id="range 1"),
    pytest.param({}, "mean: [104, 117, 123]\nchannels: bgr\n", id="bgr"),
    pytest.param({"layout": "nhwc"}, "mean: [127.5, 127.5, 127.5]\nstd: [127.5, 127.5, 127.5]\n", id="float nhwc"),
    pytest.param({"dtype": "uint8"}, "layout: nchw\n", id="bytes nchw"),
    pytest.param({"dtype": "uint8", "layout": "nhwc"}, "channels: bgr\n", id="bytes nhwc bgr"),
    pytest.param({"dtype": "float16"}, "mean: [128, 128, 128]\nstd: [64, 64, 64]\n", id="half in"),
    pytest.param({"score_type": "float16"}, "mean: [128, 128, 128]\nstd: [64, 64, 64]\n", id="half out"),
]


@backends
@pytest.mark.parametrize(("graph", "yaml"), FOREIGN)
def test_a_foreign_network_gets_the_picture_that_it_wants(
    backend: str, graph: dict[str, object], yaml: str, tmp_path: Path
) -> None:
    model = foreign(tmp_path / "net.onnx", yaml, **graph)
    image = picture((40, 56))
    wanted = image.astype(np.float64).transpose(2, 0, 1)
    if model.channels == "bgr":
        wanted = wanted[::-1]
    if model.mean and model.std:
        wanted = (wanted - np.reshape(model.mean, (3, 1, 1))) / np.reshape(model.std, (3, 1, 1))
    truth = expected_scores(model.path, wanted)
    with open_engine_for(model, backend) as engine:
        scores = score(engine.session(40, 56), image)
    half = "float16" in graph.values() or backend in TF32
    np.testing.assert_allclose(scores, truth, rtol=0, atol=(4e-3 if half else 2e-5) * np.abs(truth).max())


@cpu_backends
def test_a_quantised_network_runs_in_int8(backend: str, tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [128, 128, 128]\nstd: [64, 64, 64]\n", quantised=True)
    assert model.quantised
    with pytest.raises(EngineError, match="is quantised to int8: use its float model for fp32"):
        open_engine(model, backend, EngineOptions(precision="fp32"))
    image = picture((32, 32))
    normal = (image.astype(np.float64).transpose(2, 0, 1) - 128) / 64
    steps = np.clip(np.round(normal / 0.02) + 128, 0, 255) - 128
    truth = expected_scores(model.path, steps * 0.02)
    with open_engine_for(model, backend, EngineOptions("int8", threads=1)) as engine:
        assert engine.info.precision == "int8"
        scores = score(engine.session(32, 32), image)
    np.testing.assert_allclose(scores, truth, rtol=0, atol=0.05)


@backends
def test_a_size_that_the_network_cannot_take_is_one_line(backend: str, tmp_path: Path) -> None:
    model = foreign(tmp_path / "fixed.onnx", "mean: [0, 0, 0]\nrange: 255\n", sides=(32, 48))
    assert (model.fixed_size, model.size) == ((32, 48), 32)
    with open_engine_for(model, backend) as engine:
        assert engine.input.shape == (1, 32, 48, 3)
        score(engine.session(32, 48), picture((32, 48)))
        with pytest.raises(EngineError, match=r"fixed takes 48×32 pixels only, not 64×64: export it with dynamic"):
            engine.session(64, 64)
        with pytest.raises(EngineError, match="no pixels"):
            engine.session(0, 64)


@backends
def test_a_network_that_fails_at_its_first_size_is_one_whole_line(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")
    graph = onnx.load(model.path)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 64, 64]), "shape"))
    graph.graph.node.insert(0, helper.make_node("Reshape", ["picture", "shape"], ["reshaped"]))
    next(node for node in graph.graph.node if node.op_type == "Conv").input[0] = "reshaped"
    onnx.save(graph, model.path)
    with open_engine_for(read_model(model.path), backend) as engine, pytest.raises(EngineError) as told:
        score(engine.session(32, 48), picture((32, 48)))
    assert "\n" not in str(told.value)
    assert "…" not in str(told.value)
    assert "/onnxruntime" not in str(told.value), "a place in its source"
    assert capfd.readouterr().err == "", "the library's own words beside it"


@backends
def test_sessions_are_kept_and_bounded(backend: str, tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")
    with open_engine_for(model, backend) as engine:
        first = engine.session(32, 32)
        assert engine.session(32, 32) is first
        for index in range(3 * KEPT_SESSIONS):
            score(engine.session(32, 34 + 2 * index), picture((32, 34 + 2 * index)))
        assert engine.session(32, 32) is not first
        score(first, picture((32, 32)))  # whoever holds an old one may use it on


@backends
def test_closing_is_final_and_repeatable(backend: str, tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")
    engine = open_engine(model, backend, EngineOptions(threads=1))
    engine.session(32, 32)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.session(32, 32)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts by /proc")
@backends
def test_engines_leave_no_threads_or_descriptors(backend: str, tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")

    def use() -> tuple[int, int]:
        with open_engine_for(model, backend, EngineOptions(threads=2, requests=2)) as engine:
            for side in (32, 48):
                score(engine.session(side, side), picture((side, side)))
        del engine
        return sum(1 for _ in Path("/proc/self/task").iterdir()), sum(1 for _ in Path("/proc/self/fd").iterdir())

    for _ in range(3):
        threads, files = use()
    for _ in range(10):
        after = use()
    assert after[0] <= threads + 1
    assert after[1] <= files + 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@cpu_backends
def test_threads_are_obeyed(backend: str, models: dict[str, Model]) -> None:
    """On one thread the work is done by one thread, however busy the machine is."""

    def spent() -> dict[str, int]:
        """Processor time by thread, in nanoseconds."""
        return {task.name: int((task / "schedstat").read_text().split()[0]) for task in TASKS.iterdir()}

    with open_engine_for(models["voc"], backend, EngineOptions(threads=1)) as engine:
        assert engine.info.threads == 1
        session = engine.session(225, 321)
        image = picture((225, 321))
        score(session, image)
        before = spent()
        for _ in range(4):
            score(session, image)
        used = sorted(time - before.get(name, 0) for name, time in spent().items())
    assert used[-1] > 0.85 * sum(used), f"{used[-4:]} ns"
