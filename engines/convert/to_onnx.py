"""A DeepLab in a TFLite file into ONNX that takes pictures of any size.

The file's graph is followed operator by operator with its weights dequantised to float32.
Three things change on the way: normalisation goes into the graph, which takes uint8 N×H×W×3; the
pooled picture, which the file spreads over a fixed grid, is added to every position instead; and
the graph ends at the scores of the output stride, before the resize and the argmax.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.base import ModelError
from engines.convert.onnx_writer import Attribute, Port, model, node, tensor
from engines.convert.tflite import Activation, Graph, Op, Operator, parse
from engines.facts import ModelFacts

Float32 = NDArray[np.float32]

PICTURE = "image"
SCORES = "scores"


@dataclass(frozen=True, slots=True)
class _Part:
    """A map that has been computed: some channels of a tensor of the file.

    Attributes:
        name: its name in the ONNX graph.
        channels: how many.
    """

    name: str
    channels: int


@dataclass(slots=True)
class _Builder:
    """The ONNX graph as far as it is made.

    Attributes:
        maps: tensor number of the file → what holds it: one map, or several that the file concatenates.
        pooled: tensor numbers that are 1×1 here, whatever the file spreads them over.
    """

    graph: Graph
    nodes: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    maps: dict[int, tuple[_Part, ...]] = field(default_factory=dict)
    pooled: set[int] = field(default_factory=set)

    def add(self, op: str, *inputs: str, output: str, **attributes: Attribute) -> str:
        """A node more; its output's name."""
        self.nodes.append(node(op, inputs, output, attributes))
        return output

    def constant(self, name: str, values: Float32) -> str:
        """A constant more; its name."""
        self.tensors.append(tensor(name, values))
        return name

    def parts(self, number: int) -> tuple[_Part, ...]:
        """What holds a tensor.

        Raises:
            ModelError: nothing has computed it.
        """
        if number not in self.maps:
            raise ModelError("the file is damaged: an operator reads what nothing has computed")
        return self.maps[number]

    def single(self, number: int) -> str:
        """The name of a tensor that is one map."""
        parts = self.parts(number)
        if len(parts) != 1:
            raise ModelError("the file uses a concatenation other than before a convolution, as no DeepLab does")
        return parts[0].name


def convert(data: bytes, facts: ModelFacts) -> bytes:
    """Convert a TFLite file of DeepLab (V3 on MobileNet; quantised or float).

    Args:
        data: the TFLite file.
        facts: what the ONNX file shall say of itself.

    Returns:
        The ONNX file: uint8 N×H×W×3 RGB in, float32 N×C×h×w scores out, N, H and W dynamic. H and W are 1 more
        than a multiple of the output stride (at other sizes TensorFlow pads otherwise than this graph).

    Raises:
        ModelError: the file is none, is damaged, or no DeepLab.
    """
    graph = parse(data)
    if len(graph.inputs) != 1:
        raise ModelError(f"the file takes {len(graph.inputs)} inputs; a network takes one picture")
    builder = _Builder(graph)
    for name, value in (("zero", 0), ("six", 6)):  # the bounds of ReLU6
        builder.constant(name, np.array(value, np.float32))
    builder.maps[graph.inputs[0]] = (_Part(_normalise(builder), 3),)
    last = None
    for step in graph.operators:
        if _ends(builder, step):
            break
        _emit(builder, step)
        last = step.outputs[0]
    if last is None or len(builder.maps.get(last, ())) != 1:
        raise ModelError("the file has no scores")
    scores = builder.maps[last][0]
    if scores.channels != len(facts.labels):
        raise ModelError(f"the file scores {scores.channels} classes, not {len(facts.labels)}")
    builder.add("Identity", scores.name, output=SCORES)
    return model(
        builder.nodes,
        builder.tensors,
        Port(PICTURE, "uint8", ("batch", "height", "width", 3)),
        Port(SCORES, "float32", ("batch", scores.channels, "score_height", "score_width")),
        facts.to_properties(),
    )


def _normalise(builder: _Builder) -> str:
    """Bytes to what the first convolution wants; a quantised file tells by the scale of its input."""
    source = builder.graph.tensors[builder.graph.inputs[0]]
    # A float file leaves it to its user: every MobileNet of Google's wants -1 to 1.
    scale, zero = (source.scale[0], source.zero_point[0]) if source.scale else (1 / 127.5, 127.5)
    builder.add("Transpose", PICTURE, output="planes", perm=(0, 3, 1, 2))
    builder.add("Cast", "planes", output="floats", to=1)
    builder.add("Sub", "floats", builder.constant("middle", np.array(zero, np.float32)), output="centred")
    return builder.add("Mul", "centred", builder.constant("scale", np.array(scale, np.float32)), output="normalised")


