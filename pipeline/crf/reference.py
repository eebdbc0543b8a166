"""The reference: pydensecrf, which holds the GIL and one core for as long as it takes."""

from __future__ import annotations

import numpy as np
import pydensecrf.densecrf as pydensecrf

from pipeline.crf.parameters import CRFParameters
from pipeline.crf.scores import behind_the_best, unary_energy, upsample
from pipeline.frame import Float32, Geometry, UInt8

_NORMALIZATIONS = {"symmetric": pydensecrf.NORMALIZE_SYMMETRIC, "after": pydensecrf.NORMALIZE_AFTER}

_MAX_KEY = 32000
"""pydensecrf keeps lattice coordinates in 16 bits and does not notice when they run over."""


class Reference:
    """pydensecrf for pictures of one size."""

    def __init__(self, height: int, width: int, classes: int, parameters: CRFParameters) -> None:
        """Check that the parameters fit; pydensecrf itself keeps nothing from picture to picture.

        Raises:
            ValueError: a standard deviation so small that pydensecrf's lattice would overflow.
        """
        _check_lattice("pos_xy", (height - 1 + width - 1) / parameters.pos_xy, 2)
        colours = 3 * 255 / parameters.bi_rgb
        _check_lattice("bi_xy and bi_rgb", (height - 1 + width - 1) / parameters.bi_xy + colours, 5)
        self._size = (height, width)
        self._classes = classes
        self._parameters = parameters

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
        """See `pipeline.crf.dense.Backend`."""
        if not np.isfinite(logits).all():
            raise ValueError("logits contain NaN or infinite values")
        found = self.marginals(image, upsample(behind_the_best(logits), geometry), iterations)
        if labels is not None:
            labels[:] = found.argmax(axis=0)
        if marginals is not None:
            marginals[:] = found

    def stats(self) -> None:
        """It does not tell."""

    def marginals(self, image: UInt8, logits: Float32, iterations: int) -> Float32:
        """C×H×W marginals from a contiguous H×W×3 picture and C×H×W logits."""
        energy = np.ascontiguousarray(unary_energy(logits).reshape(self._classes, -1))
        return self.minimise(image, energy, iterations)

    def minimise(self, image: UInt8, energy: Float32, iterations: int) -> Float32:
        """The same from what each label costs at each pixel: C×(H·W), contiguous."""
        found = np.array(self.field(image, energy).inference(iterations), np.float32)
        return found.reshape(self._classes, *self._size)

    def field(self, image: UInt8, energy: Float32) -> pydensecrf.DenseCRF2D:
        """What pydensecrf infers in, with both kernels of the parameters."""
        height, width = self._size
        parameters = self._parameters
        normalization = _NORMALIZATIONS[parameters.normalization]
        field = pydensecrf.DenseCRF2D(width, height, self._classes)
        field.setUnaryEnergy(energy)
        field.addPairwiseGaussian(sxy=parameters.pos_xy, compat=parameters.pos_w, normalization=normalization)
        field.addPairwiseBilateral(
            sxy=parameters.bi_xy,
            srgb=parameters.bi_rgb,
            rgbim=image if image.flags.writeable else image.copy(),
            compat=parameters.bi_w,
            normalization=normalization,
        )
        return field


def _check_lattice(names: str, extent: float, dimensions: int) -> None:
    """Refuse features that reach ``extent`` standard deviations, summed over the axes.

    The lattice's coordinates are at most (d + 1)·√⅔ times that.
    """
    if extent * (dimensions + 1) * (2 / 3) ** 0.5 > _MAX_KEY:
        raise ValueError(f"{names}: too small for this picture, pydensecrf's lattice would overflow")
