"""The CRF's face: arrays are checked here, once, so that no backend has to fear its input."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.parameters import CRFParameters, check_iterations
from pipeline.crf.scores import upsample
from pipeline.errors import ConfigError
from pipeline.frame import Float32, Geometry, UInt8

BACKENDS = ("reference",)

MODES = ("exact", "pruned", "live")

Logits = NDArray[np.float32] | NDArray[np.float16]

_MAX_CLASSES = 255


class Backend(Protocol):
    """What computes the field; made for one size, number of classes and set of parameters."""

    def marginals(self, image: UInt8, logits: Float32, iterations: int) -> Float32:
        """C×H×w marginals from a contiguous H×W×3 picture and C×H×W logits, both already checked."""


def require_backend(backend: str) -> None:
    """Make sure, without importing it, that a backend can be had.

    Raises:
        ConfigError: it is unknown, or not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"CRF backend {backend!r} is unknown: choose from {', '.join(BACKENDS)}")
    if find_spec("pydensecrf") is None:
        raise ConfigError(
            "the dense CRF needs pydensecrf, which is not installed: pip install 'deeplab-stream[crf-reference]'"
        )


class DenseCRF:
    """Mean-field inference for pictures of one size.

    Args:
        height, width: of the pictures, in pixels.
        classes: number of labels, 1 to 255.
        parameters: of the energy.
        mode: ``"exact"``; the reference knows no other.
        threads: processor threads inside one picture; the reference uses one.
        backend: ``"reference"`` (pydensecrf).

    Raises:
        ValueError: sizes, parameters or a mode that cannot be used.
        ConfigError: the backend is not installed.
    """

    def __init__(
        self,
        height: int,
        width: int,
        classes: int,
        parameters: CRFParameters,
        *,
        mode: str = "exact",
        threads: int = 1,
        backend: str = "reference",
    ) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"a picture of {height}×{width} is empty")
        if not 1 <= classes <= _MAX_CLASSES:
            raise ValueError(f"a CRF has 1 to {_MAX_CLASSES} classes, not {classes}")
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        if threads < 1:
            raise ValueError(f"a CRF needs at least one thread, not {threads}")
        if mode != "exact":
            raise ValueError(f"mode {mode!r} needs the native kernels; the reference knows 'exact' only")
        self.height = height
        self.width = width
        self.classes = classes
        self.parameters = parameters
        require_backend(backend)
        from pipeline.crf.reference import Reference  # imported here: an extra that nobody else needs

        self._backend: Backend = Reference(height, width, classes, parameters)

    def labels(
        self,
        image: UInt8,
        logits: Logits,
        *,
        geometry: Geometry | None = None,
        iterations: int | None = None,
        out: UInt8 | None = None,
    ) -> UInt8:
        """The most probable label of every pixel; the lowest where two are equal.

        Args:
            image: H×W×3 uint8 RGB.
            logits: C×h×w float32 or float16, at any resolution.
            geometry: where the logits lie in the picture; without it they cover it edge to edge.
            iterations: instead of the parameters' number.
            out: H×W uint8 to fill.

        Returns:
            ``out``, or a new H×W uint8 array.

        Raises:
            ValueError: an array of the wrong shape or type, or a logit that is not finite.
        """
        if out is not None:
            _check_out(out, (self.height, self.width), np.uint8)
        found = self._infer(image, logits, geometry, iterations).argmax(axis=0)
        if out is None:
            out = np.empty((self.height, self.width), np.uint8)
        out[:] = found
        return out

    def marginals(
        self,
        image: UInt8,
        logits: Logits,
        *,
        geometry: Geometry | None = None,
        iterations: int | None = None,
        out: Float32 | None = None,
    ) -> Float32:
        """The probability of every label at every pixel: C×H×W float32; else as `labels`."""
        if out is not None:
            _check_out(out, (self.classes, self.height, self.width), np.float32)
        found = self._infer(image, logits, geometry, iterations)
        if out is None:
            return found
        out[:] = found
        return out

    def _infer(self, image: UInt8, logits: Logits, geometry: Geometry | None, iterations: int | None) -> Float32:
        image = self._checked_image(image)
        scores = self._checked_logits(logits)
        if iterations is None:
            iterations = self.parameters.iterations
        check_iterations(iterations)
        geometry = self._checked_geometry(geometry)
        return self._backend.marginals(image, upsample(scores, geometry), iterations)

    def _checked_image(self, image: UInt8) -> UInt8:
        _check_array("image", image, (np.uint8,))
        if image.shape != (self.height, self.width, 3):
            raise ValueError(f"image is {image.shape}, not ({self.height}, {self.width}, 3)")
        return np.ascontiguousarray(image)

    def _checked_logits(self, logits: Logits) -> Float32:
        _check_array("logits", logits, (np.float32, np.float16))
        if logits.ndim != 3 or logits.shape[0] != self.classes or min(logits.shape) < 1:
            raise ValueError(f"logits are {logits.shape}, not ({self.classes}, rows, columns)")
        if not np.isfinite(logits).all():
            raise ValueError("logits contain NaN or infinite values")
        return np.ascontiguousarray(logits, np.float32)

    def _checked_geometry(self, geometry: Geometry | None) -> Geometry:
        size = (self.height, self.width)
        if geometry is None:
            return Geometry(*size, *size, *size)
        if (geometry.frame_height, geometry.frame_width) != size:
            raise ValueError(
                f"geometry is for pictures of {geometry.frame_height}×{geometry.frame_width}, "
                f"not {self.height}×{self.width}"
            )
        return geometry


def _check_array(name: str, array: object, dtypes: tuple[type[np.generic], ...]) -> None:
    names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is a {type(array).__name__}, not an array of {names}")
    if array.dtype not in dtypes:
        raise ValueError(f"{name} is of {array.dtype}, not {names}")


def _check_out(out: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    _check_array("out", out, (dtype,))
    assert isinstance(out, np.ndarray)
    if out.shape != shape:
        raise ValueError(f"out is {out.shape}, not {shape}")
    if not out.flags.writeable:
        raise ValueError("out cannot be written to")
