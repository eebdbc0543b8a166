"""Pictures with their labels by number, as training wants them: from memory where they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from engines.training.datasets.reading import Sample, UInt8, read_sample

KEPT = 8 << 30
"""Bytes of pictures and labels that are kept in memory; CamVid, and VOC with SBD's labels, take less."""


class Pictures(Protocol):
    """RGB pictures, H×W×3, and labels, H×W with 255 for none, by number; a list is such, too."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[UInt8, UInt8]: ...

    def __iter__(self) -> Iterator[tuple[UInt8, UInt8]]: ...


class StoredPictures:
    """Pictures that are read when they are first asked for, and each time again once memory is used up.

    Args:
        samples: their files.
        classes: number of classes.
        ignore: labels that mean none, besides 255.
        kept: bytes of memory that they may take.
    """

    def __init__(self, samples: Sequence[Sample], classes: int, ignore: Sequence[int], *, kept: int = KEPT) -> None:
        self._samples = samples
        self._classes = classes
        self._ignore = ignore
        self._room = kept
        self._pictures: dict[int, tuple[UInt8, UInt8]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[UInt8, UInt8]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int, /) -> tuple[UInt8, UInt8]:
        """One picture and its labels.

        Raises:
            DataError: a file cannot be used.
        """
        if number in self._pictures:
            return self._pictures[number]
        image, labels = read_sample(self._samples[number], self._classes, self._ignore)
        if image.nbytes + labels.nbytes <= self._room:
            self._room -= image.nbytes + labels.nbytes
            self._pictures[number] = image, labels
        return image, labels
