"""Networks quantised for TensorRT have no other quantisation than it can run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from engines.backends.nvidia.typed_graph import TypingError, typed_graph
from engines.base import EngineOptions
from engines.model_file import read_model
from engines.zoo import load_model
from tests.engines.support import open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine
from tests.engines.test_quantise import labelled_by_itself

SIZE = (96, 128)


@pytest.fixture(scope="session")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """street, written without the measurement that would keep a file with so few pictures from being written."""
    pytest.importorskip("nncf", reason="int8 needs NNCF (the extra `quantise`)")
    from engines.training.datasets import find_samples
    from engines.training.quantise import _silent_nncf, _write

    root = tmp_path_factory.mktemp("quantised")
    labelled_by_itself(root, "val")
    target = root / "mine.onnx"
    model = load_model("street")
    with _silent_nncf():
        samples = find_samples(root, "val", classes=model.labels.names)
        _write(model, target, samples, {"name": "mine", "half": False}, "tensorrt")
    return target


@pytest.mark.slow
def test_all_scales_are_such_as_tensorrt_has(quantised: Path) -> None:
    graph = onnx.load_model_from_string(typed_graph(read_model(quantised), "int8", SIZE, 4)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] > 40
    assert kinds["DequantizeLinear"] > 100
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            assert numpy_helper.to_array(scale).size == 1
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()


@pytest.mark.slow
def test_it_keeps_the_labels_and_runs(quantised: Path, machine: Machine) -> None:
    model, image = read_model(quantised), picture(SIZE)
    with open_engine_for(model, "onnxruntime") as engine:
        expected = score(engine.session(*SIZE), image)
    with open_engine_for(model, "tensorrt", EngineOptions("auto")) as engine:
        assert engine.info.precision == "int8"
        found = score(engine.session(*SIZE), image)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.98
    with open_engine_for(load_model("street"), "onnxruntime") as engine:
        plain = score(engine.session(*SIZE), image)
    assert (found.argmax(0) == plain.argmax(0)).mean() > 0.97


@pytest.mark.slow
def test_a_scale_a_channel_is_refused(quantised: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(quantised))
    node = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.repeat(numpy_helper.to_array(scale).reshape(1), 32), scale.name))
    onnx.save(proto, str(tmp_path / "mine.onnx"))
    with pytest.raises(TypingError, match="a scale a channel"):
        typed_graph(read_model(tmp_path / "mine.onnx"), "int8", SIZE, 1)
