"""An interpreter of ONNX graphs in torch: an independent opinion on what a graph computes.

It knows the operators of the networks exported and converted here and of common segmentation networks
(opset 13 and later), one line or a few each, written from the operators' specification
(https://onnx.ai/onnx/operators/) and not for speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from engines.base import ModelError

Attributes = dict[str, Any]
Operator = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: what it does, with which attributes, to which tensors."""

    kind: str
    attributes: Attributes
    inputs: tuple[str, ...]
    output: str

    def __call__(self, *operands: Tensor | None) -> Tensor:
        """What it makes of its operands."""
        return OPERATORS[self.kind](self.attributes, *operands)


class TorchGraph(nn.Module):
    """A graph that maps one picture to one tensor of scores; its constants are the module's buffers.

    Args:
        source: the ONNX file, or what is in it.
        output: name of the tensor to compute.

    Raises:
        ModelError: the file is unreadable or has an operator that is not known here.
    """

    def __init__(self, source: Path | bytes, output: str) -> None:
        super().__init__()
        path = source if isinstance(source, Path) else "the graph"
        try:
            graph = (onnx.load(str(source)) if isinstance(source, Path) else onnx.load_from_string(source)).graph
        except Exception as error:  # protobuf's own exceptions are private to it
            raise ModelError(f"{path} is no ONNX model: {error}") from error
        constants = {item.name: _tensor(item) for item in graph.initializer}
        (self._input,) = (value.name for value in graph.input if value.name not in constants)
        self._output = output
        self._steps: list[_Step] = []
        for node in graph.node:
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = _constant(attributes)
                continue
            if node.op_type not in OPERATORS or len(node.output) != 1:
                raise ModelError(f"{path}: the torch engine does not know the operator {node.op_type}")
            if node.input and all(name in constants for name in node.input):  # such as weights stored in half
                operands = [constants[name] for name in node.input]
                constants[node.output[0]] = OPERATORS[node.op_type](attributes, *operands)
                continue
            self._steps.append(_Step(node.op_type, attributes, tuple(node.input), node.output[0]))
        self._places: dict[str, str] = {}
        self._numbers: dict[str, NDArray[Any]] = {}
        for name, value in constants.items():
            self._keep(name, value)
        self._count_readers()

    def _keep(self, name: str, value: Tensor) -> None:
        self._places[name] = f"constant_{len(self._places)}"
        self.register_buffer(self._places[name], value)

    def _count_readers(self) -> None:
        self._readers = Counter(name for step in self._steps for name in step.inputs)
        self._readers[self._output] += 1

    def fix_size(self, picture: Tensor) -> None:
        """Make constants of what follows from a picture's size alone; from then on pictures must have that size.

        Args:
            picture: any of the size.
        """
        values, steps = {self._input: picture}, []
        for step in self._steps:
            result = step(*self._operands(step, values))
            if step.kind == "Shape" or all(not name or name in self._places for name in step.inputs):
                self._keep(step.output, result)
                continue
            values[step.output] = result
            steps.append(step)
            if step.kind in READ:
                known = (name for name in step.inputs[1:] if name in self._places)
                self._numbers |= {name: self.get_buffer(self._places[name]).cpu().numpy() for name in known}
        self._steps = steps
        self._count_readers()

    def forward(self, picture: Tensor) -> Tensor:
        """The scores of a picture, in the graph's own layout and type."""
        values: dict[str, Tensor] = {self._input: picture}
        left = self._readers.copy()
        for step in self._steps:
            values[step.output] = step(*self._operands(step, values))
            for name in step.inputs:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
        return values[self._output]

    def _operands(self, step: _Step, values: dict[str, Tensor]) -> list[Any]:
        if step.kind not in READ:
            return [self._value(name, values) for name in step.inputs]
        first, *others = step.inputs
        numbers = self._numbers
        read = (numbers[name] if name in numbers else self._value(name, values) for name in others)
        return [self._value(first, values), *read]

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor | None:
        if name in self._places:
            return self.get_buffer(self._places[name])
        return values[name] if name else None  # an input that is left out has no name


def _tensor(item: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(item).copy())


def _constant(attributes: Attributes) -> Tensor:
    if "value" in attributes:
        return _tensor(attributes["value"])
    return torch.tensor(next(iter(attributes.values())))


def _sides(values: Tensor | NDArray[Any]) -> list[int]:
    return [int(value) for value in values.reshape(-1)]


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError(f"auto_pad {a['auto_pad'].decode()} is not known here")
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):  # torch pads evenly
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    strides, dilations = a.get("strides", (1, 1)), a.get("dilations", (1, 1))
    return F.conv2d(x, weight, bias, tuple(strides), (top, left), tuple(dilations), a.get("group", 1))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", (1, 1)), ceil_mode=bool(a.get("ceil_mode", 0)))


