"""Sharpening labels along the picture's edges, in worker processes.

The streaming process makes a pool of workers (`worker_pool`) and sends them the numbers of
slots; a worker (`open_refiner`) maps the ring and writes labels into the slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np

from pipeline.cpu import CpuPlan
from pipeline.crf import BACKENDS, MODES, CRFParameters, DenseCRF, require_backend
from pipeline.errors import ConfigError
from pipeline.flow import WorkerPool
from pipeline.frame import Frame, UInt8
from pipeline.slots import Slot, SlotLayout
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.iterations import IterationBudget
from pipeline.stages.prepare import to_rgb

KINDS = ("none", "guided", "crf")

_KEPT = 4
"""Kinds of picture (size, format, live or not) that a worker keeps its memory for: as many different cameras."""


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """How the labels are sharpened.

    Attributes:
        kind: ``"none"``, ``"guided"`` (guided filter) or ``"crf"`` (fully connected CRF).
        workers: processes that refine, 0 for as many as fit the machine.
        backend: what computes the CRF, see `pipeline.crf.BACKENDS`.
        mode: how much of the CRF's exact answer the time allows, see `pipeline.crf.MODES`; ``"auto"``: ``"live"``
            for live inputs, whose iterations then keep to the stream's pace too, else ``"pruned"``.
        crf: parameters of the CRF.
    """

    kind: str = "none"
    workers: int = 0
    backend: str = "native"
    mode: str = "auto"
    crf: CRFParameters = field(default_factory=CRFParameters)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"refine {self.kind!r} is unknown: choose from {', '.join(KINDS)}")
        if not 0 <= self.workers <= 256:
            raise ConfigError(f"{self.workers} CRF workers are out of range: 0 (automatic) to 256")
        if self.backend not in BACKENDS:
            raise ConfigError(f"CRF backend {self.backend!r} is unknown: choose from {', '.join(BACKENDS)}")
        if self.mode not in ("auto", *MODES):
            raise ConfigError(f"CRF mode {self.mode!r} is unknown: choose from auto, {', '.join(MODES)}")
        if self.backend == "pydensecrf" and self.mode not in ("auto", "exact"):
            raise ConfigError(f"CRF mode {self.mode!r} needs the native backend: pydensecrf is exact")

    @property
    def takes_half_scores(self) -> bool:
        """Whether what sharpens reads scores in half precision."""
        return self.kind == "crf" and self.backend == "native"


@dataclass(frozen=True, slots=True)
class RefineSpec:
    """What the workers do; small and picklable.

    Attributes:
        kind: ``"crf"`` or ``"guided"``.
        parameters: of the CRF.
        backend: of the CRF, see `pipeline.crf.BACKENDS`.
        mode: of the CRF, see `pipeline.crf.MODES`, or ``"auto"``: ``"live"`` for frames with a deadline,
            ``"pruned"`` for others, ``"exact"`` where the backend knows nothing else.
    """

    kind: str
    parameters: CRFParameters = field(default_factory=CRFParameters)
    backend: str = "native"
    mode: str = "auto"

    target: ClassVar[str] = "pipeline.stages.refine:open_refiner"

    def __post_init__(self) -> None:
        if self.kind not in KINDS[1:]:
            raise ConfigError(f"refinement {self.kind!r} is unknown: choose from {', '.join(KINDS[1:])}")

    def mode_for(self, *, live: bool) -> str:
        """The CRF's mode for frames that have a deadline, or have none."""
        if self.mode != "auto":
            return self.mode
        if self.backend == "pydensecrf":
            return "exact"
        return "live" if live else "pruned"


@dataclass(frozen=True, slots=True)
class CRFWork:
    """What the CRF did with one frame; travels back from the worker, so it is tiny.

    Attributes:
        iterations: mean-field iterations.
        classes: classes that took part.
    """

    iterations: int
    classes: int


