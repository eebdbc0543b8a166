"""Whether a run fits into the memory that is left, asked before anything large is made."""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt

from pipeline.cpu import available_memory
from pipeline.errors import ConfigError
from pipeline.frame import Geometry

ENGINE_BYTES = 125
"""What a picture in the engine takes, in bytes a pixel of the network's input.

Measured with `street` in OpenVINO, 912×512 to 1824×1024, one request and two: 125 to 131.  Nearly all
are MobileNetV2's widest feature maps (96 channels of float32 at half the size); larger encoders take
more, so what is refused by this would not have fitted with them either.
"""

SLOT_BYTES = 3
"""What the network's input takes in a slot, in bytes a pixel: RGB."""


def refuse_too_large(geometries: Collection[Geometry], size: int, *, requests: int, slots: int) -> None:
    """See that the network's inputs are not larger than the memory that is left.

    Args:
        geometries: of every input.
        size: short side of the network's input that was asked for, in pixels.
        requests: pictures in the engine at once.
        slots: frames in flight of each input.

    Raises:
        ConfigError: they are; the message names the largest size that is not.
    """
    left = available_memory()
    # Inputs of one size share a compiled network, but each has slots of its own.
    sizes = [(geometry.input_height, geometry.input_width) for geometry in geometries]
    needed = sum(height * width * ENGINE_BYTES * requests for height, width in set(sizes))
    needed += sum(height * width * SLOT_BYTES * slots for height, width in sizes)
    if left is None or needed <= left:
        return
    height, width = max(sizes)
    # Inputs are rounded up to the network's stride, so a little less than the root of what is left.
    largest = isqrt(size * size * left // needed) * 15 // 16
    way_out = f"choose {largest} or less" if largest >= 32 else "free some"
    raise ConfigError(
        f"size {size}: an input of {width}×{height} takes about {_gibibytes(needed)} of memory "
        f"and {_gibibytes(left)} are left; {way_out}"
    )


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
