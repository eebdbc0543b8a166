"""torch's backend of GPUs: its code on a processor, and what only a GPU has."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engines import cancellation
from engines.backends import open_engine
from engines.backends.nvidia.typed_graph import typed_graph
from engines.backends.onnx_in_torch import TorchGraph
from engines.backends.torch_gpu import CudaLane
from engines.base import EngineError, EngineOptions, MissingEngineError, Model
from tests.engines.support import WAIT_S, foreign, open_engine_for, picture, score
from tests.engines.torch_gpu_on_cpu import TorchCompiledOnCpu, TorchOnCpu

pytestmark = [pytest.mark.timeout(100), pytest.mark.usefixtures("one_thread")]


def test_half_precision_computes_in_half(models: dict[str, Model]) -> None:
    image, found = picture((64, 64)), []
    for precision in ("fp32", "fp16"):
        engine = TorchOnCpu(models["street"], EngineOptions(precision))
        assert engine.info.precision == precision
        found.append(score(engine.session(64, 64), image))
    single, half = found
    assert not (single == half).all()
    np.testing.assert_allclose(half, single, rtol=0, atol=0.02 * np.abs(single).max())


def test_what_follows_from_the_size_is_computed_once(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is read back from a GPU between two layers, which a recording would not allow."""
    model = models["street"]
    graph = TorchGraph(typed_graph(model, "fp32", (96, 128), 1), model.output_name)
    image = torch.from_numpy(picture((96, 128))[np.newaxis])
    with torch.inference_mode():
        before, steps = graph(image), len(graph._steps)
        graph.fix_size(image)
        assert torch.equal(graph(image), before)
        assert len(graph._steps) < steps
        kinds = {step.kind for step in graph._steps}
        assert not kinds & {"Shape", "Gather"}
        for name in ("item", "__int__", "__float__", "tolist"):
            monkeypatch.setattr(torch.Tensor, name, None)
        graph(image)


def test_weights_are_laid_out_channels_last(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[bool] = []
    real = TorchGraph.fix_size

    def look(graph: TorchGraph, image: torch.Tensor) -> None:
        weights = [each for each in graph.buffers() if each.dim() == 4]
        laid.extend(each.is_contiguous(memory_format=torch.channels_last) for each in weights)
        real(graph, image)

    monkeypatch.setattr(TorchGraph, "fix_size", look)
    TorchOnCpu(models["street"], EngineOptions()).session(32, 32)
    assert len(laid) > 50
    assert all(laid)


def test_a_torch_without_cuda_is_one_line(models: dict[str, Model]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this one has it")
    for name in ("torch-cuda", "torch-compile"):
        with pytest.raises(
            MissingEngineError, match="is built without CUDA: pip uninstall -y torch, then pip install torch"
        ) as told:
            open_engine(models["street"], name)
        assert "\n" not in str(told.value)


def test_an_int8_network_is_refused(tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [128, 128, 128]\nstd: [64, 64, 64]\n", quantised=True)
    with pytest.raises(MissingEngineError, match="computes no int8"):
        TorchOnCpu(model, EngineOptions())


@pytest.mark.slow
def test_compiled_it_gives_the_same(tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [128, 128, 128]\nstd: [64, 64, 64]\n")
    sessions = (kind(model, EngineOptions()).session(40, 56) for kind in (TorchOnCpu, TorchCompiledOnCpu))
    plain, compiled = (score(session, picture((40, 56))) for session in sessions)
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4 * np.abs(plain).max())


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["torch-cuda", "torch-compile"])
def test_the_network_is_recorded(backend: str, models: dict[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    image = picture((96, 128))
    with caplog.at_level(logging.WARNING, "engines"), open_engine_for(models["street"], backend) as engine:
        found = score(engine.session(96, 128), image)
    assert "without a CUDA graph" not in caplog.text
    with open_engine_for(models["street"], "torch") as engine:
        expected = score(engine.session(96, 128), image)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.99


def test_a_gpu_that_hangs_is_not_waited_for_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "GIVE_UP_S", 0.1)
    lane = CudaLane.__new__(CudaLane)
    lane._done = SimpleNamespace(query=lambda: False)
    told = cancellation.Cancellation()
    lane._patience = cancellation.Patience(told)
    assert not lane.wait(0.2)
    told.set()
    with pytest.raises(EngineError, match="the GPU has not answered for "):
        lane.wait(WAIT_S)
