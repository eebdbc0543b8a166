"""What a run is asked to do, as one frozen tree; the stream's own defaults stand here.

Options of a part (a source, a video file, the CRF …) are that part's own dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.crf import BACKENDS, CRFParameters
from pipeline.crf import MODES as CRF_MODES
from pipeline.errors import ConfigError
from pipeline.sinks import VideoOptions
from pipeline.sources import SourceOptions
from pipeline.stages.render import RenderOptions

MODES = ("auto", "live", "lossless")
REFINEMENTS = ("none", "guided", "crf")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """One input and where its results go.

    Attributes:
        uri: file, glob, directory, camera, network stream …: see `pipeline.sources.open_source`.
        name: short name, fit for a file name; made from the URI where None.
        outputs: overlays to write: see `pipeline.sinks.open_output`.
        masks: label masks to write: see `pipeline.sinks.open_masks`.
        source: how this input is read; as all of the run are where None.
    """

    uri: str
    name: str | None = None
    outputs: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    source: SourceOptions | None = None


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which network.

    Attributes:
        name: a name of the zoo, ``"auto"``, or an ONNX file.
        size: short side of the network's input in square pixels; the model's own where None.
    """

    name: str = "auto"
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 32 <= self.size <= 8192:
            raise ConfigError(f"size {self.size} is out of range: the short side goes from 32 to 8192 pixels")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What runs the network.

    Attributes:
        name: ``"auto"`` or a backend.
        precision: ``"auto"``, ``"fp32"``, ``"fp16"`` or ``"int8"``.
    """

    name: str = "auto"
    precision: str = "auto"


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
        if self.kind not in REFINEMENTS:
            raise ConfigError(f"refine {self.kind!r} is unknown: choose from {', '.join(REFINEMENTS)}")
        if not 0 <= self.workers <= 256:
            raise ConfigError(f"{self.workers} CRF workers are out of range: 0 (automatic) to 256")
        if self.backend not in BACKENDS:
            raise ConfigError(f"CRF backend {self.backend!r} is unknown: choose from {', '.join(BACKENDS)}")
        if self.mode not in ("auto", *CRF_MODES):
            raise ConfigError(f"CRF mode {self.mode!r} is unknown: choose from auto, {', '.join(CRF_MODES)}")
        if self.backend == "pydensecrf" and self.mode not in ("auto", "exact"):
            raise ConfigError(f"CRF mode {self.mode!r} needs the native backend: pydensecrf is exact")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A whole run.

    Attributes:
        inputs: what to read and where the results go.
        mode: ``"lossless"`` waits for the slowest part, ``"live"`` drops the oldest frame instead,
            ``"auto"`` is live for cameras and network streams.
        max_latency: milliseconds after its arrival at which a live picture is too old for the engine.
        source, video, render: options of those parts, the same for every input.
        model, engine, refine: see there.
    """

    inputs: tuple[InputOptions, ...]
    mode: str = "auto"
    max_latency: float = 200.0
    source: SourceOptions = field(default_factory=SourceOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    engine: EngineChoice = field(default_factory=EngineChoice)
    refine: RefineOptions = field(default_factory=RefineOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    video: VideoOptions = field(default_factory=VideoOptions)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is unknown: choose from {', '.join(MODES)}")
        if not self.max_latency > 0:
            raise ConfigError(f"max_latency is in milliseconds and must be above 0, not {self.max_latency}")