def _clip(_: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    # As numbers: torch clamps by tensors ten times slower.
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def _pad(a: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    if a.get("mode", b"constant") != b"constant":
        raise ValueError(f"Pad {a['mode'].decode()} is not known here")
    sides, around = _sides(pads), [0] * (2 * x.ndim)
    over = _sides(axes) if axes is not None else list(range(x.ndim))
    for index, axis in enumerate(over):  # torch counts from the last axis
        last = x.ndim - 1 - axis % x.ndim
        around[2 * last], around[2 * last + 1] = sides[index], sides[index + len(over)]
    return F.pad(x, around, value=0.0 if value is None else value.item())


def _divide(_: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _reduce_mean(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _sides(axes) if axes is not None else list(a.get("axes", range(x.ndim)))
    return x.mean(over, keepdim=bool(a.get("keepdims", 1)))


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(getattr(torch, onnx.helper.tensor_dtype_to_np_dtype(a["to"]).name))


def _slice(_: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None) -> Tensor:
    jumps = _sides(steps) if steps is not None else [1] * len(_sides(starts))
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(_sides(starts), _sides(ends), _sides(axes), jumps, strict=True):
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _reshape(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(_sides(shape))])


def _squeeze(_: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_sides(axes))


def _unsqueeze(_: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(_sides(axes)):
        x = x.unsqueeze(axis)
    return x


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    taken = x.index_select(a.get("axis", 0), indices.reshape(-1).long())
    return taken.reshape(*indices.shape, *x.shape[1:]) if a.get("axis", 0) == 0 else taken


def _resize(
    a: Attributes, x: Tensor, _roi: Any = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    mode, how = a.get("mode", b"nearest").decode(), a.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        options: dict[str, Any] = {"mode": "bilinear", "align_corners": how == "align_corners"}
    elif mode == "nearest" and how == "asymmetric" and a.get("nearest_mode", b"") == b"floor":
        options = {"mode": "nearest"}
    else:
        raise ValueError(f"Resize {mode} {how} is not known here")
    if sizes is not None and len(sizes):
        return F.interpolate(x, size=_sides(sizes)[2:], **options)
    assert scales is not None
    return F.interpolate(x, scale_factor=[float(scale) for scale in scales[2:]], **options)


def _expand(x: Tensor, shape: list[int]) -> Tensor:
    """Broadcast both ways: a side of 1 on either side gives way."""
    own = [1] * (len(shape) - x.ndim) + list(x.shape)
    wanted = [1] * (x.ndim - len(shape)) + shape
    return x.expand([mine if side == 1 else side for mine, side in zip(own, wanted, strict=True)])


def _quantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    steps = torch.round(x / _along(a, x, scale)) + _along(a, x, zero).float()
    return steps.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shift = 0 if zero is None else _along(a, x, zero).float()
    return (x.float() - shift) * _along(a, x, scale)


def _along(a: Attributes, x: Tensor, values: Tensor) -> Tensor:
    """One value, or one for each index of the quantisation's axis, ready to broadcast."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[a.get("axis", 1)] = -1
    return values.reshape(shape)


READ = frozenset({"Clip", "Expand", "Pad", "ReduceMean", "Reshape", "Resize", "Slice", "Squeeze", "Unsqueeze"})
"""Operators whose operands after the first are read as numbers; once known they are no tensors of a GPU's any more."""

OPERATORS: dict[str, Operator] = {
    "Add": lambda _, x, y: x + y,
    "BatchNormalization": lambda a, x, g, b, m, v: F.batch_norm(x, m, v, g, b, eps=a.get("epsilon", 1e-5)),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Expand": lambda _, x, shape: _expand(x, _sides(shape)),
    "Gather": _gather,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "HardSwish": lambda _, x: F.hardswish(x),
    "Identity": lambda _, x: x,
    "Max": lambda _, *parts: reduce(torch.maximum, parts),
    "MaxPool": _max_pool,
    "Min": lambda _, *parts: reduce(torch.minimum, parts),
    "Mul": lambda _, x, y: x * y,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceMean": _reduce_mean,
    "Relu": lambda _, x: x.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")], dtype=torch.int64),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Squeeze": _squeeze,
    "Sub": lambda _, x, y: x - y,
    "Transpose": lambda a, x: x.permute(*a["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""What is known: each takes the node's attributes and its operands."""
