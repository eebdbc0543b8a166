"""ONNX files written without the ``onnx`` package: the few messages that a network needs.

The wire format is https://protobuf.dev/programming-guides/encoding/; field numbers are onnx.proto's.
Writing 60 lines here spares every user a dependency for a file that is made once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IR_VERSION = 8
OPSET = 17

_FLOAT, _INT, _INTS = 1, 2, 7
"""AttributeProto.AttributeType."""

_ELEMENTS = {"float32": 1, "uint8": 2, "int64": 7}
"""TensorProto.DataType."""

Attribute = int | float | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph.

    Attributes:
        name: its name.
        dtype: ``"uint8"``, ``"float32"`` or ``"int64"``.
        shape: a size, or the name of a dynamic one, each axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def node(op: str, inputs: Iterable[str], output: str, attributes: Mapping[str, Attribute]) -> bytes:
    """A NodeProto with one output, named after it."""
    parts = [_text(1, name) for name in inputs]
    parts += [_text(2, output), _text(3, output), _text(4, op)]
    parts += [_message(5, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(parts)


def tensor(name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    """A TensorProto holding an array."""
    parts = [_varint(1, side) for side in values.shape]
    parts += [_varint(2, _ELEMENTS[values.dtype.name]), _text(8, name)]
    parts.append(_message(9, np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()))
    return b"".join(parts)


def model(
    nodes: Iterable[bytes], tensors: Iterable[bytes], source: Port, result: Port, properties: Mapping[str, str]
) -> bytes:
    """A ModelProto: a graph of nodes from one input to one output, with metadata."""
    graph = [_message(1, part) for part in nodes]
    graph.append(_text(2, "network"))
    graph += [_message(5, part) for part in tensors]
    graph += [_message(11, _port(source)), _message(12, _port(result))]
    parts = [_varint(1, IR_VERSION), _text(2, "deeplab-stream"), _message(7, b"".join(graph))]
    parts.append(_message(8, _text(1, "") + _varint(2, OPSET)))
    parts += [_message(14, _text(1, key) + _text(2, value)) for key, value in properties.items()]
    return b"".join(parts)


def _port(port: Port) -> bytes:
    """ValueInfoProto → TypeProto → Tensor → TensorShapeProto → Dimension."""
    sides = b"".join(_message(1, _text(2, side) if isinstance(side, str) else _varint(1, side)) for side in port.shape)
    return _text(1, port.name) + _message(2, _message(1, _varint(1, _ELEMENTS[port.dtype]) + _message(2, sides)))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, tuple):
        return _text(1, name) + b"".join(_varint(8, item) for item in value) + _varint(20, _INTS)
    if isinstance(value, float):
        return _text(1, name) + _number((2 << 3) | 5) + struct.pack("<f", value) + _varint(20, _FLOAT)
    return _text(1, name) + _varint(3, value) + _varint(20, _INT)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, payload: bytes) -> bytes:
    return _number((field << 3) | 2) + _number(len(payload)) + payload


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value & 0xFFFFFFFFFFFFFFFF)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
