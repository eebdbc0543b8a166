"""A network's ONNX with the types that TensorRT shall compute in.

TensorRT's networks are strongly typed: it computes in the types that the graph carries, and in no other.
What is changed here: the input's size is fixed (one plan a size), other outputs than the scores are
dropped, the scores are float32 (or float16, where that is asked), and the arithmetic in between is single or half
precision or, by the QuantizeLinear and DequantizeLinear nodes that the file has, int8.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import TYPE_CHECKING

import numpy as np

from engines.base import EngineError, Model
from engines.onnx_graph import whole_weights

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto

VERSION = 1
"""Part of a plan's key: raise it whenever the same file is typed in another way."""

LARGEST_HALF = 65504.0

_BYTES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Flatten", "Identity"})
"""What may be done to bytes before they are cast; TensorRT casts them first."""


class TypingError(EngineError):
    """A graph that cannot be given the types that were asked for."""


def typed_graph(
    model: Model, precision: str, size: tuple[int, int], max_batch: int, *, half_scores: bool = False
) -> bytes:
    """The serialised ONNX of a network, typed.

    Args:
        model: the network.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"`` (the file's own quantisation).
        size: (height, width) of the input, in pixels.
        half_scores: leave the scores in half precision.
        max_batch: pictures of the largest batch; the batch stays dynamic where it is above 1.

    Raises:
        TypingError: the graph does not fit.
        EngineError: the package onnx is missing, or cannot read the file.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"a GPU's engine needs onnx ({error}): pip install onnx") from error
    try:
        proto = onnx.load(str(model.path))
    except Exception as error:  # of several kinds, protobuf's among them
        raise EngineError(f"{model.path} cannot be read: {error}") from error
    graph = proto.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        raise TypingError(f"{model.path} has control flow, which TensorRT's types cannot follow: export it without")
    _fix_input(graph, model, size, max_batch)
    _keep_one_output(graph, model.output_name)
    whole_weights(graph)
    _cast_bytes_first(graph, model.input_name)
    if precision == "fp16":
        _halve(graph, model)
    elif precision == "int8":
        _check_quantisation(graph, model)
    _cast_scores(graph, model.output_name, half=half_scores)
    del graph.value_info[:]  # their types may be others now
    typed: bytes = proto.SerializeToString()
    return typed


def _fix_input(graph: GraphProto, model: Model, size: tuple[int, int], max_batch: int) -> None:
    dims = graph.input[0].type.tensor_type.shape.dim
    if max_batch > 1 and dims[0].HasField("dim_value"):
        raise TypingError(
            f"{model.name} takes one picture at a time: export it with a dynamic batch, or ask for batch 1"
        )
    if max_batch == 1:
        dims[0].dim_value = 1
    for axis, side in zip((1, 2) if model.layout == "nhwc" else (2, 3), size, strict=True):
        dims[axis].dim_value = side


def _keep_one_output(graph: GraphProto, name: str) -> None:
    """Drop the other outputs, and what leads to them alone."""
    scores = next(value for value in graph.output if value.name == name)
    kept = type(scores)()
    kept.CopyFrom(scores)
    del graph.output[:]
    graph.output.append(kept)
    needed, nodes = {name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)


def _cast_bytes_first(graph: GraphProto, name: str) -> None:
    """Let bytes be cast to float before anything is done to them: TensorRT does nothing else with them."""
    from onnx import TensorProto, helper

    if graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return
    users = [node for node in graph.node if name in node.input and node.op_type not in ("Cast", "Shape")]
    if not users:
        return
    for node in users:
        if node.op_type not in _BYTES:
            raise TypingError(
                f"{node.op_type} computes with the picture's bytes, which TensorRT cannot: cast them before"
            )
        _rename(node.input, name, f"{name}.float")
    graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT))


def _cast_scores(graph: GraphProto, name: str, *, half: bool) -> None:
    """End with a cast to float32, or to half precision; TensorRT drops one that changes nothing."""
    from onnx import TensorProto, helper

    dtype = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    for node in graph.node:
        _rename(node.output, name, f"{name}.raw")
        _rename(node.input, name, f"{name}.raw")
    graph.node.append(helper.make_node("Cast", [f"{name}.raw"], [name], to=dtype))
    graph.output[0].type.tensor_type.elem_type = dtype


def _halve(graph: GraphProto, model: Model) -> None:
    """Turn float32 into float16, except what ONNX wants in float32 (the scales of a Resize)."""
    from onnx import TensorProto, helper

    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        raise TypingError(f"{model.name} is quantised to int8: use its float model for fp16")
    single = _kept_single(graph)
    others = [node for node in graph.node if not single.issuperset(node.output) and node.op_type != "Resize"]
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.name not in single:
            _halve_tensor(tensor, model)
        elif any(tensor.name in node.input for node in others):  # wanted in both types
            copy = graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = f"{tensor.name}.half"
            _halve_tensor(copy, model)
            for node in others:
                _rename(node.input, tensor.name, copy.name)
    for node in graph.node:
        if not single.issuperset(node.output):
            _halve_node(node, model)
    picture = graph.input[0]
    if picture.type.tensor_type.elem_type == TensorProto.FLOAT:
        for node in graph.node:
            _rename(node.input, picture.name, f"{picture.name}.half")
        cast = helper.make_node("Cast", [picture.name], [f"{picture.name}.half"], to=TensorProto.FLOAT16)
        graph.node.insert(0, cast)


def _kept_single(graph: GraphProto) -> set[str]:
    """Tensors that lead to the regions and scales of a Resize."""
    made_by = {name: node for node in graph.node for name in node.output}
    waiting = [name for node in graph.node if node.op_type == "Resize" for name in node.input[1:3] if name]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            if name in made_by and made_by[name].op_type not in ("Shape", "Size"):
                waiting.extend(made_by[name].input)
    return found


def _halve_node(node: NodeProto, model: Model) -> None:
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif node.op_type in ("Constant", "ConstantOfShape") and attribute.t.data_type == TensorProto.FLOAT:
            _halve_tensor(attribute.t, model)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = np.array(_floats(attribute), np.float32)
            attribute.Clear()
            attribute.name, attribute.type = "value", type(attribute).TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(values))
            _halve_tensor(attribute.t, model)


def _floats(attribute: AttributeProto) -> float | list[float]:
    return attribute.f if attribute.name == "value_float" else list(attribute.floats)


def _halve_tensor(tensor: object, model: Model) -> None:
    """Round a float32 tensor to float16, in place."""
    from onnx import TensorProto, numpy_helper

    assert isinstance(tensor, TensorProto)
    values = numpy_helper.to_array(tensor)
    if values.size and not np.abs(values[np.isfinite(values)], dtype=np.float32).max(initial=0) <= LARGEST_HALF:
        raise TypingError(
            f"{model.name} has weights beyond {LARGEST_HALF:g}, which half precision cannot hold: use fp32"
        )
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))


def _check_quantisation(graph: GraphProto, model: Model) -> None:
    """See that TensorRT has the quantisation: signed, symmetric, activations with one scale each."""
    from onnx import TensorProto

    if not model.quantised:
        raise TypingError(f"{model.name} is not quantised: int8 needs a model exported with int8 (Q/DQ) weights")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node, what in _quantisers(graph):
        scale = constants.get(node.input[1])
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        signed = zero is not None and zero.data_type == TensorProto.INT8
        whole = scale is not None and int(np.prod(scale.dims, dtype=np.int64)) == 1
        if not signed or not _all_zero(zero) or (what == "activation" and not whole):
            raise TypingError(
                f"{model.name} is quantised for CPUs ({node.name or node.input[0]}: unsigned, shifted or a scale a "
                "channel), which TensorRT cannot run: export it with --precision int8 --for tensorrt, or use fp16"
            )


def _quantisers(graph: GraphProto) -> Iterator[tuple[NodeProto, str]]:
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield node, "weight" if node.input[0] in stored else "activation"


def _all_zero(tensor: object) -> bool:
    from onnx import TensorProto, numpy_helper

    assert isinstance(tensor, TensorProto)
    return not numpy_helper.to_array(tensor).any()


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
