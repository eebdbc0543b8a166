"""Labels of single pictures from their scores, by the very functions that label frames of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from engines.base import EngineError
from engines.settings import build, read_settings
from engines.training.datasets import UInt8
from pipeline.crf import MODES, CRFParameters, DenseCRF
from pipeline.errors import ConfigError
from pipeline.frame import Float32, Geometry
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.refine import RefineOptions
from pipeline.stages.upsample import upsample_argmax

CRF_MODES = MODES


@dataclass(frozen=True, slots=True)
class Refinement:
    """What becomes of the scores.

    Attributes:
        kind: ``"none"`` (bilinear), ``"guided"`` or ``"crf"``.
        mode: of the CRF, see `pipeline.crf.MODES`.
        crf: parameters of the CRF.
    """

    kind: str = "none"
    mode: str = "pruned"
    crf: CRFParameters = field(default_factory=CRFParameters)


class Labeller:
    """Labels pictures one after the other; for one thread at a time."""

    def __init__(self, refinement: Refinement) -> None:
        self._refinement = refinement
        self._made: tuple[tuple[int, ...], GuidedRefiner | DenseCRF] | None = None

    def labels(self, image: UInt8, scores: Float32, geometry: Geometry) -> UInt8:
        """Label a picture.

        Args:
            image: RGB, H×W×3.
            scores: C×h×w logits.
            geometry: where they lie in the picture.

        Returns:
            H×W class indices.

        Raises:
            EngineError: the CRF's parameters do not fit the picture.
        """
        if self._refinement.kind == "none":
            return upsample_argmax(scores, geometry)[0]
        made = self._refiner((*image.shape[:2], scores.shape[0]))
        if isinstance(made, GuidedRefiner):
            return made.labels(image, scores, geometry)
        return made.labels(image, scores, geometry=geometry)

    def _refiner(self, shape: tuple[int, ...]) -> GuidedRefiner | DenseCRF:
        """What refines pictures of this height, width and number of classes: the last one, if it was made for them."""
        if self._made is None or self._made[0] != shape:
            height, width, classes = shape
            chosen = self._refinement
            try:
                made = (
                    GuidedRefiner(height, width)
                    if chosen.kind == "guided"
                    else DenseCRF(height, width, classes, chosen.crf, mode=chosen.mode)
                )
            except ValueError as error:
                raise EngineError(f"{chosen.kind} on {width}×{height}: {error}") from error
            self._made = (shape, made)
        return self._made[1]


def read_refinement(preset: str) -> Refinement:
    """The section ``refine`` of a preset of the stream, by its name or as a YAML file; other sections are not read.

    Raises:
        EngineError: there is no such file, or the section cannot be used; the message names the key.
    """
    section = read_settings(preset).get("refine") or {}
    options = build(RefineOptions, section, preset, ("refine",), refusals=(ValueError, ConfigError))
    return Refinement(options.kind, "pruned" if options.mode == "auto" else options.mode, options.crf)


def chosen_refinement(preset: str | None, kind: str | None, mode: str | None, iterations: int | None) -> Refinement:
    """A preset's refinement, or the default one, with what is not None in place of its own.

    Raises:
        EngineError: as `read_refinement`, or a number of iterations that cannot be.
    """
    chosen = read_refinement(preset) if preset is not None else Refinement()
    try:
        crf = chosen.crf if iterations is None else replace(chosen.crf, iterations=iterations)
    except ValueError as error:
        raise EngineError(f"--crf-iterations: {error}") from error
    return Refinement(kind or chosen.kind, mode or chosen.mode, crf)