def _ends(builder: _Builder, step: Operator) -> bool:
    """Whether the scores are there: what follows only enlarges them and takes the best."""
    return step.op is Op.ARG_MAX or (step.op is Op.RESIZE_BILINEAR and step.inputs[0] not in builder.pooled)


def _emit(builder: _Builder, step: Operator) -> None:
    source, target = step.inputs[0], step.outputs[0]
    if step.op in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
        _convolution(builder, step)
    elif step.op is Op.ADD:
        name = builder.add("Add", *(builder.single(number) for number in step.inputs), output=f"sum_{target}")
        builder.maps[target] = (_Part(_activated(builder, name, step.activation), builder.parts(source)[0].channels),)
    elif step.op is Op.AVERAGE_POOL_2D:
        if step.window != builder.graph.tensors[source].shape[1:3]:
            raise ModelError("the file averages over windows, where a DeepLab averages over the whole picture")
        name = builder.add("GlobalAveragePool", builder.single(source), output=f"mean_{target}")
        builder.maps[target] = (_Part(name, builder.parts(source)[0].channels),)
    elif step.op is Op.CONCATENATION:
        builder.maps[target] = tuple(part for number in step.inputs for part in builder.parts(number))
    else:  # the spreading of the pooled picture, and requantisation, change nothing here
        builder.maps[target] = builder.parts(source)
    if (source in builder.pooled and step.op is not Op.CONCATENATION) or step.op is Op.AVERAGE_POOL_2D:
        builder.pooled.add(target)


def _convolution(builder: _Builder, step: Operator) -> None:
    """A convolution; over a concatenation it is the sum of one a part, and 1×1 maps add to all positions."""
    target = step.outputs[0]
    kernel = builder.graph.tensors[step.inputs[1]].values()
    if kernel.ndim != 4:
        raise ModelError("the file is damaged: a convolution's weights have no four sides")
    depthwise = step.op is Op.DEPTHWISE_CONV_2D
    kernel = kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2)
    parts = builder.parts(step.inputs[0])
    given = sum(part.channels for part in parts)
    if given != (kernel.shape[0] if depthwise else kernel.shape[1]) or (depthwise and len(parts) > 1):
        raise ModelError("the file is damaged: a convolution's weights do not fit its input")
    if len(parts) > 1 and kernel.shape[2:] != (1, 1):
        raise ModelError("the file convolves a concatenation with a window, as no DeepLab does")
    bias = builder.graph.tensors[step.inputs[2]].values() if len(step.inputs) > 2 and step.inputs[2] >= 0 else None
    if bias is not None and bias.shape != kernel.shape[:1]:
        raise ModelError("the file is damaged: a convolution's bias does not fit its weights")
    rows, columns = (rate * (side // 2) for rate, side in zip(step.dilation, kernel.shape[2:], strict=True))
    first, names = 0, []
    for index, part in enumerate(parts):
        name = f"conv_{target}_{index}"
        weights = kernel if depthwise else kernel[:, first : first + part.channels]
        operands = [part.name, builder.constant(f"{name}_weights", np.ascontiguousarray(weights))]
        if index == 0 and bias is not None:
            operands.append(builder.constant(f"{name}_bias", bias))
        builder.add(
            "Conv",
            *operands,
            output=name,
            kernel_shape=kernel.shape[2:],
            strides=step.stride,
            dilations=step.dilation,
            pads=(rows, columns, rows, columns),
            group=given if depthwise else 1,
        )
        first += part.channels
        names.append(name)
    total = names[0]
    for index, name in enumerate(names[1:], 1):
        total = builder.add("Add", total, name, output=f"total_{target}_{index}")
    builder.maps[target] = (_Part(_activated(builder, total, step.activation), kernel.shape[0]),)


def _activated(builder: _Builder, name: str, activation: Activation) -> str:
    if activation is Activation.NONE:
        return name
    if activation is Activation.RELU:
        return builder.add("Relu", name, output=f"{name}_relu")
    return builder.add("Clip", name, "zero", "six", output=f"{name}_relu6")
