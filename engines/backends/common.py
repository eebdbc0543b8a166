"""What every backend does the same way: sessions, requests in flight, one-line errors."""

from __future__ import annotations

import os
import platform
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from engines.base import EngineError, EngineInfo, EngineOptions, Model, Session, TensorSpec
from engines.cancellation import Cancellation

KEPT_SESSIONS = 8
"""Compiled sizes that an engine keeps: a stream that changes its size for ever must not eat the memory."""

IN_FLIGHT = 3
"""Requests that keep a GPU busy: one comes in, one is computed, one goes out. Each has memory for its largest batch."""

WARM_UP_S = 60.0
"""For the first requests, which load code and choose kernels."""

LONGEST = 1000
"""Characters of a library's message that are told: of a longer one both ends, since some say there what is wrong."""

PRECISIONS = ("auto", "fp32", "fp16", "int8")
PRECISION_HELP = (
    "fp16 is bf16 on processors that multiply that alone; int8 is for quantised models, and of street takes "
    "street-int8; default auto: the fastest that keeps the model's labels"
)


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "CPU"


def one_line(error: BaseException) -> str:
    """The part of a library's message that tells a person what is wrong, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "While "))]
    text = " ".join(telling) or " ".join(lines) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def prepare(image: NDArray[np.uint8], model: Model) -> NDArray[np.generic]:
    """A picture as the graph takes it, for backends that cannot put this into the graph.

    Args:
        image: H×W×3 uint8 RGB, contiguous.
        model: the network; where it takes such bytes itself the result is a view of ``image``.

    Returns:
        1×H×W×3 or 1×3×H×W of the graph's type, contiguous.
    """
    batch: NDArray[np.generic] = image[np.newaxis]
    if model.channels == "bgr":
        batch = batch[..., ::-1]
    if model.input_dtype != "uint8":
        batch = batch.astype(np.float32)
        if model.mean is not None and model.std is not None:
            batch = (batch - np.array(model.mean, np.float32)) / np.array(model.std, np.float32)
        batch = batch.astype(model.input_dtype)
    if model.layout == "nchw":
        batch = batch.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch)


def arithmetic(asked: str, model: Model) -> str:
    """``"int8"`` or ``"fp32"``: what a CPU backend runs a model in unless half precision was asked.

    Raises:
        EngineError: the model's weights are not of the kind asked for.
    """
    if asked == "int8" and not model.quantised:
        raise EngineError(f"{model.name} is not quantised: int8 needs a model exported with int8 (Q/DQ) weights")
    if asked in ("fp32", "fp16") and model.quantised:
        raise EngineError(f"{model.name} is quantised to int8: use its float model for {asked}")
    return "int8" if model.quantised else "fp32"


def reduced_arithmetic(asked: str, model: Model) -> str:
    """What a GPU runs a model in: half precision of itself only where the model is known to keep its labels.

    Raises:
        EngineError: the model cannot do what is asked.
    """
    kind = arithmetic(asked, model)
    return "fp16" if asked == "fp16" or (asked == "auto" and model.half and kind == "fp32") else kind


def requests_on_gpu(options: EngineOptions) -> int:
    """How many of the requests that were asked for an engine with lanes of its own on a GPU takes."""
    return min(options.requests + options.overlap, IN_FLIGHT)


def picture_shape(model: Model, size: tuple[int, int]) -> tuple[int, int, int]:
    """Of one picture of (height, width) as the graph takes it, without the batch."""
    return (*size, 3) if model.layout == "nhwc" else (3, *size)


class Quota:
    """How many requests of one engine are unfinished, all its sessions together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count one request more.

        Raises:
            EngineError: the limit is reached.
        """
        with self._lock:
            if self._used >= self.limit:
                raise EngineError(
                    f"{self._used} requests are unfinished and the engine was opened for {self.limit}: "
                    "wait for one, or open it with more requests"
                )
            self._used += 1

    def give(self) -> None:
        """Count one request less."""
        with self._lock:
            self._used -= 1


class FinishedRequest:
    """The request of a backend that computes in `Session.start`."""

    def __init__(self, quota: Quota) -> None:
        self._quota: Quota | None = quota

    def wait(self, timeout: float) -> None:  # noqa: ARG002 - nothing to wait for
        """The scores are there already; see `engines.base.Request`."""
        quota, self._quota = self._quota, None
        if quota is not None:
            quota.give()


class Lane(Protocol):
    """What runs one request at a time."""

    def wait(self, timeout: float) -> bool:
        """Block until the scores are there; False where ``timeout`` seconds have passed.

        Raises:
            EngineError: they will not come.
        """


L = TypeVar("L", bound=Lane)


class Lanes(Generic[L]):
    """A session's lanes, one for each request that may be in flight.

    Args:
        title: of the backend, for people.
        quota: the engine's.
        make: makes a lane.
    """

    def __init__(self, title: str, quota: Quota, make: Callable[[], L]) -> None:
        self.title = title
        self._quota = quota
        self._idle = deque(make() for _ in range(quota.limit))
        self._warming = threading.Lock()
        self._warm = False

    def warm_up(self, work: Sequence[Callable[[L], None]]) -> None:
        """Let each lane do some work before the first request, beside those of other sessions.

        Whoever asks again waits until it is done.

        Raises:
            EngineError: as the work, or it does not end.
        """
        with self._warming:
            for lane in () if self._warm else tuple(self._idle):
                for begin in work:
                    begin(lane)
                    if not lane.wait(WARM_UP_S):
                        raise EngineError(f"{self.title} has not finished its first pictures within {WARM_UP_S:g} s")
            self._warm = True

    def started(self, begin: Callable[[L], None]) -> LaneRequest[L]:
        """A request on an idle lane.

        Raises:
            EngineError: there are too many, or as ``begin``.
        """
        self._quota.take()
        lane = self._idle.popleft()
        try:
            begin(lane)
        except BaseException:
            self.finish(lane)
            raise
        return LaneRequest(self, lane)

    def finish(self, lane: L) -> None:
        """Take a lane back."""
        self._idle.append(lane)
        self._quota.give()


@dataclass(slots=True)
class LaneRequest(Generic[L]):
    """Pictures on their way through the network."""

    _lanes: Lanes[L]
    _lane: L | None

    def wait(self, timeout: float) -> None:
        """Block until the scores are there; see `engines.base.Request`."""
        lane = self._lane
        if lane is None:
            return
        try:
            done = lane.wait(timeout)
        except EngineError:
            self._lane = None
            self._lanes.finish(lane)
            raise
        if not done:
            raise EngineError(f"{self._lanes.title} has not finished within {timeout:g} s")
        self._lane = None
        self._lanes.finish(lane)


class SessionBase:
    """What a session knows of its sizes.

    Args:
        size: (height, width) of the input, in pixels.
        scores: the backend's 1×C×h×w.
    """

    def __init__(self, size: tuple[int, int], scores: Sequence[int]) -> None:
        _, classes, height, width = scores
        self._size = size
        self._scores = (int(classes), int(height), int(width))

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input, in pixels."""
        return self._size

    @property
    def score_shape(self) -> tuple[int, int, int]:
        """(classes, height, width) of the scores."""
        return self._scores


