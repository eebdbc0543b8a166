"""What a run is asked to do, as one frozen tree; the stream's own defaults stand here.

Options of a part (a source, a video file, the CRF …) are that part's own dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.hwaccel import HwAccel, check_choice
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
        source: how this input is read; as all of the run are where None.
    """

    uri: str
    name: str | None = None
    outputs: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    source: SourceOptions | None = None

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
class PropagateOptions:
    """What frames take over from those before them.

    Attributes:
        temporal: mix each frame's scores with the earlier ones, moved to where the picture has moved.
        infer_every: N: only every Nth frame passes the network, the others follow the motion; ``"auto"``: as many as
            the motion needs or, for live inputs and with ``target_fps``, as the pace allows.
        target_fps: frames a second that ``"auto"`` makes possible; None: the pace of the input, if it is live.
    """

    temporal: bool = False
    infer_every: int | Literal["auto"] = 1
    target_fps: float | None = None

    def __post_init__(self) -> None:
        if self.infer_every != "auto" and not 1 <= self.infer_every <= 1000:
            raise ConfigError(f"infer_every {self.infer_every!r} is out of range: auto, or 1 to 1000 frames")
        if self.target_fps is not None and not 0 < self.target_fps <= 1000:
            raise ConfigError(f"target_fps {self.target_fps:g} is out of range: above 0, to 1000")
        if self.target_fps is not None and self.infer_every != "auto":
            raise ConfigError("target_fps chooses the frames that pass the network: it needs infer_every auto")

    @property
    def active(self) -> bool:
        """Whether frames take over anything."""
        return self.temporal or self.infer_every != 1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A whole run.

    Attributes:
        inputs: what to read and where the results go.
        mode: ``"lossless"`` waits for the slowest part, ``"live"`` drops the oldest frame instead,
            ``"auto"`` is live for cameras and network streams.
        max_latency: milliseconds after its arrival at which a live picture is too old for the engine, or, with
            ``infer_every``, is labelled by the motion rather than wait for it; None: 200, and two of the input's
            intervals.
        hwaccel: whether video is decoded and encoded by an NVIDIA GPU: see `SourceOptions`.
        source, video, render: options of those parts, the same for every input.
        model, engine, refine, propagate: see there.
        serve: who may reach what the run serves.
        record: how long files with the clock in their names are, and how many are kept.
    """

    inputs: tuple[InputOptions, ...]
    mode: str = "auto"
    max_latency: float | None = None
    hwaccel: HwAccel = "auto"
    source: SourceOptions = field(default_factory=SourceOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    engine: EngineChoice = field(default_factory=EngineChoice)
    refine: RefineOptions = field(default_factory=RefineOptions)
    propagate: PropagateOptions = field(default_factory=PropagateOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    video: VideoOptions = field(default_factory=VideoOptions)
    serve: ServeOptions = field(default_factory=ServeOptions)
    record: RecordOptions = field(default_factory=RecordOptions)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is unknown: choose from {', '.join(MODES)}")
        check_choice(self.hwaccel)
        if self.max_latency is not None and not 0 < self.max_latency <= 60_000:
            raise ConfigError(f"max_latency {self.max_latency:g} is out of range: above 0, to 60000 ms")
