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
from pipeline.slots import Slot, SlotLayout
from pipeline.stages.guided import GuidedRefiner
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
    backend: str = "pydensecrf"

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
    return WorkerPool(plan.crf_workers, _available(choice))


def refine_slot(choice: RefineChoice, slot: Slot) -> None:
    """Refine one slot here and now, in this process.

    Raises:
        ConfigError: as `worker_pool`.
    """
    if choice.kind != "none":
        open_refiner(_available(choice))(slot, 0)


def open_refiner(spec: RefineSpec) -> Callable[[Slot, int], None]:
    """In a worker: the function that refines one slot."""
    return _Refiner(spec).refine


def _available(choice: RefineChoice) -> RefineSpec:
    spec = RefineSpec(choice.kind, choice.crf)
    if spec.kind == "crf":
        require_backend(spec.backend)
    return spec


_Label = Callable[[UInt8, Slot], object]
"""Takes the picture as RGB and its slot, and writes the slot's labels."""


class _Refiner:
    """Refines slots; keeps what can be kept while their layout stays the same."""

    def __init__(self, spec: RefineSpec) -> None:
        self._make = {"crf": _crf, "guided": _guided}[spec.kind]
        self._spec = spec
        self._layout: SlotLayout | None = None
        self._label: _Label
        self._image: UInt8

    def refine(self, slot: Slot, index: int) -> None:
        """Write the labels of a slot."""
        layout = slot.layout
        if layout != self._layout:
            self._image = np.empty((layout.height, layout.width, 3), np.uint8)
            self._label = self._make(self._spec, layout)
            self._layout = layout
        to_rgb(frame_of(slot, index), self._image)
        self._label(self._image, slot)


def _crf(spec: RefineSpec, layout: SlotLayout) -> _Label:
    crf = DenseCRF(layout.height, layout.width, layout.score_shape[0], spec.parameters, backend=spec.backend)
    return lambda image, slot: crf.labels(image, slot.scores, geometry=slot.geometry, out=slot.labels)


def _guided(spec: RefineSpec, layout: SlotLayout) -> _Label:  # noqa: ARG001 - it has no options yet
    guided = GuidedRefiner(layout.height, layout.width)
    return lambda image, slot: guided.labels(image, slot.scores, slot.geometry, slot.labels)


def frame_of(slot: Slot, index: int) -> Frame:
    """The picture in a slot, without what only the streaming process knows of it."""
    layout = slot.layout
    return Frame(slot.planes, layout.format, layout.colour, index, Fraction(0), Fraction(1), 0, 0, "worker")
