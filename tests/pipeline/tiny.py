"""A network small enough to run a thousand frames in a test, whose labels anybody can compute.

It averages 8×8 blocks and scores three classes by colour: red, green, blue, whichever is strongest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.facts import ModelFacts
from engines.labels import LabelSet

LABELS = LabelSet(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
STRIDE = 8
SIZE = 64


def tiny_model(path: Path, *, size: int = SIZE, fixed: tuple[int, int] | None = None) -> Path:
    """Write the network to ``path``; ``fixed`` is the one (height, width) that the graph shall take."""
    weights = np.array([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]], np.float32)[:, :, None, None]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["blocks"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        helper.make_node("Conv", ["blocks", "weights"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *(fixed or ("height", "width")), 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = ModelFacts(name="tiny", labels=LABELS, size=size, output_stride=STRIDE, align_corners=False, licence="test")
    helper.set_model_props(model, facts.to_properties())
    onnx.save(model, str(path))
    return path


if __name__ == "__main__":
    tiny_model(Path(sys.argv[1]))
