"""The native kernels behind the CRF's face."""

from __future__ import annotations

from pipeline import _native
from pipeline.crf.parameters import CRFParameters
from pipeline.crf.stats import CRFStats
from pipeline.frame import Float32, Geometry, UInt8


class Native:
    """The C++ mean field for pictures of one size; it keeps its memory from picture to picture."""

    def __init__(
        self,
        height: int,
        width: int,
        classes: int,
        parameters: CRFParameters,
        *,
        mode: str,
        threads: int,
        level: str = "auto",
    ) -> None:
        """Prepare for pictures of one size.

        Args:
            height, width, classes, parameters, mode, threads: as `pipeline.crf.DenseCRF`'s.
            level: the instruction set: ``"auto"``, or one of `levels`.

        Raises:
            ValueError: a number out of range, or a level that the processor lacks.
        """
        self._stats: CRFStats | None = None
        self._crf = _native.DenseCRF(
            height=height,
            width=width,
            classes=classes,
            pos_w=parameters.pos_w,
            pos_xy=parameters.pos_xy,
            bi_w=parameters.bi_w,
            bi_xy=parameters.bi_xy,
            bi_rgb=parameters.bi_rgb,
            symmetric=parameters.normalization == "symmetric",
            mode=mode,
            threads=threads,
            level=level,
        )

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
        rows, columns = logits.shape[1:]
        took = self._crf.infer(image, logits, *geometry.score_map(rows, columns), iterations, labels, marginals)
        self._stats = CRFStats(*took)

    def stats(self) -> CRFStats | None:
        """See `pipeline.crf.dense.Backend`."""
        return self._stats


def levels() -> tuple[str, ...]:
    """The instruction sets that this processor can run."""
    return tuple(_native.crf_levels())