class EngineBase(ABC):
    """A network in one backend; a backend adds `_compile` and `_free`.

    Args:
        model: the network.
        info: what runs.
    """

    side_by_side: ClassVar[bool] = False
    """Several sizes may be compiled at once; else one waits for the other, since each takes all processors."""

    def __init__(self, model: Model, info: EngineInfo) -> None:
        self._model = model
        self._info = info
        self._quota = Quota(info.requests)
        self._cancellation = Cancellation()
        self._sessions: OrderedDict[tuple[int, int], Session] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[int, int] | None, threading.Lock] = WeakValueDictionary()
        self._compiling = 0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def model(self) -> Model:
        """The network."""
        return self._model

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def input(self) -> TensorSpec:
        """N×H×W×3 bytes, whatever the graph itself wants."""
        height, width = self._model.fixed_size or (-1, -1)
        return TensorSpec(self._model.input_name, "uint8", (1, height, width, 3), "rgb8")

    @property
    def output(self) -> TensorSpec:
        """N×C×h×w scores."""
        kind = "float16" if self._info.half_scores else "float32"
        return TensorSpec(self._model.output_name, kind, (1, len(self._model.labels), -1, -1), "scores")

    def session(self, height: int, width: int) -> Session:
        """The network compiled for one input size; see `engines.base.Engine`."""
        fixed = self._model.fixed_size
        if min(height, width) < 1:
            raise EngineError(f"an input of {width}×{height} pixels has no pixels")
        if fixed and fixed != (height, width):
            raise EngineError(
                f"{self._model.name} takes {fixed[1]}×{fixed[0]} pixels only, not {width}×{height}: "
                "export it with dynamic height and width"
            )
        key = (height, width)
        with self._lock:
            kept = self._kept(key)
            turn = self._turns.setdefault(key if self.side_by_side else None, threading.Lock())
        if kept is not None:
            return kept
        with turn:
            with self._lock:
                kept = self._kept(key)  # by whoever had the turn
                self._compiling += kept is None
            return self._compiled(key) if kept is None else kept

    def _kept(self, key: tuple[int, int]) -> Session | None:
        """The session of a size, which is the last one now that is let go; called with the lock held."""
        if self._closed:
            raise EngineError(f"the {self._info.backend} engine of {self._model.name} is closed")
        if key in self._sessions:
            self._sessions.move_to_end(key)
        return self._sessions.get(key)

    def _compiled(self, key: tuple[int, int]) -> Session:
        """A new session, which is kept; the lock is free meanwhile, so that others get theirs."""
        try:
            session = self._compile(*key)
            classes = session.score_shape[0]
            if classes != len(self._model.labels):
                raise EngineError(
                    f"{self._model.name} scores {classes} classes but {len(self._model.labels)} labels are given"
                )
            with self._lock:
                self._kept(key)
                self._sessions[key] = session
                if len(self._sessions) > KEPT_SESSIONS:
                    self._sessions.popitem(last=False)
            return session
        finally:
            with self._lock:
                self._compiling -= 1
                self._free_if_unused()

    def cancel(self) -> None:
        """Give up what takes minutes; see `engines.base.Engine`."""
        self._cancellation.set()

    def close(self) -> None:
        """Free everything; harmless when repeated."""
        self.cancel()
        with self._lock:
            self._closed = True
            self._sessions.clear()
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        """Whoever compiles still is not waited for: the last one frees; called with the lock held."""
        if self._closed and not self._compiling:
            self._free()

    @abstractmethod
    def _compile(self, height: int, width: int) -> Session:
        """A new session; where sizes are not compiled side by side, by one thread at a time."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of what is not in the sessions; harmless when repeated."""
