"""The weights of a ``.caffemodel`` under their layers' names.

Field numbers are those of caffe.proto. Both generations of layers are read: `layer` (100), whose type is a
word, and the older `layers` (2), whose type is a number and whose blobs have four sides.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.wire import Field, MalformedError, WireReader

MAX_SIDES = 8
MAX_SIDE = 1 << 31


@dataclass(frozen=True, slots=True)
class _Generation:
    """Field numbers of a layer's parts."""

    name: int
    blobs: int
    convolution: int


_V2 = _Generation(name=1, blobs=7, convolution=106)
_V1 = _Generation(name=4, blobs=6, convolution=10)


def read_caffemodel(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read a Caffe model.

    Args:
        path: The file.
        wanted: Tells whether a layer of this name is to be read.

    Returns:
        ``LAYER.weight`` and ``LAYER.bias`` of convolutions, inner products and scales, ``LAYER.running_mean`` and
        ``LAYER.running_var`` of batch norms, and ``LAYER.pad`` (one number) where a convolution tells it.

    Raises:
        OSError: The file cannot be read.
        MalformedError: It is no Caffe model, or a damaged one.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise MalformedError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).network(wanted)


class _Reader(WireReader):
    """The messages of caffe.proto that hold weights."""

    __slots__ = ()

    def network(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        """NetParameter: layers = 2 (V1LayerParameter), layer = 100 (LayerParameter)."""
        tensors: dict[str, Tensor] = {}
        layers = 0
        for field in self.fields(0, len(self.data)):
            generation = {2: _V1, 100: _V2}.get(field.number)
            if generation is None or not field.stop:
                continue
            layers += 1
            name = self.text(field, generation.name)
            if wanted(name):
                tensors |= self.layer(field, generation, name)
        if not layers:
            raise MalformedError("it has no layers")
        return tensors

    def layer(self, field: Field, generation: _Generation, name: str) -> dict[str, Tensor]:
        """The tensors of a layer; those without blobs have none."""
        blobs = [self.blob(part) for part in self.messages(field, generation.blobs)]
        if not blobs:
            return {}
        if generation is _V2 and self.text(field, 2) == "BatchNorm":
            if len(blobs) != 3 or blobs[2].numel() != 1:
                raise MalformedError(f"batch norm {name} has no mean, variance and factor")
            # Caffe keeps sums, and how much they hold; 0 of a net that was never trained means zeros.
            factor = float(blobs[2])
            scale = 1 / factor if factor else 0.0
            return {
                f"{name}.running_mean": blobs[0].flatten() * scale,
                f"{name}.running_var": blobs[1].flatten() * scale,
            }
        tensors = {f"{name}.weight": blobs[0]}
        if len(blobs) > 1:
            tensors[f"{name}.bias"] = blobs[1].flatten()
        for part in self.messages(field, generation.convolution):
            tensors |= {f"{name}.pad": torch.tensor(pad) for pad in self.numbers(part, 3, MAX_SIDES)[:1]}
        return tensors

    def blob(self, field: Field) -> Tensor:
        """BlobProto: sides = 1–4 (old), data = 5, shape = 7 (dim = 1), double_data = 8."""
        old = [1, 1, 1, 1]
        shape: list[int] | None = None
        pieces = []
        for part in self.fields(field.start, field.stop):
            if part.number in (1, 2, 3, 4) and not part.stop:
                old[part.number - 1] = part.varint
            elif part.number == 7 and part.stop:
                shape = self.numbers(part, 1, MAX_SIDES)
            elif part.number in (5, 8) and part.stop:
                kind = np.dtype("<f4" if part.number == 5 else "<f8")
                if (part.stop - part.start) % kind.itemsize:
                    raise MalformedError("a blob with half a number")
                pieces.append(np.frombuffer(self.data[part.start : part.stop], kind).astype(np.float32))
        sides = old if shape is None else shape
        values = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if prod(sides) != values.size:
            raise MalformedError(f"{values.size} numbers in a blob of shape {sides}")
        return torch.from_numpy(values.reshape(sides))

    def numbers(self, field: Field, number: int, most: int) -> list[int]:
        """A repeated length of a message, packed or not, of which there are a few."""
        found = []
        for value in self.repeated(field, number):
            found.append(value)
            if len(found) > most or value >= MAX_SIDE:
                raise MalformedError(f"a shape or a padding of more than {most} numbers, or beyond {MAX_SIDE}")
        return found

    def repeated(self, field: Field, number: int) -> Iterator[int]:
        """The values of a repeated whole number, as they are come to."""
        for part in self.fields(field.start, field.stop):
            if part.number == number and not part.stop:
                yield part.varint
            elif part.number == number:
                at = part.start
                while at < part.stop:
                    value, at = self.varint(at, part.stop)
                    yield value
