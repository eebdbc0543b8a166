"""Label maps in MATLAB's files (level 5), as SBD and PASCAL-Context publish them.

Layout after "MAT-File Format" (MathWorks), the part on level 5. Nothing but matrices of bytes and of 16 bit numbers is
read, and one structure of them; a damaged file cannot make it read or take memory beyond its bounds.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_BYTES = 1 << 26
"""Of a file, and of what is unpacked from it: a hundred times the largest label map of either data set."""

HEADER_BYTES = 128
INT32, UINT32, MATRIX, COMPRESSED = 5, 6, 14, 15
STRUCTURE = 2
STORED = {2: "u1", 4: "u2"}
"""Types of stored numbers; 16 bit matrices are stored as bytes where these suffice."""

CLASSES = {9: np.uint8, 11: np.uint16}
"""Types of matrices."""

Matrix = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Elements = Iterator[tuple[int, memoryview]]


class MatlabError(ValueError):
    """A file that holds no label map; the message is a phrase."""


def read_label_map(path: Path) -> Matrix:
    """The matrix ``LabelMap`` of a file of PASCAL-Context, or ``GTcls.Segmentation`` of one of SBD: H×W.

    Raises:
        OSError: The file cannot be read.
        MatlabError: It is damaged, of another level, or holds neither.
    """
    if path.stat().st_size > MAX_BYTES:
        raise MatlabError("longer than any label map")
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]), "")
    if not order or data[125 if order == "<" else 124] != 1:
        raise MatlabError("not MATLAB's format of level 5")
    try:
        for kind, body in _elements(data[HEADER_BYTES:], order):
            found = _label_map(_unpacked(body, order) if kind == COMPRESSED else body, order)
            if found is not None:
                return found
    except (StopIteration, struct.error, zlib.error) as error:
        raise MatlabError("it is cut or damaged") from error
    raise MatlabError("neither LabelMap nor GTcls.Segmentation in it")


def _elements(data: memoryview, order: str) -> _Elements:
    """Types and contents of the elements behind each other; each begins at a multiple of eight bytes."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + length > len(data) or (start == at + 4 and length > 4):
            raise MatlabError("an element goes on behind the end of the file")
        yield kind, data[start : start + length]
        at = at + 8 if start == at + 4 else start + length + (0 if kind == COMPRESSED else -length % 8)


def _unpacked(data: memoryview, order: str) -> memoryview:
    """The matrix in a compressed element."""
    unpacked = zlib.decompressobj().decompress(data, MAX_BYTES)
    if len(unpacked) == MAX_BYTES:
        raise MatlabError("it unpacks into more than any label map")
    return _next(_elements(memoryview(unpacked), order), MATRIX)


def _next(elements: _Elements, *kinds: int) -> memoryview:
    kind, data = next(elements)
    if kind not in kinds:
        raise MatlabError(f"an element of type {kind} instead of {kinds[0]}")
    return data


def _label_map(matrix: memoryview, order: str) -> Matrix | None:
    """The label map in a variable; None if it is another one."""
    kind, shape, name, rest = _opened(matrix, order)
    if name == b"LabelMap":
        return _numbers(kind, shape, rest, order)
    if name != b"GTcls" or kind != STRUCTURE or math.prod(shape) != 1:
        return None
    (length,) = struct.unpack(f"{order}i", _next(rest, INT32))
    names = bytes(_next(rest, 1))
    if length < 1 or len(names) % length:
        raise MatlabError("names of fields of no length")
    for at in range(0, len(names), length):
        field = _next(rest, MATRIX)
        if names[at : at + length].split(b"\0")[0] == b"Segmentation":
            kind, shape, _, values = _opened(field, order)
            return _numbers(kind, shape, values, order)
    return None


def _opened(matrix: memoryview, order: str) -> tuple[int, tuple[int, ...], bytes, _Elements]:
    """Class, shape and name of a matrix, and the elements that follow them."""
    elements = _elements(matrix, order)
    flags = struct.unpack(f"{order}II", _next(elements, UINT32))[0]
    sides = _next(elements, INT32)
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    return flags & 0xFF, shape, bytes(_next(elements, 1)), elements


def _numbers(kind: int, shape: tuple[int, ...], elements: _Elements, order: str) -> Matrix:
    stored, data = next(elements)
    if kind not in CLASSES or stored not in STORED or len(shape) != 2 or min(shape) < 0:
        raise MatlabError("its label map is no matrix of bytes or of 16 bit numbers")
    values = np.frombuffer(data, order + STORED[stored]) if len(data) % (stored // 2) == 0 else np.zeros(0, np.uint8)
    if values.size != math.prod(shape) or values.itemsize > np.dtype(CLASSES[kind]).itemsize:
        raise MatlabError("its label map is not as long as its shape")
    return values.astype(CLASSES[kind]).reshape(shape, order="F")
