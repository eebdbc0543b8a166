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
    """Make the quantisation of activations signed and symmetric, with one scale each, in place.

    TensorRT has no other. A channel's own scale gives way to the largest, and an unsigned range of 255 steps to the
    upper half of a signed one.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    done = set()
    for node in nodes:
        if node.input[0] in constants:
            continue  # weights
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        values = numpy_helper.to_array(scale)
        unsigned = numpy_helper.to_array(zero).dtype == np.uint8
        del node.attribute[:]  # the axis of the channels
        if scale.name in done:
            continue
        done.add(scale.name)
        largest = values.max() * (255 / 127 if unsigned else 1)
        scale.CopyFrom(numpy_helper.from_array(np.asarray(largest, np.float32), scale.name))
        zero.CopyFrom(numpy_helper.from_array(np.asarray(0, np.int8), zero.name))
    del graph.value_info[:]  # the bytes between were unsigned