def worker_pool(choice: RefineOptions, plan: CpuPlan) -> WorkerPool | None:
    """The pool that refines as asked, or None if nothing shall be refined.

    Raises:
        ConfigError: what is asked for is not installed.
    """
    if choice.kind == "none":
        return None
    return WorkerPool(plan.crf_workers, _spec(choice))


def refine_slot(choice: RefineOptions, slot: Slot) -> CRFWork | None:
    """Refine one slot here and now, in this process, taking whatever time it takes.

    Returns:
        What the CRF did; None if there was none.

    Raises:
        ConfigError: as `worker_pool`.
    """
    return open_refiner(_spec(choice))(slot, 0, None) if choice.kind != "none" else None


def open_refiner(spec: RefineSpec) -> Callable[[Slot, int, float | None], CRFWork | None]:
    """In a worker: the function that refines one slot."""
    return _Refiner(spec).refine


def _spec(choice: RefineOptions) -> RefineSpec:
    spec = RefineSpec(choice.kind, choice.crf, choice.backend, choice.mode)
    if spec.kind == "crf":
        require_backend(spec.backend)
    return spec


class _Refiner:
    """Refines slots; keeps what can be kept for the next frame of the same kind."""

    def __init__(self, spec: RefineSpec) -> None:
        self._spec = spec
        self._kept: dict[tuple[SlotLayout, bool], _Guided | _CRF] = {}  # the last used one last

    def refine(self, slot: Slot, index: int, deadline: float | None) -> CRFWork | None:
        """Write the labels of a slot, in time for ``deadline`` where there is one (in ``time.monotonic()``)."""
        began = time.monotonic()
        key = (slot.layout, deadline is not None)
        work = self._kept.pop(key, None) or self._make(*key)
        self._kept[key] = work
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        to_rgb(frame_of(slot, index), work.image)
        return work.refine(slot, began, deadline)

    def _make(self, layout: SlotLayout, live: bool) -> _Guided | _CRF:
        return _CRF(self._spec, layout, live) if self._spec.kind == "crf" else _Guided(layout)


class _Guided:
    """The guided filter on the slots of one layout."""

    def __init__(self, layout: SlotLayout) -> None:
        self.image: UInt8 = np.empty((layout.height, layout.width, 3), np.uint8)
        self._filter = GuidedRefiner(layout.height, layout.width)

    def refine(self, slot: Slot, began: float, deadline: float | None) -> None:  # noqa: ARG002 - it takes what it takes
        """Label a slot by the picture in `image`."""
        self._filter.labels(self.image, slot.scores, slot.geometry, slot.labels)


class _CRF:
    """The CRF on the slots of one layout."""

    def __init__(self, spec: RefineSpec, layout: SlotLayout, live: bool) -> None:
        self.image: UInt8 = np.empty((layout.height, layout.width, 3), np.uint8)
        self._classes = layout.score_shape[0]
        self._crf = DenseCRF(
            layout.height,
            layout.width,
            self._classes,
            spec.parameters,
            mode=spec.mode_for(live=live),
            backend=spec.backend,
        )
        self._most = spec.parameters.iterations
        self._budget = IterationBudget(self._most)

    def refine(self, slot: Slot, began: float, deadline: float | None) -> CRFWork:
        """Label a slot by the picture in `image`; the time since ``began`` counts, too."""
        iterations = self._most if deadline is None else self._budget.choose(deadline - began)
        self._crf.labels(self.image, slot.scores, geometry=slot.geometry, iterations=iterations, out=slot.labels)
        self._budget.took(iterations, time.monotonic() - began)
        stats = self._crf.stats
        return CRFWork(iterations, stats.classes if stats is not None else self._classes)


def frame_of(slot: Slot, index: int) -> Frame:
    """The picture in a slot, without what only the streaming process knows of it."""
    layout = slot.layout
    return Frame(slot.planes, layout.format, layout.colour, index, Fraction(0), Fraction(1), 0, 0, "worker")
