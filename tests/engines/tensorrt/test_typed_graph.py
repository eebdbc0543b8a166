"""Graphs get the types that TensorRT shall compute in, and keep what they mean: seen with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.backends.common import prepare
from engines.backends.nvidia.typed_graph import TypingError, typed_graph
from engines.base import EngineError, Model
from engines.zoo import load_model
from tests.engines.support import foreign, picture

SIZE = (96, 128)


def run(graph: bytes | Path, model: Model, images: list[np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    batch = np.concatenate([prepare(image, model) for image in images])
    (scores,) = session.run([model.output_name], {model.input_name: batch})
    return np.asarray(scores)


def types_between(graph: bytes) -> Counter[str]:
    """Element types of all floating-point tensors inside, by shape inference."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph), strict_mode=True)
    names = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
    kinds = [value.type.tensor_type.elem_type for value in proto.graph.value_info]
    kinds += [tensor.data_type for tensor in proto.graph.initializer]
    return Counter(names[kind] for kind in kinds if kind in names)


@pytest.mark.parametrize("name", ["street", "voc"])
@pytest.mark.parametrize(("precision", "kind"), [("fp32", "float32"), ("fp16", "float16")])
def test_our_networks_compute_in_one_type_alone(name: str, precision: str, kind: str, models: dict[str, Model]) -> None:
    model = models[name]
    size, batch = SIZE if name == "street" else (97, 129), 4
    images = [picture(size, seed) for seed in range(2)]
    plain = run(model.path, model, images)
    graph = typed_graph(model, precision, size, batch)
    assert set(types_between(graph)) - {kind} <= {"float32"}
    if precision == "fp16":
        assert types_between(graph)["float32"] <= 2, "the scores and the picture's cast"
    found = run(graph, model, images)
    assert found.dtype == np.float32
    assert np.abs(found - plain).max() < (1e-4 if precision == "fp32" else 0.2)
    assert (found.argmax(1) == plain.argmax(1)).mean() > 0.99
    proto = onnx.load_model_from_string(graph)
    onnx.checker.check_model(proto, full_check=True)
    dims = [dim.dim_value or dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1:] == [*size, 3]
    assert dims[0] != 1, "the batch stays dynamic"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("score_type", ["float32", "float16"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_anybodys_networks(layout: str, dtype: str, score_type: str, precision: str, tmp_path: Path) -> None:
    yaml = f"layout: {layout}\n" + ("" if dtype == "uint8" else "mean: [120, 110, 100]\nstd: [60, 60, 60]\n")
    model = foreign(tmp_path / "x.onnx", yaml, layout=layout, dtype=dtype, score_type=score_type)
    images = [picture((32, 48))]
    graph = typed_graph(model, precision, (32, 48), 1)
    proto = onnx.load_model_from_string(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node if "picture" in node.input} <= {"Cast", "Transpose", "Conv"}
    if dtype == "uint8":
        assert {node.op_type for node in proto.graph.node if "picture" in node.input} == {"Cast"}
    found, plain = run(graph, model, images), run(model.path, model, images)
    assert found.dtype == np.float32
    scale = np.abs(plain).max()
    assert np.abs(found - plain).max() < 5e-3 * scale


def altered(path: Path, change: object) -> Model:
    """A network of two outputs and a Resize by constant scales, that a test changes."""
    rng = np.random.default_rng(1)
    weights = numpy_helper.from_array(rng.normal(0, 0.1, (4, 3, 1, 1)).astype(np.float32), "w")
    scales = numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "scales")
    nodes = [
        helper.make_node("Cast", ["picture"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "w"], ["conv"]),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Mul", ["conv", "half"], ["scaled"]),
        helper.make_node("Resize", ["scaled", "", "scales"], ["logits"], mode="linear"),
        helper.make_node("ArgMax", ["conv"], ["labels"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("picture", TensorProto.UINT8, ["n", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, "a", "b"]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["n", 1, "h", "w"]),
        ],
        [weights, scales],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if callable(change):
        change(proto.graph)
    onnx.save(proto, path)
    path.with_suffix(".yaml").write_text("labels: [a, b, c, d]\nlayout: nchw\noutput: logits\n")
    from engines.model_file import read_model

    return read_model(path)


def test_scales_stay_single_and_other_outputs_go(tmp_path: Path) -> None:
    model = altered(tmp_path / "x.onnx", None)
    graph = typed_graph(model, "fp16", (16, 24), 1)
    proto = onnx.load_model_from_string(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.output] == ["logits"]
    assert "ArgMax" not in {node.op_type for node in proto.graph.node}
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert kinds == {"w": TensorProto.FLOAT16, "scales": TensorProto.FLOAT}
    images = [picture((16, 24))]
    np.testing.assert_allclose(run(graph, model, images), run(model.path, model, images), atol=0.1)


def test_scales_that_are_used_as_numbers_too_come_in_both_types(tmp_path: Path) -> None:
    def use(graph: onnx.GraphProto) -> None:
        (resize,) = (node for node in graph.node if node.op_type == "Resize")
        resize.output[0] = "small"
        graph.node.append(helper.make_node("ReduceSum", ["scales"], ["sum"], keepdims=0))
        graph.node.append(helper.make_node("Mul", ["small", "sum"], ["logits"]))

    model = altered(tmp_path / "x.onnx", use)
    graph = typed_graph(model, "fp16", (16, 24), 1)
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    images = [picture((16, 24))]
    np.testing.assert_allclose(run(graph, model, images), run(model.path, model, images), atol=0.3)


def too_large(graph: onnx.GraphProto) -> None:
    weights = numpy_helper.to_array(graph.initializer[0]).copy()
    weights[0, 0] = 1e5
    graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))


def control_flow(graph: onnx.GraphProto) -> None:
    body = helper.make_graph([], "body", [], [])
    graph.node.append(helper.make_node("If", ["labels"], [], then_branch=body, else_branch=body))


def computing_with_bytes(graph: onnx.GraphProto) -> None:
    graph.node[0].input[0] = "clipped"
    graph.node.insert(0, helper.make_node("Max", ["picture", "picture"], ["clipped"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_large, "weights beyond 65504, which half precision cannot hold: use fp32"),
        (control_flow, "has control flow"),
        (computing_with_bytes, "Max computes with the picture's bytes"),
    ],
)
def test_what_cannot_be_typed_is_told(change: object, message: str, tmp_path: Path) -> None:
    model = altered(tmp_path / "x.onnx", change)
    with pytest.raises(TypingError, match=message):
        typed_graph(model, "fp16", (16, 24), 1)


def test_quantisation_for_cpus_is_refused_with_the_way_out(models: dict[str, Model]) -> None:
    with pytest.raises(TypingError, match=r"street-int8 is quantised for CPUs .*--for tensorrt"):
        typed_graph(load_model("street", "int8"), "int8", SIZE, 1)
    with pytest.raises(TypingError, match="street is not quantised"):
        typed_graph(models["street"], "int8", SIZE, 1)
    with pytest.raises(TypingError, match="street-int8 is quantised to int8"):
        typed_graph(load_model("street", "int8"), "fp16", SIZE, 1)


def test_a_file_that_is_none_is_told(models: dict[str, Model], tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"rubbish")
    with pytest.raises(EngineError, match=r"x\.onnx cannot be read"):
        typed_graph(replace(models["street"], path=tmp_path / "x.onnx"), "fp32", SIZE, 1)
