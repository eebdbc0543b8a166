"""What the CRF is told; its defaults stand here alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

NORMALIZATIONS = ("symmetric", "after")

_MAX_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class CRFParameters:
    """The energy of the fully connected CRF, and how long to minimise it.

    Two kernels say that near pixels (weight ``pos_w``) and near pixels of like colour (weight
    ``bi_w``) should have the same label; differing costs the same for every pair of labels.
    The defaults are the published ones of DeepLab v2 on ResNet-101 for PASCAL VOC.

    Attributes:
        pos_w: weight of the smoothness kernel.
        pos_xy: its reach, a standard deviation in pixels.
        bi_w: weight of the appearance kernel.
        bi_xy: its reach, a standard deviation in pixels.
        bi_rgb: how unlike colours may be, a standard deviation in levels (0–255).
        iterations: mean-field iterations; 0 leaves the network's own labels.
        normalization: where a pixel's messages are divided by the sum of their weights: half
            before and half after filtering (``"symmetric"``), or ``"after"`` it.
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
            _check_number(field.name, getattr(self, field.name))
        check_iterations(self.iterations)
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {' or '.join(map(repr, NORMALIZATIONS))}, not {self.normalization!r}")


def check_iterations(iterations: int) -> None:
    """Refuse what is no number of iterations.

    Raises:
        ValueError: not a whole number from 0 to 1000.
    """
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not whole or not 0 <= iterations <= _MAX_ITERATIONS:
        raise ValueError(f"iterations is a whole number from 0 to {_MAX_ITERATIONS}, not {iterations!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    if name.endswith("_w"):
        if value < 0:
            raise ValueError(f"{name} is a weight and cannot be negative, as {value} is")
    elif value <= 0:
        raise ValueError(f"{name} is a standard deviation and must be above 0, not {value}")
