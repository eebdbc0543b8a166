"""A reader of FlatBuffers tables (https://flatbuffers.dev/internals/), as much as TFLite needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engines.base import ModelError

MAX_LENGTH = 1 << 28
"""Longest vector that is believed."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its fields are found by number through its vtable; absent ones have defaults.

    Attributes:
        data: the whole file.
        start: offset of the table.
    """

    data: bytes
    start: int

    def scalar(self, field: int, kind: str, default: int = 0) -> int:
        """An integer field; ``kind`` is a `struct` letter."""
        at = self._find(field)
        return default if at is None else int(_unpack(self.data, kind, at)[0])

    def text(self, field: int) -> str:
        """A string field, empty where absent."""
        at = self._follow(field)
        if at is None:
            return ""
        length = _length(self.data, at)
        return self.data[at + 4 : at + 4 + length].decode(errors="replace")

    def vector(self, field: int, kind: str) -> tuple[float, ...]:
        """A vector of numbers, empty where absent; ``kind`` is a `struct` letter."""
        at = self._follow(field)
        return () if at is None else _unpack(self.data, f"{_length(self.data, at)}{kind}", at + 4)

    def blob(self, field: int) -> memoryview:
        """A vector of bytes, not copied; empty where absent."""
        at = self._follow(field)
        if at is None:
            return memoryview(b"")
        return memoryview(self.data)[at + 4 : at + 4 + _length(self.data, at)]

    def table(self, field: int) -> Table | None:
        """A table inside, None where absent."""
        at = self._follow(field)
        return None if at is None else Table(self.data, at)

    def tables(self, field: int) -> tuple[Table, ...]:
        """A vector of tables, empty where absent."""
        at = self._follow(field)
        if at is None:
            return ()
        places = (at + 4 + 4 * i for i in range(_length(self.data, at)))
        return tuple(Table(self.data, place + int(_unpack(self.data, "I", place)[0])) for place in places)

    def _find(self, field: int) -> int | None:
        """Offset of a field's value."""
        vtable = self.start - int(_unpack(self.data, "i", self.start)[0])
        entry = 4 + 2 * field
        if vtable < 0 or entry + 2 > int(_unpack(self.data, "H", vtable)[0]):
            return None
        offset = int(_unpack(self.data, "H", vtable + entry)[0])
        return self.start + offset if offset else None

    def _follow(self, field: int) -> int | None:
        """Where a field that is an offset points to."""
        at = self._find(field)
        return None if at is None else at + int(_unpack(self.data, "I", at)[0])


def root(data: bytes, identifier: bytes) -> Table:
    """The root table of a file.

    Args:
        data: the whole file.
        identifier: four bytes that a file of this kind carries at offset 4.

    Raises:
        ModelError: the file is of another kind.
    """
    if data[4:8] != identifier:
        raise ModelError(f"this is no {identifier.decode()} file")
    return Table(data, int(_unpack(data, "I", 0)[0]))


def _length(data: bytes, at: int) -> int:
    length = int(_unpack(data, "I", at)[0])
    if length > min(MAX_LENGTH, len(data) - at - 4):
        raise ModelError(f"the file is damaged: {length} items announced at byte {at} of {len(data)}")
    return length


def _unpack(data: bytes, kind: str, at: int) -> tuple[float, ...]:
    try:
        return struct.unpack_from("<" + kind, data, at)
    except struct.error as error:
        raise ModelError(f"the file is damaged: byte {at} of {len(data)} is out of reach") from error
