"""What an ONNX file says of itself, read without the ``onnx`` package.

Only the few fields that the pipeline needs are followed (field numbers of onnx.proto); weights are
skipped, so a large model costs no memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from engines.base import ModelError
from engines.wire import Field, MalformedError, WireReader

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""TensorProto.DataType as numpy spells it."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph.

    Attributes:
        name: its name in the graph.
        dtype: numpy's name of the element type, ``"unknown"`` for anything else.
        shape: sizes, -1 where dynamic; None where the file does not give the rank.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """An ONNX file without its weights.

    Attributes:
        inputs: what must be fed (initialisers excluded).
        outputs: what comes out.
        properties: ``metadata_props`` of the model.
        operators: operator types that occur.
        made_by: the operator that makes a value, and the first value that it takes ("" if none), by the value's name.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    properties: Mapping[str, str]
    operators: frozenset[str]
    made_by: Mapping[str, tuple[str, str]]


def read_header(path: Path) -> OnnxHeader:
    """Read an ONNX file's header.

    Args:
        path: the file.

    Raises:
        ModelError: the file is missing, unreadable, or not a whole ONNX model.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelError(f"{path} is empty, not an ONNX model")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).model()
    except FileNotFoundError as error:
        raise ModelError(f"there is no model file {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except MalformedError as error:
        raise ModelError(f"{path} is {_instead(path, error)}") from error


def _instead(path: Path, error: MalformedError) -> str:
    """What a file is that is not a whole ONNX model."""
    with path.open("rb") as file:
        begin = file.read(200)
    if begin.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, not the model itself: git lfs pull fetches that"
    text = begin.decode(errors="replace").strip()
    if (
        text
        and "\ufffd" not in text[:-1]
        and text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable()
    ):
        return f"a text, no ONNX model: it begins with {text.splitlines()[0][:40]!r}"
    if begin[0] == 0x08:  # the version, with which every exporter begins
        return f"a damaged ONNX model, or only a part of one ({error}): download or export it again"
    return "no ONNX model: export the network as ONNX"


class _Reader(WireReader):
    """The messages of onnx.proto that matter."""

    __slots__ = ()

    def model(self) -> OnnxHeader:
        """ModelProto: graph = 7, metadata_props = 14 (key = 1, value = 2)."""
        properties: dict[str, str] = {}
        header = None
        for field in self.fields(0, len(self.data)):
            if field.number == 7 and field.stop:
                header = self.graph(field.start, field.stop)
            elif field.number == 14 and field.stop:
                properties[self.text(field, 1)] = self.text(field, 2)
        if header is None or not header.outputs:
            raise MalformedError("it has no graph")
        return replace(header, properties=MappingProxyType(properties))

    def graph(self, start: int, stop: int) -> OnnxHeader:
        """GraphProto: node = 1, initializer = 5 (name = 8), input = 11, output = 12.

        Of a node the type (op_type = 4) and the first that it takes (input = 1) and makes (output = 2).
        """
        inputs: list[Value] = []
        outputs: list[Value] = []
        constants: set[str] = set()
        made_by: dict[str, tuple[str, str]] = {}
        operators: set[str] = set()
        for field in self.fields(start, stop):
            if not field.stop:
                continue
            if field.number == 1:
                operator = self.text(field, 4)
                operators.add(operator)
                made_by[self.text(field, 2)] = operator, self.text(field, 1)
            elif field.number == 5:
                constants.add(self.text(field, 8))
            elif field.number == 11:
                inputs.append(self.value(field))
            elif field.number == 12:
                outputs.append(self.value(field))
        # Before ONNX IR 4 every initialiser was listed among the inputs too.
        fed = tuple(value for value in inputs if value.name not in constants)
        return OnnxHeader(fed, tuple(outputs), MappingProxyType({}), frozenset(operators), MappingProxyType(made_by))

    def value(self, field: Field) -> Value:
        """ValueInfoProto: name = 1, type = 2 → tensor_type = 1 → elem_type = 1, shape = 2 → dim = 1."""
        dtype = "unknown"
        shape: tuple[int, ...] | None = None
        for kind in self.messages(field, 2):
            for tensor in self.messages(kind, 1):
                for part in self.fields(tensor.start, tensor.stop):
                    if part.number == 1:
                        dtype = DTYPES.get(part.varint, "unknown")
                    elif part.number == 2:
                        shape = tuple(self.dimension(dim) for dim in self.messages(part, 1))
        return Value(self.text(field, 1), dtype, shape)

    def dimension(self, field: Field) -> int:
        """TensorShapeProto.Dimension: dim_value = 1, else symbolic; 0 is old exporters' "any"."""
        for part in self.fields(field.start, field.stop):
            if part.number == 1 and not part.stop:
                return part.varint if 0 < part.varint < 1 << 31 else -1
        return -1
