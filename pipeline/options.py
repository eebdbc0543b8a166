"""What a run is asked to do, as one frozen tree; the stream's own defaults stand here.

Options of a part (a source, a video file, the CRF …) are that part's own dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.sinks import RecordOptions, ServeOptions, VideoOptions
from pipeline.sources import SourceOptions
from pipeline.stages.refine import RefineOptions
from pipeline.stages.render import RenderOptions

MODES = ("auto", "live", "lossless")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """One input and where its results go.

    Attributes:
        uri: file, glob, directory, camera, network stream …: see `pipeline.sources.open_source`.
        name: short name, fit for a file name; made from the URI where None.
        outputs: overlays to write: see `pipeline.sinks.open_output`.
        masks: label masks to write: see `pipeline.sinks.open_masks`.
    """

    uri: str
    name: str | None = None
    outputs: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.uri:
            raise ConfigError("uri is empty: name what to read")


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
class RunOptions:
    """A whole run.

    Attributes:
        inputs: what to read and where the results go.
        mode: ``"lossless"`` waits for the slowest part, ``"live"`` drops the oldest frame instead,
            ``"auto"`` is live for cameras and network streams.
        source, video, render: options of those parts, the same for every input.
        model, engine, refine: see there.
        serve: who may reach what the run serves.
        record: how long files with the clock in their names are, and how many are kept.
    """

    inputs: tuple[InputOptions, ...]
    mode: str = "auto"
    source: SourceOptions = field(default_factory=SourceOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    engine: EngineChoice = field(default_factory=EngineChoice)
    refine: RefineOptions = field(default_factory=RefineOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    video: VideoOptions = field(default_factory=VideoOptions)
    serve: ServeOptions = field(default_factory=ServeOptions)
    record: RecordOptions = field(default_factory=RecordOptions)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is unknown: choose from {', '.join(MODES)}")
