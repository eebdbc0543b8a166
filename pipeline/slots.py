"""The ring of shared-memory slots that frames live in while they are in flight; memory only.

One slot holds the picture, the network's input, its scores and the labels of one frame.
Stages and processes hand on a slot's number; nobody copies what is in it.  The ring is an
anonymous file whose pages are reserved at once, so that nothing can be left behind in
/dev/shm and too little memory is an error here instead of a SIGBUS in the middle of a run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from pipeline.cpu import available_memory
from pipeline.errors import PipelineError
from pipeline.frame import Colour, Float32, Geometry, PixelFormat, Plane, UInt8

_ALIGNMENT = 64
"""A cache line, and the widest vector that the kernels load."""

_NO_MEMORY = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EINVAL, errno.EOVERFLOW, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Part:
    """One array inside a slot: where it begins, in bytes, and what it is."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def end(self) -> int:
        """First byte after the array."""
        return self.offset + prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """What one slot holds, and where; small, frozen and picklable, so workers get it as it is.

    Attributes:
        format: layout of the planes.
        colour: meaning of the samples.
        height, width: the picture as decoded, in pixels.
        geometry: where the network's input lies in it.
        score_shape: (classes, height, width) of the scores.
        half_scores: they are float16, not float32.
    """

    format: PixelFormat
    colour: Colour
    height: int
    width: int
    geometry: Geometry
    score_shape: tuple[int, int, int]
    half_scores: bool = False

    @property
    def parts(self) -> tuple[_Part, ...]:
        """Y, U, V, image, scores, labels: each begins at a multiple of 64 bytes."""
        image = (self.geometry.input_height, self.geometry.input_width, 3)
        arrays: list[tuple[tuple[int, ...], np.dtype[np.generic]]] = [
            *((shape, self.format.dtype) for shape in self.format.plane_shapes(self.height, self.width)),
            (image, np.dtype(np.uint8)),
            (self.score_shape, np.dtype(np.float16 if self.half_scores else np.float32)),
            ((self.height, self.width), np.dtype(np.uint8)),
        ]
        parts: list[_Part] = []
        offset = 0
        for shape, dtype in arrays:
            parts.append(_Part(offset, shape, dtype))
            offset = _aligned(parts[-1].end)
        return tuple(parts)

    @property
    def size(self) -> int:
        """Bytes of one slot, a multiple of 64."""
        return _aligned(self.parts[-1].end)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Views of one slot's memory; whoever holds the slot's number may read and write them.

    Attributes:
        index: number of the slot in its ring.
        layout: what the slot holds.
        planes: Y, U, V as 2-D arrays of ``layout.format.dtype``, contiguous.
        image: input_height×input_width×3 uint8 RGB for the network.
        scores: C×h×w float32 logits; float16 where ``layout.half_scores``, which the CRF alone takes.
        labels: height×width uint8 class indices.
    """

    index: int
    layout: SlotLayout
    planes: tuple[Plane, Plane, Plane]
    image: UInt8
    scores: Float32
    labels: UInt8

    @property
    def geometry(self) -> Geometry:
        """Where the network's input lies in the picture."""
        return self.layout.geometry


class Ring:
    """``count`` slots of one layout in an anonymous shared file.

    Made once for each input and epoch; worker processes `attach` to its descriptor.
    """

    def __init__(self, layout: SlotLayout, count: int) -> None:
        """Reserve the memory.

        Raises:
            PipelineError: there is not enough of it.
        """
        total = _checked_total(layout, count)
        fd = _reserve(total, layout, count)
        self._open(fd, layout, count)

    @classmethod
    def attach(cls, fd: int, layout: SlotLayout, count: int) -> Ring:
        """Map a ring that another process made; the descriptor becomes the ring's own."""
        _checked_total(layout, count)
        ring = cls.__new__(cls)
        ring._open(fd, layout, count)
        return ring

    def _open(self, fd: int, layout: SlotLayout, count: int) -> None:
        self.layout = layout
        self.fd = fd
        self._slots: tuple[Slot, ...] = ()
        # Populating the page table now keeps thousands of small faults out of the first frames.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        try:
            self._memory = mmap.mmap(fd, layout.size * count, flags=flags)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise PipelineError(f"cannot map {count} frame slots of {_mebibytes(layout.size)}: {error}") from error
        self._slots = tuple(_views(self._memory, layout, index) for index in range(count))

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def memory(self) -> UInt8:
        """All bytes of all slots."""
        return np.frombuffer(self._memory, np.uint8)

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ring({len(self)} × {_mebibytes(self.layout.size)})"

    def close(self) -> None:
        """Give the memory back; harmless when repeated.

        Views that somebody still holds stay valid; the memory goes with the last of them.
        """
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self._slots = ()
        with contextlib.suppress(BufferError):  # a view is still held: the last one unmaps
            self._memory.close()
        del self._memory


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _checked_total(layout: SlotLayout, count: int) -> int:
    if count < 1:
        raise ValueError(f"a ring needs at least one slot, not {count}")
    if min(layout.height, layout.width, *layout.score_shape) < 1:
        raise ValueError(f"a slot cannot be empty: {layout}")
    return layout.size * count


def _reserve(total: int, layout: SlotLayout, count: int) -> int:
    """A descriptor of ``total`` bytes of memory that really exist."""
    message = (
        f"not enough memory for {count} frame slots of {_mebibytes(layout.size)} "
        f"({layout.width}×{layout.height} {layout.format.name}); use fewer inputs or a smaller picture"
    )
    # The kernel would rather kill somebody than refuse, so ask how much is left before taking it.
    left = available_memory()
    if left is not None and total > left:
        raise PipelineError(f"{message} ({_mebibytes(left)} left)")
    fd = _anonymous_file()
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, total)
        else:
            _write_zeros(fd, total)
    except (OSError, OverflowError) as error:
        os.close(fd)
        if isinstance(error, OSError) and error.errno not in _NO_MEMORY:
            raise
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise PipelineError(
                f"{count} frame slots of {_mebibytes(layout.size)} are above the file size limit, "
                "which holds for shared memory too; raise it (ulimit -f)"
            ) from error
        raise PipelineError(message) from error
    _forbid_resizing(fd)
    return fd


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("deeplab-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile(prefix="deeplab-slots-") as file:  # unlinked from the start
        return os.dup(file.fileno())


def _write_zeros(fd: int, total: int) -> None:
    block = bytes(min(total, 1 << 20))
    written = 0
    while written < total:
        written += os.pwrite(fd, block[: total - written], written)


def _forbid_resizing(fd: int) -> None:
    """Nobody who gets the descriptor can shorten the file under the others' feet."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        with contextlib.suppress(OSError):  # not a memfd
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def _views(memory: mmap.mmap, layout: SlotLayout, index: int) -> Slot:
    base = index * layout.size

    def view(part: _Part) -> NDArray[np.generic]:
        flat = np.frombuffer(memory, part.dtype, prod(part.shape), base + part.offset)
        return flat.reshape(part.shape)

    y, u, v, image, scores, labels = (view(part) for part in layout.parts)
    return Slot(index, layout, (y, u, v), image, scores, labels)  # type: ignore[arg-type]
