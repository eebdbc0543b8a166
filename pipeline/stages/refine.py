"""Sharpening labels along the picture's edges, in worker processes.

The streaming process makes a pool of workers (`worker_pool`) and sends them the numbers of
slots; a worker (`open_refiner`) maps the ring and writes labels into the slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Protocol

import numpy as np

from pipeline.cpu import CpuPlan
from pipeline.crf import CRFParameters, DenseCRF, require_backend
from pipeline.errors import ConfigError
from pipeline.flow import WorkerPool
from pipeline.frame import Frame, UInt8
from pipeline.slots import Slot
from pipeline.stages.prepare import to_rgb

KINDS = ("guided", "crf")


@dataclass(frozen=True, slots=True)
class RefineSpec:
    """What the workers do; small and picklable.

    Attributes:
        kind: ``"crf"`` or ``"guided"``.
        parameters: of the CRF.
        backend: of the CRF.
    """

    kind: str
    parameters: CRFParameters = field(default_factory=CRFParameters)
    backend: str = "reference"

    target: ClassVar[str] = "pipeline.stages.refine:open_refiner"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"refinement {self.kind!r} is unknown: choose from {', '.join(KINDS)}")


class RefineChoice(Protocol):
    """What the user asked for."""

    @property
    def kind(self) -> str:
        """``"none"``, ``"guided"`` or ``"crf"``."""

    @property
    def crf(self) -> CRFParameters:
        """Parameters of the CRF."""


def worker_pool(choice: RefineChoice, plan: CpuPlan) -> WorkerPool | None:
    """The pool that refines as asked, or None if nothing shall be refined.

    Raises:
        ConfigError: what is asked for is not installed.
    """
    if choice.kind == "none":
        return None
    spec = RefineSpec(choice.kind, choice.crf)
    if spec.kind == "crf":
        require_backend(spec.backend)
    return WorkerPool(plan.crf_workers, spec)


def open_refiner(spec: RefineSpec) -> Callable[[Slot, int], None]:
    """In a worker: the function that refines one slot."""
    if spec.kind == "guided":
        raise ConfigError("the guided filter is not built yet: use --refine crf")
    return _CRFRefiner(spec).refine


class _CRFRefiner:
    """The fully connected CRF on slots; keeps what can be kept while their layout stays the same."""

    def __init__(self, spec: RefineSpec) -> None:
        self._spec = spec
        self._crf: DenseCRF | None = None
        self._image: UInt8 = np.empty((0, 0, 3), np.uint8)

    def refine(self, slot: Slot, index: int) -> None:
        """Write the labels of a slot."""
        layout = slot.layout
        crf = self._crf
        if crf is None or (crf.height, crf.width, crf.classes) != (layout.height, layout.width, layout.score_shape[0]):
            self._crf = crf = DenseCRF(
                layout.height,
                layout.width,
                layout.score_shape[0],
                self._spec.parameters,
                backend=self._spec.backend,
            )
            self._image = np.empty((layout.height, layout.width, 3), np.uint8)
        to_rgb(frame_of(slot, index), self._image)
        crf.labels(self._image, slot.scores, geometry=slot.geometry, out=slot.labels)


def frame_of(slot: Slot, index: int) -> Frame:
    """The picture in a slot, without what only the streaming process knows of it."""
    layout = slot.layout
    return Frame(slot.planes, layout.format, layout.colour, index, Fraction(0), Fraction(1), 0, 0, "worker")
