"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), as much as ONNX and Caffe files need.

Nothing is copied: fields are offsets into the mapped file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TEXT_BYTES = 4 << 20
"""Longest name or property that is read: a label list takes kilobytes."""

MAX_ITEMS = 1 << 20
"""Most fields of one message: far beyond any network, near enough to stop a forged file."""


class MalformedError(Exception):
    """The bytes are not what the format promises."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: where its payload lies, or the varint itself (then ``stop`` is 0)."""

    number: int
    start: int = 0
    stop: int = 0
    varint: int = 0


@dataclass(frozen=True, slots=True)
class WireReader:
    """Messages between two offsets of a mapped file."""

    data: mmap.mmap

    def text(self, field: Field, number: int) -> str:
        """The string field ``number`` of a message, empty where absent."""
        for part in self.messages(field, number):
            if part.stop - part.start > MAX_TEXT_BYTES:
                raise MalformedError(f"a text of {part.stop - part.start} bytes")
            try:
                return self.data[part.start : part.stop].decode()
            except UnicodeDecodeError as error:
                raise MalformedError("a name that is not UTF-8") from error
        return ""

    def messages(self, field: Field, number: int) -> Iterator[Field]:
        """The length-delimited fields ``number`` of a message."""
        for part in self.fields(field.start, field.stop):
            if part.number == number and part.stop:
                yield part

    def fields(self, at: int, stop: int) -> Iterator[Field]:
        """All fields of the message between two offsets."""
        for _ in range(MAX_ITEMS):
            if at == stop:
                return
            key, at = self.varint(at, stop)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise MalformedError("a field without a number")
            if wire == 0:
                value, at = self.varint(at, stop)
                yield Field(number, varint=value)
                continue
            if wire == 2:
                length, at = self.varint(at, stop)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise MalformedError(f"wire type {wire}")
            if length > stop - at:
                raise MalformedError(f"{length} bytes announced, {stop - at} there")
            yield Field(number, at, at + length)
            at += length
        raise MalformedError(f"more than {MAX_ITEMS} fields in one message")

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        """A base-128 number at an offset, and the offset behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= stop:
                raise MalformedError("it ends inside a number")
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise MalformedError("a number of more than 64 bits")
