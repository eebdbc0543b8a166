"""Graphs of ONNX rewritten in place, by whoever has the package onnx."""

from __future__ import annotations

from typing import Any

import numpy as np


def whole_weights(graph: Any) -> None:
    """Turn weights that are stored in half precision and cast by a node into float ones, in place."""
    from onnx import TensorProto, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def plain_activations(graph: Any) -> None:
    """Make the quantisation of activations signed, with one scale each, in place: TensorRT has no other.

    An unsigned range of 255 steps becomes the upper half of a signed one. What has a scale a channel stays in
    float: depthwise convolutions read it, whose channels differ too much for one scale.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, done = [], set()
    passed: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = passed.get(name, name)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in constants:
            nodes.append(node)
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if numpy_helper.to_array(scale).size > 1:
            passed[node.output[0]] = node.input[0]
            continue
        nodes.append(node)
        del node.attribute[:]  # the axis of channels that there are not
        if scale.name not in done:
            done.add(scale.name)
            factor = 255 / 127 if numpy_helper.to_array(zero).dtype == np.uint8 else 1
            value = np.asarray(numpy_helper.to_array(scale).item() * factor, np.float32)
            scale.CopyFrom(numpy_helper.from_array(value, scale.name))
            zero.CopyFrom(numpy_helper.from_array(np.asarray(0, np.int8), zero.name))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the bytes between were unsigned
