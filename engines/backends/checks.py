"""Whether arrays are what a session was compiled for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.base import EngineError, Scores


def check_arrays(
    image: NDArray[np.uint8], out: Scores, size: tuple[int, int], scores: tuple[int, int, int], *, half: bool = False
) -> None:
    """See that a picture and a score array are what a session was compiled for.

    Raises:
        EngineError: naming the array and what it must be.
    """
    _check_array("picture", image, np.dtype(np.uint8), (*size, 3))
    _check_array("score array", out, np.dtype(np.float16 if half else np.float32), scores)
    if not out.flags.writeable:
        raise EngineError("the score array is read-only")


def check_batch(
    images: Sequence[NDArray[np.uint8]],
    outs: Sequence[Scores],
    most: int,
    size: tuple[int, int],
    scores: tuple[int, int, int],
    *,
    half: bool = False,
) -> None:
    """See that a batch is no larger than ``most``, and that its arrays are what a session was compiled for.

    Raises:
        EngineError: as `check_arrays`, or too many pictures.
    """
    check_count(len(images), most)
    if len(images) != len(outs):
        raise EngineError(f"{len(images)} pictures and {len(outs)} score arrays: give each one its own")
    for image, out in zip(images, outs, strict=True):
        check_arrays(image, out, size, scores, half=half)


def check_count(count: int, most: int) -> None:
    """See that there is something in a batch, and not more than ``most``.

    Raises:
        EngineError: naming both numbers.
    """
    if not 1 <= count <= most:
        raise EngineError(f"a batch of {count} pictures: the engine was opened for 1 to {most} at once")


def _check_array(what: str, array: object, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    wanted = f"{'×'.join(map(str, shape))} {dtype.name}"
    if not isinstance(array, np.ndarray):
        raise EngineError(f"the {what} is a {type(array).__name__}, not a numpy array of {wanted}")
    if array.dtype != dtype or array.shape != shape:
        raise EngineError(f"the {what} is {'×'.join(map(str, array.shape))} {array.dtype}, not {wanted}")
    if not array.flags.c_contiguous:
        raise EngineError(f"the {what} is not contiguous: pass numpy.ascontiguousarray(…) of it")
