"""What every engine promises, whatever runs inside.

An `Engine` is one network in one backend.  It compiles a `Session` for each input
size that it is asked for; a session takes pictures as bytes and fills score arrays
that the caller owns, several requests at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.labels import LabelSet

Scores = NDArray[np.float32] | NDArray[np.float16]
"""Of one picture, classes×height×width."""


class EngineError(Exception):
    """An engine that cannot be found, built or run; the message names the way out."""


class MissingEngineError(EngineError):
    """A backend whose library is not installed or cannot be loaded here."""


class CancelledError(EngineError):
    """A session that would take minutes, of an engine that was told to give up (`Engine.cancel`)."""


class ModelError(EngineError):
    """A model file that is missing, unreadable or does not fit."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor at the engine's border.

    Attributes:
        name: its name in the network.
        dtype: ``"uint8"``, ``"float32"`` or ``"float16"``.
        shape: sizes, -1 where dynamic.
        kind: ``"rgb8"`` (N×H×W×3 bytes; a GPU engine may add ``"nv12"``) for inputs, ``"scores"``
            (N×C×h×w) or ``"labels"`` (N×H×W) for outputs.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Model:
    """A network ready to be compiled, and all that the pipeline must know of it.

    Attributes:
        name: what people call it.
        path: the ONNX file.
        labels: meaning of the channels.
        size: preferred short side of the input, in pixels.
        output_stride: input sides are multiples of this (plus one with ``align_corners``).
        align_corners: see `pipeline.frame.Geometry`.
        licence: terms of the weights.
        sha256: hash of the file, hexadecimal.
        mean, std: subtracted from the 0–255 picture and divided into it by the backend, or None where the
            graph normalises by itself (as every model exported here does).
        layout: ``"nhwc"`` or ``"nchw"``, the graph's own input layout.
        input_dtype: ``"uint8"``, ``"float16"`` or ``"float32"``, the graph's own input type.
        channels: ``"rgb"`` or ``"bgr"``, the order that the graph wants; the pipeline always hands over
            RGB, ``mean`` and ``std`` are in the graph's order.
        input_name, output_name: the tensors to feed and to read.
        fixed_size: (height, width) where the graph takes no other size, else None.
        quantised: the graph carries int8 quantisation (Q/DQ nodes).
        half: its labels were seen to hold in half precision, so precision ``auto`` may take that.
        batches: the graph takes several pictures at once.
        probabilities: the scores are some, not logits: the graph ends in a softmax or a sigmoid.
    """

    name: str
    path: Path
    labels: LabelSet
    size: int
    output_stride: int
    align_corners: bool
    licence: str
    sha256: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    layout: str = "nhwc"
    input_dtype: str = "uint8"
    channels: str = "rgb"
    input_name: str = "image"
    output_name: str = "scores"
    fixed_size: tuple[int, int] | None = None
    quantised: bool = False
    half: bool = False
    batches: bool = False
    probabilities: bool = False


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine shall run.

    Attributes:
        precision: ``"auto"`` (the backend's fastest that was seen to keep the labels), ``"fp32"``,
            ``"fp16"`` (half precision: bf16 on a CPU that multiplies that and no fp16) or ``"int8"``.
        threads: CPU threads for the whole engine; 0 leaves it to the backend.
        requests: how many requests shall be in flight at once (1: lowest latency).
        overlap: one more may be where pictures are copied to a processor of its own, so that copies go on beside the
            computing; no other engine takes more.
        cache: directory of the user's own for compiled models, or None.
        batch: most pictures that will come at once; above 1 only where the model's ``batches`` is true.
        half_scores: whoever reads the scores takes float16, too: a GPU that computes in it need not widen them.
    """

    precision: str = "auto"
    threads: int = 0
    requests: int = 1
    cache: Path | None = None
    batch: int = 1
    half_scores: bool = False
    overlap: bool = False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs: for logs and the report.

    Attributes:
        backend: a key of `engines.backends.BACKENDS`.
        version: the backend library's version.
        device: the processor as the backend names it.
        precision: the arithmetic really used.
        threads: CPU threads in use, 0 if the backend decides.
        requests: requests that may be in flight.
        asked: the precision that was asked for.
        max_batch: pictures of the largest request; above 1 its sessions are `BatchSession`. 1 as well where a batch
            would be no faster than its pictures one by one.
        half_scores: arrays of scores are float16, not float32.
    """

    backend: str
    version: str
    device: str
    precision: str
    threads: int
    requests: int
    asked: str = "auto"
    max_batch: int = 1
    half_scores: bool = False

    @property
    def arithmetic(self) -> str:
        """The precision as people are told of it: that used, and that asked for where it is another one."""
        same = self.asked in ("auto", self.precision)
        return self.precision if same else f"{self.precision} in place of {self.asked}"


class Request(Protocol):
    """A picture, or a batch of them, on its way through the network."""

    def wait(self, timeout: float) -> None:
        """Block until the scores are in the array given to `Session.start`.

        Raises:
            EngineError: the network failed, or ``timeout`` seconds passed.
        """


@runtime_checkable
class Session(Protocol):
    """A network compiled for one input size."""

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input, in pixels."""

    @property
    def score_shape(self) -> tuple[int, int, int]:
        """(classes, height, width) of the scores."""

    def start(self, image: NDArray[np.uint8], out: Scores) -> Request:
        """Begin to score a picture; at most ``EngineInfo.requests`` may be unfinished.

        Args:
            image: height×width×3 uint8 RGB, contiguous; must not change until `Request.wait` returns.
            out: classes×height×width float32 (float16 where ``EngineInfo.half_scores``), contiguous; filled when
                `Request.wait` returns.

        Raises:
            EngineError: wrong shape, type or layout, or too many unfinished requests.
        """


@runtime_checkable
class BatchSession(Session, Protocol):
    """A session that takes several pictures at once."""

    def start_batch(self, images: Sequence[NDArray[np.uint8]], outs: Sequence[Scores]) -> Request:
        """Begin to score several pictures in one request.

        Args:
            images: 1 to ``EngineInfo.max_batch`` pictures as `start` takes them.
            outs: an array of scores for each.

        Raises:
            EngineError: as `start`, or too many pictures.
        """


@dataclass(frozen=True, slots=True)
class FrameMap:
    """What frames are, and where the network's input and its scores lie in them.

    Attributes:
        layout: of the samples, by libav's name.
        frame: (height, width) of the frame, in pixels.
        picture: (height, width) of the scaled frame in the input's top left corner.
        matrix: 3×4, from samples on the scale of 8 bits, with a 1 appended, to RGB levels 0–255; not used for RGB.
        score_map: (scale_y, offset_y, scale_x, offset_x) from frame pixels to score cells.
    """

    layout: str
    frame: tuple[int, int]
    picture: tuple[int, int]
    matrix: Sequence[Sequence[float]]
    score_map: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """A frame as it was decoded, and room for its labels.

    Attributes:
        planes: of the frame, uint8 or, above 8 bits, uint16; contiguous.
        where: what it is.
        labels: height×width uint8 of the frame, contiguous, to be filled.
    """

    planes: tuple[NDArray[np.uint8] | NDArray[np.uint16], ...]
    where: FrameMap
    labels: NDArray[np.uint8]


@runtime_checkable
class FrameSession(Session, Protocol):
    """A session that scales, converts and labels frames by itself, on a processor of its own."""

    def takes(self, layout: str) -> bool:
        """Whether frames may be of a layout, by libav's name; asked before the first frame."""

    def warm_up(self, frame: RawFrame | None) -> None:
        """Have all done that first requests would wait for; to be called before these, and harmless when repeated.

        Args:
            frame: what will come, whose labels are overwritten; None where pictures will. A frame of another size
                or layout may still be the first to need memory or a kernel.

        Raises:
            EngineError: as of a request.
        """

    def start_frames(self, frames: Sequence[RawFrame]) -> Request:
        """Begin to label frames in one request; they must not change until `Request.wait` returns.

        Args:
            frames: 1 to ``EngineInfo.max_batch``, each of any size and layout that the session takes.

        Raises:
            EngineError: as `Session.start`, or planes or labels that do not fit their map.
        """


@runtime_checkable
class Engine(Protocol):
    """One network in one backend."""

    @property
    def model(self) -> Model:
        """The network."""

    @property
    def info(self) -> EngineInfo:
        """What runs."""

    @property
    def input(self) -> TensorSpec:
        """What the engine takes."""

    @property
    def output(self) -> TensorSpec:
        """What the engine gives."""

    def session(self, height: int, width: int) -> Session:
        """The network compiled for one input size (kept, so asking again is free).

        Raises:
            EngineError: the network cannot take this size.
            CancelledError: compiling it takes minutes, and `cancel` was called before it began; TensorRT's builder
                stops under way, too.
        """

    def cancel(self) -> None:
        """Give up what takes minutes, now and from now on; sessions that are there stay.

        From any thread, and in a signal handler.
        """

    def close(self) -> None:
        """Free everything; harmless when repeated."""


@runtime_checkable
class PageLocking(Protocol):
    """An engine on a processor of its own, which copies faster where the memory here is page-locked."""

    def page_lock(self, memory: NDArray[np.generic]) -> None:
        """Let copies go straight from and to an array's memory.

        Args:
            memory: contiguous; pictures and score arrays that lie in it need no detour.

        Raises:
            EngineError: the system does not allow as much.
        """

    def page_unlock(self, memory: NDArray[np.generic]) -> None:
        """Undo `page_lock`, before the memory is freed; what is under way is waited for."""


@runtime_checkable
class OwnMemory(Protocol):
    """An engine on a processor with memory of its own, which the network does not take from the machine's."""

    def free_memory(self) -> int | None:
        """Bytes of it that are left, None where the library does not tell."""
