"""Whether a run fits into the memory that is left, asked before anything large is made."""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt

from engines.base import Engine, OwnMemory
from pipeline.cpu import available_memory
from pipeline.errors import ConfigError
from pipeline.frame import Geometry

ENGINE_BYTES = 125
"""What a picture in the engine takes, in bytes a pixel of the network's input.

Measured with `street` in OpenVINO in single precision, 912×512 to 1824×1024, one request and two: 125 to 131.
Nearly all are MobileNetV2's widest feature maps (96 channels of float32 at half the size); larger encoders take more,
so what is refused by this would not have fitted with them either.
"""

NARROWER = {"fp16": 2, "int8": 4}
"""How often a GPU's feature maps of a precision fit into those of single precision."""

SLOT_BYTES = 3
"""What the network's input takes in a slot, in bytes a pixel: RGB."""


def refuse_too_large(geometries: Collection[Geometry], size: int, *, engine: Engine, slots: int) -> None:
    """See that the network's inputs are not larger than the memory that is left, here and on a GPU.

    Args:
        geometries: of every input.
        size: short side of the network's input that was asked for, in pixels.
        engine: what runs the network.
        slots: frames in flight of each input.

    Raises:
        ConfigError: they are; the message names the largest size that is not.
    """
    if not geometries:
        return
    info = engine.info
    # Inputs of one size share a compiled network, but each has slots of its own.
    sizes = [(geometry.input_height, geometry.input_width) for geometry in geometries]
    network = sum(height * width * ENGINE_BYTES * info.requests for height, width in set(sizes))
    here = sum(height * width * SLOT_BYTES * slots for height, width in sizes)
    if isinstance(engine, OwnMemory):
        network = network * info.max_batch // NARROWER.get(info.precision, 1)
        _refuse(max(sizes), size, network, engine.free_memory(), "of the GPU's memory")
    else:
        here += network
    _refuse(max(sizes), size, here, available_memory(), "of memory")


def _refuse(largest: tuple[int, int], size: int, needed: int, left: int | None, what: str) -> None:
    if left is None or needed <= left:
        return
    height, width = largest
    # Inputs are rounded up to the network's stride, so a little less than the root of what is left.
    fits = isqrt(size * size * left // needed) * 15 // 16
    way_out = f"choose {fits} or less" if fits >= 32 else "free some"
    raise ConfigError(
        f"size {size}: an input of {width}×{height} takes about {_gibibytes(needed)} {what} "
        f"and {_gibibytes(left)} are left; {way_out}"
    )


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
