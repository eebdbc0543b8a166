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
