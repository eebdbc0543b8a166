"""What an inference of the CRF took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CRFStats:
    """What the last picture took.

    Attributes:
        classes: classes that took part in the inference.
        vertices: of the lattice of places and colours; 0 where none was needed.
        bytes_per_iteration: memory that an iteration in which every pixel takes part reads and writes if nothing
            stays in the caches.
    """

    classes: int
    vertices: int
    bytes_per_iteration: int
