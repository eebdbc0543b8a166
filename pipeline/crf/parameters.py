"""What the CRF is told; its defaults stand here alone."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Real
from operator import index

NORMALIZATIONS = ("symmetric", "after")

_MAX_ITERATIONS = 1000

_MAX_WEIGHT = 1e6


@dataclass(frozen=True, slots=True)
class CRFParameters:
    """The energy of the fully connected CRF, and how long to minimise it.

    Two kernels say that near pixels (weight ``pos_w``) and near pixels of like colour (weight
    ``bi_w``) should have the same label; differing costs the same for every pair of labels.
    The defaults are the published ones of DeepLab v2 on ResNet-101 for PASCAL VOC.  Numbers may be
    Python's or numpy's.

    Attributes:
        pos_w: weight of the smoothness kernel, up to 1e6; it costs no time where it is 0.
        pos_xy: its reach, a standard deviation in pixels.
        bi_w: weight of the appearance kernel, likewise.
        bi_xy: its reach, a standard deviation in pixels.
        bi_rgb: how unlike colours may be, a standard deviation in levels (0–255).
        iterations: mean-field iterations, up to 1000; 0 leaves the network's own labels.
        normalization: where a pixel's messages are divided by the sum of their weights: half
            before and half after filtering (``"symmetric"``), or ``"after"`` it.

    Raises:
        ValueError: what is no number, or out of its range.
    """

    pos_w: float = 3.0
    pos_xy: float = 1.0
    bi_w: float = 4.0
    bi_xy: float = 67.0
    bi_rgb: float = 3.0
    iterations: int = 10
    normalization: str = "symmetric"

    def __post_init__(self) -> None:
        for field in fields(self)[:5]:
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        object.__setattr__(self, "iterations", whole_iterations(self.iterations))
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {' or '.join(map(repr, NORMALIZATIONS))}, not {self.normalization!r}")


def whole_iterations(iterations: object) -> int:
    """A number of mean-field iterations.

    Raises:
        ValueError: not a whole number from 0 to 1000.
    """
    return whole("iterations", iterations, 0, _MAX_ITERATIONS)


def whole(name: str, value: object, least: int, most: int) -> int:
    """``value`` as Python's int.

    Raises:
        ValueError: not a whole number from ``least`` to ``most``.
    """
    try:
        found = None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}, not {reprlib.repr(value)}")
    return found


def _number(name: str, value: object) -> float:
    try:
        found = float(value) if not isinstance(value, bool) and isinstance(value, Real) else None
    except OverflowError:
        found = None
    if found is None or not isfinite(found):
        raise ValueError(f"{name} is a finite number, not {reprlib.repr(value)}")
    if name.endswith("_w"):
        if not 0 <= found <= _MAX_WEIGHT:
            raise ValueError(f"{name} is a weight from 0 to {_MAX_WEIGHT:g}, not {value}")
    elif found <= 0:
        raise ValueError(f"{name} is a standard deviation and must be above 0, not {value}")
    return found
