"""The CRF's face: arrays are checked here, once, so that no backend has to fear its input."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.parameters import CRFParameters, whole, whole_iterations
from pipeline.crf.stats import CRFStats
from pipeline.errors import ConfigError
from pipeline.frame import Float32, Geometry, UInt8

BACKENDS = ("native", "pydensecrf")

MODES = ("exact", "pruned", "live")

Logits = NDArray[np.float32] | NDArray[np.float16]

_MAX_CLASSES = 255

_MAX_SIDE = 65535

_MAX_PIXELS = 2**27

_MAX_THREADS = 256


class Backend(Protocol):
    """What computes the field; made for one size, number of classes and set of parameters."""

    def infer(
        self,
        image: UInt8,
        logits: Float32,
        geometry: Geometry,
        iterations: int,
        *,
        labels: UInt8 | None,
        marginals: Float32 | None,
    ) -> None:
        """Fill H×W labels and C×H×W marginals, where given, from checked, contiguous arrays; logits are coarse.

        Raises:
            ValueError: a logit that is not finite: who reads them all sees that without another look.
        """

    def stats(self) -> CRFStats | None:
        """Of the last picture; None if the backend does not tell, or has seen none."""


def require_backend(backend: str) -> None:
    """Make sure, without importing it, that a backend can be had.

    Raises:
        ConfigError: it is unknown, or not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"CRF backend {backend!r} is unknown: choose from {', '.join(BACKENDS)}")
    if backend == "pydensecrf" and find_spec("pydensecrf") is None:
        raise ConfigError(
            "this dense CRF needs pydensecrf, which is not installed: pip install 'deeplab-stream[crf-reference]'"
        )


class DenseCRF:
    """Mean-field inference for pictures of one size; for one thread at a time, others wait.

    Memory is kept from picture to picture, and so is the lattice of places, which depends on the size
    alone.  While the native backend computes, other Python threads run.  A forked process may use what it
    has been left with, on one thread.

    Args:
        height, width: of the pictures, in pixels: 1 to 65535 each, and at most 2^27 together.
        classes: number of labels, 1 to 255.
        parameters: of the energy.
        mode: how much of the exact answer the time allows.

            - ``"exact"``: every class at every pixel; labels are pydensecrf's.
            - ``"pruned"``: only the classes alive in the picture.  A class is left out if at every pixel its
              logit is so far below another's that no messages can make up for it: with W = pos_w + bi_w,
              W/2 below up to W = 4; W·m + log(1/m - 1) below beyond, m = (1 - √(1 - 4/W)) / 2.
              The messages to it are at most W times its own largest marginal, which then never exceeds m
              (1/2 up to W = 4).  That is a proof with the normalisation ``"after"``; symmetric messages
              may sum up to more than their weights, and W is taken a fifth larger for them, which is
              enough but for single pixels.  Where W is so large that only a probability below 1e-5
              would do, nothing is left out.  What is left out keeps the network's own probability, as
              one sum; its marginals are given as 0.
            - ``"live"``: as pruned, on fewer points.  Every pixel takes part where two classes are close or
              labels meet, one in 2×2 where they are further apart, one in 4×4 where a label is settled;
              marginals and labels are the same over such a square.
        threads: processor threads inside one picture, 1 to 256.
        backend: ``"native"``, or ``"pydensecrf"`` for comparison: exact, one thread, and it holds the GIL.

    Raises:
        ValueError: sizes, parameters or a mode that cannot be used, among them a standard deviation so
            small that the lattice would not fit its keys.
        ConfigError: the backend is not installed.
        RuntimeError: the system has not so many threads.
        MemoryError: it has not so much memory, here or with a picture of more classes or colours; the
            pictures after it may well fit again.
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
        backend: str = "native",
    ) -> None:
        self.height = whole("height", height, 1, _MAX_SIDE)
        self.width = whole("width", width, 1, _MAX_SIDE)
        if self.height * self.width > _MAX_PIXELS:
            raise ValueError(f"a picture of {height}×{width} has more than {_MAX_PIXELS} pixels")
        self.classes = whole("classes", classes, 1, _MAX_CLASSES)
        if not isinstance(parameters, CRFParameters):
            raise ValueError(f"parameters is a {type(parameters).__name__}, not CRFParameters")
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        threads = whole("threads", threads, 1, _MAX_THREADS)
        if mode != "exact" and backend == "pydensecrf":
            raise ValueError(f"mode {mode!r} needs the native kernels; pydensecrf knows 'exact' only")
        self.parameters = parameters
        require_backend(backend)
        self._backend = self._open(backend, mode, threads)

    def _open(self, backend: str, mode: str, threads: int) -> Backend:
        if backend == "pydensecrf":
            from pipeline.crf.reference import Reference  # imported here: an extra that nobody else needs

            return Reference(self.height, self.width, self.classes, self.parameters)
        from pipeline.crf.native import Native

        return Native(self.height, self.width, self.classes, self.parameters, mode=mode, threads=threads)

    @property
    def stats(self) -> CRFStats | None:
        """What the last picture took; None before it, and with pydensecrf."""
        return self._backend.stats()

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
            RuntimeError: the process was forked while another thread was inside.
        """
        shape = (self.height, self.width)
        if out is None:
            out = np.empty(shape, np.uint8)
        else:
            _check_out(out, shape, np.uint8)
        dense = out if out.strides[1] == 1 and out.strides[0] >= self.width else np.empty(shape, np.uint8)
        self._infer(image, logits, geometry, iterations, labels=dense)
        if dense is not out:
            out[:] = dense
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
        shape = (self.classes, self.height, self.width)
        if out is None:
            out = np.empty(shape, np.float32)
        else:
            _check_out(out, shape, np.float32)
        dense = out if out.flags.carray else np.empty(shape, np.float32)
        self._infer(image, logits, geometry, iterations, marginals=dense)
        if dense is not out:
            out[:] = dense
        return out

    def _infer(
        self,
        image: UInt8,
        logits: Logits,
        geometry: Geometry | None,
        iterations: int | None,
        *,
        labels: UInt8 | None = None,
        marginals: Float32 | None = None,
    ) -> None:
        image = self._checked_image(image)
        scores = self._checked_logits(logits)
        iterations = self.parameters.iterations if iterations is None else whole_iterations(iterations)
        geometry = self._checked_geometry(geometry)
        self._backend.infer(image, scores, geometry, iterations, labels=labels, marginals=marginals)

    def _checked_image(self, image: UInt8) -> UInt8:
        _check_array("image", image, (np.uint8,))
        if image.shape != (self.height, self.width, 3):
            raise ValueError(f"image is {image.shape}, not ({self.height}, {self.width}, 3)")
        return np.require(image, requirements=("C", "A"))

    def _checked_logits(self, logits: Logits) -> Float32:
        _check_array("logits", logits, (np.float32, np.float16))
        if logits.ndim != 3 or logits.shape[0] != self.classes or min(logits.shape) < 1:
            raise ValueError(f"logits are {logits.shape}, not ({self.classes}, rows, columns)")
        return np.require(logits, np.float32, ("C", "A"))

    def _checked_geometry(self, geometry: Geometry | None) -> Geometry:
        size = (self.height, self.width)
        if geometry is None:
            return Geometry(*size, *size, *size)
        if not isinstance(geometry, Geometry):
            raise ValueError(f"geometry is a {type(geometry).__name__}, not a Geometry")
        if min(geometry.picture_height, geometry.picture_width, geometry.input_height, geometry.input_width) < 1:
            raise ValueError(f"geometry has an empty picture or input: {geometry}")
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
