"""A TFLite file as plain values: tensors, dequantised, and operators.

Field numbers are those of tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from engines.base import ModelError
from engines.convert.flatbuffer import Table, root


class Op(IntEnum):
    """The operators (BuiltinOperator) that DeepLab files use."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    RESIZE_BILINEAR = 23
    ARG_MAX = 56
    QUANTIZE = 114


class Activation(IntEnum):
    """ActivationFunctionType; its others occur in no DeepLab."""

    NONE = 0
    RELU = 1
    RELU6 = 3


SAME_PADDING = 0

LEAST_INPUTS = {Op.ADD: 2, Op.CONV_2D: 2, Op.DEPTHWISE_CONV_2D: 2}
MAX_RATE = 4096

DTYPES: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    3: np.dtype("u1"),
    4: np.dtype("<i8"),
    9: np.dtype("i1"),
}
"""TensorType; others are refused when their values are wanted."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        name: its name.
        shape: sizes, N×H×W×C for pictures.
        dtype: element type in the file, None if it is one that is not known here.
        scale, zero_point: quantisation, one entry or one a channel; empty in float files.
        channel_axis: the axis that several scales belong to.
        raw: the constant's bytes, empty for what is computed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic] | None
    scale: tuple[float, ...]
    zero_point: tuple[float, ...]
    channel_axis: int
    raw: memoryview

    def values(self) -> NDArray[np.float32]:
        """The constant as real numbers, float32 in ``shape``.

        Raises:
            ModelError: it is no constant, or its bytes do not fit its shape.
        """
        if self.dtype is None or not self.raw:
            raise ModelError(f"tensor {self.name!r} is no constant of a known type")
        if min(self.shape, default=1) < 1 or len(self.raw) != int(np.prod(self.shape)) * self.dtype.itemsize:
            raise ModelError(
                f"the file is damaged: {len(self.raw)} bytes in tensor {self.name!r} of shape {self.shape}"
            )
        stored = np.frombuffer(self.raw, self.dtype).reshape(self.shape)
        if not self.scale:
            return stored.astype(np.float32)
        along = [1] * stored.ndim
        if len(self.scale) > 1:
            along[self.channel_axis] = len(self.scale)
        scale = np.array(self.scale, np.float64).reshape(along)
        zero = np.array(self.zero_point, np.float64).reshape(along)
        return ((stored - zero) * scale).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of the graph.

    Attributes:
        op: what it does.
        inputs, outputs: tensor numbers; -1 for an absent input.
        stride, dilation: (rows, columns).
        window: (rows, columns) of a pool.
        activation: what follows at once.
    """

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (1, 1)
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True)
class Graph:
    """A TFLite model.

    Attributes:
        tensors: all tensors.
        operators: in the order of execution.
        inputs, outputs: numbers of the model's own tensors.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parse(data: bytes) -> Graph:
    """Read a TFLite file.

    Args:
        data: the file's bytes.

    Raises:
        ModelError: it is none, is damaged, or has operators that no DeepLab has.
    """
    model = root(data, b"TFL3")
    # Code numbers outgrew their first, byte-sized field: the larger of the two counts.
    codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1)]
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise ModelError(f"the file has {len(graphs)} graphs; a network has one")
    buffers = [buffer.blob(0) for buffer in model.tables(4)]
    graph = graphs[0]
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(0))
    operators = tuple(_operator(table, codes) for table in graph.tables(3))
    inputs, outputs = _numbers(graph, 1), _numbers(graph, 2)
    for step in operators:
        if len(step.inputs) < LEAST_INPUTS.get(step.op, 1) or not step.outputs or min(step.inputs[:2]) < 0:
            raise ModelError(f"the file is damaged: {step.op.name} without its inputs or outputs")
        if not all(1 <= number <= MAX_RATE for number in (*step.stride, *step.dilation, *step.window)):
            raise ModelError(f"the file is damaged: {step.op.name} with a stride or rate out of range")
    used = [number for step in operators for number in (*step.inputs, *step.outputs)]
    if not operators or any(not -1 <= number < len(tensors) for number in (*used, *inputs, *outputs)):
        raise ModelError("the file is damaged: an operator names a tensor that is not there")
    return Graph(tensors, operators, inputs, outputs)


def _numbers(table: Table, field: int) -> tuple[int, ...]:
    return tuple(int(number) for number in table.vector(field, "i"))


def _tensor(table: Table, buffers: list[memoryview]) -> Tensor:
    buffer = table.scalar(2, "I")
    if buffer >= len(buffers):
        raise ModelError("the file is damaged: a tensor has no buffer")
    quantisation = table.table(4)
    scale = quantisation.vector(2, "f") if quantisation else ()
    zero_point = quantisation.vector(3, "q") if quantisation else ()
    shape = _numbers(table, 0)
    axis = quantisation.scalar(6, "i") if quantisation else 0
    channels = shape[axis] if 0 <= axis < len(shape) else -1
    if (zero_point and len(zero_point) != len(scale)) or (len(scale) > 1 and len(scale) != channels):
        raise ModelError("the file is damaged: a tensor's quantisation does not fit it")
    return Tensor(
        name=table.text(3),
        shape=shape,
        dtype=DTYPES.get(table.scalar(1, "b")),
        scale=scale,
        zero_point=zero_point or (0,) * len(scale),
        channel_axis=axis,
        raw=buffers[buffer],
    )


def _operator(table: Table, codes: list[int]) -> Operator:
    number = table.scalar(0, "I")
    code = codes[number] if number < len(codes) else -1
    try:
        op = Op(code)
    except ValueError as error:
        raise ModelError(f"the file has operator {code}, which no DeepLab has") from error
    inputs, outputs = _numbers(table, 1), _numbers(table, 2)
    options = table.table(4)
    if options is None or op not in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.AVERAGE_POOL_2D, Op.ADD):
        return Operator(op, inputs, outputs)
    if op is Op.ADD:
        return Operator(op, inputs, outputs, activation=_activation(options, 0))
    stride = (options.scalar(2, "i"), options.scalar(1, "i"))
    if op is Op.AVERAGE_POOL_2D:
        window = (options.scalar(4, "i"), options.scalar(3, "i"))
        return Operator(op, inputs, outputs, stride, window=window, activation=_activation(options, 5))
    if options.scalar(0, "b") != SAME_PADDING:
        raise ModelError("the file has a convolution without padding, which no DeepLab has")
    # Depthwise options carry a multiplier in field 3, so what follows is one further on.
    shift = 1 if op is Op.DEPTHWISE_CONV_2D else 0
    dilation = (options.scalar(5 + shift, "i", 1), options.scalar(4 + shift, "i", 1))
    return Operator(op, inputs, outputs, stride, dilation, activation=_activation(options, 3 + shift))


def _activation(options: Table, field: int) -> Activation:
    code = options.scalar(field, "b")
    try:
        return Activation(code)
    except ValueError as error:
        raise ModelError(f"the file has activation {code}, which no DeepLab has") from error
