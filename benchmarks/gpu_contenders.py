"""Who runs the networks of `benchmarks.gpu`: our engines for GPUs, and torch in three ways with its own networks."""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_networks import Exported
from engines.backends import has_nvidia_driver, open_engine
from engines.backends.common import IN_FLIGHT
from engines.base import BatchSession, EngineError, EngineOptions, PageLocking
from engines.doctor import examine_gpu
from engines.zoo import compiled_cache, load_model

WARM_UP = 10
WAIT_S = 60.0

Wait = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured, of every contender in the same two ways.

    Attributes:
        median_ms, p95_ms: of a batch alone, from its pictures in memory to its scores in memory.
        alone_per_second: pictures, one batch at a time.
        per_second: pictures, with `IN_FLIGHT` batches begun before the first is waited for. What computes before
            `Runner.start` returns cannot make use of it.
        batches: that were timed alone.
    """

    median_ms: float
    p95_ms: float
    alone_per_second: float
    per_second: float
    batches: int


@dataclass(frozen=True, slots=True)
class Rates:
    """What the card reaches where nothing holds it up.

    Attributes:
        flops: products and sums a second of a large product of half-precision matrices.
        bytes_a_second: read and written by a large copy on the card.
    """

    flops: float
    bytes_a_second: float


class Runner(Protocol):
    """A network that is ready to take batches, `IN_FLIGHT` at once."""

    def start(self) -> Wait:
        """Begin with a batch; what is returned waits for its scores."""

    def close(self) -> None:
        """Free everything."""


class Contender(Protocol):
    """A way to run networks."""

    def why_not(self) -> str:
        """Why it cannot run here; empty where it can."""

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """Make a network ready for batches."""


def time_runner(runner: Runner, batch: int, seconds: float) -> Timing:
    """Time batches alone and in flight, each for half of the seconds, after a warm-up."""
    for _ in range(WARM_UP):
        runner.start()()
    alone: list[float] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end or len(alone) < 3:
        began = time.perf_counter()
        runner.start()()
        alone.append(time.perf_counter() - began)
    flying: deque[Wait] = deque()
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < began + seconds / 2 or done < IN_FLIGHT:
        if len(flying) == IN_FLIGHT:
            flying.popleft()()
            done += 1
        flying.append(runner.start())
    while flying:
        flying.popleft()()
        done += 1
    now = time.perf_counter()
    milliseconds = np.array(alone) * 1e3
    return Timing(
        median_ms=float(np.median(milliseconds)),
        p95_ms=float(np.percentile(milliseconds, 95)),
        alone_per_second=batch * len(alone) / sum(alone),
        per_second=done * batch / (now - began),
        batches=len(alone),
    )


def _pictures(size: tuple[int, int], batch: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Own:
    """An engine of ours.

    Attributes:
        backend: key of `engines.backends.BACKENDS`.
    """

    backend: str

    def why_not(self) -> str:
        """See `Contender`."""
        if not has_nvidia_driver():
            return "no NVIDIA driver is loaded"
        try:
            open_engine(load_model("street"), self.backend).close()
        except EngineError as error:
            return str(error)
        return ""

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """See `Contender`."""
        return _OwnRunner(self.backend, exported, size, batch)


class _OwnRunner:
    def __init__(self, backend: str, exported: Exported, size: tuple[int, int], batch: int) -> None:
        options = EngineOptions("fp16", requests=IN_FLIGHT, batch=batch, cache=compiled_cache())
        self._engine = open_engine(exported.model, backend, options)
        session = self._engine.session(*size)
        pictures = _pictures(size, batch)
        self._images = list(pictures)
        self._outs = np.zeros((IN_FLIGHT, batch, *session.score_shape), np.float32)
        self._turn = 0
        if isinstance(self._engine, PageLocking):
            self._engine.page_lock(pictures)
            self._engine.page_lock(self._outs)
        if isinstance(session, BatchSession):
            self._begin = session.start_batch
        elif batch == 1:
            self._begin = lambda images, outs: session.start(images[0], outs[0])
        else:
            raise EngineError(f"{backend} takes one picture at a time")

    def start(self) -> Wait:
        """See `Runner`."""
        self._turn = (self._turn + 1) % IN_FLIGHT
        request = self._begin(self._images, list(self._outs[self._turn]))
        return lambda: request.wait(WAIT_S)

    def close(self) -> None:
        """See `Runner`."""
        self._engine.close()


@dataclass(frozen=True, slots=True)
class Provided:
    """ONNX Runtime by a provider that compiles, as our engine uses it, but for one size of batch.

    Attributes:
        backend: key of `engines.backends.BACKENDS`.
    """

    backend: str

    def why_not(self) -> str:
        """See `Contender`."""
        return Own(self.backend).why_not()

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """See `Contender`."""
        return _ProvidedRunner(self.backend, exported, size, batch)


class _ProvidedRunner:
    def __init__(self, backend: str, exported: Exported, size: tuple[int, int], batch: int) -> None:
        from engines.backends.nvidia.typed_graph import typed_graph
        from engines.backends.onnxruntime_gpu import BoundNetwork, provider_network
        from engines.backends.providers import PROVIDERS

        provider, model = PROVIDERS[backend], exported.model
        graph = typed_graph(model, "fp16", size, batch)
        network = provider_network(provider, graph, provider.options("fp16", None), model.name)
        self._given = _pictures(size, batch)
        scores = (batch, *network.get_outputs()[0].shape[1:])
        self._bound: BoundNetwork | None = BoundNetwork(network, model, self._given.shape, scores, provider.memory)

    def start(self) -> Wait:
        """See `Runner`."""
        assert self._bound
        self._bound.run((self._given,))
        return lambda: None

    def close(self) -> None:
        """See `Runner`."""
        self._bound = None


@dataclass(frozen=True, slots=True)
class Torch:
    """torch in half precision, channels last.

    Attributes:
        way: ``"eager"``, ``"graph"`` (recorded as a CUDA graph) or ``"compile"`` (max-autotune).
    """

    way: str

    def why_not(self) -> str:
        """See `Contender`."""
        if importlib.util.find_spec("torch") is None:
            return "pip install 'deeplab-stream[torch]'"
        import torch

        return "" if torch.cuda.is_available() else f"torch {torch.__version__} has no CUDA here"

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """See `Contender`."""
        return _TorchRunner(exported, size, batch, self.way)


class _TorchRunner:
    def __init__(self, exported: Exported, size: tuple[int, int], batch: int, way: str) -> None:
        import torch

        network = exported.network().cuda().half()
        for weight in network.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        # On the card once: a copy from memory that is not page-locked cannot be recorded, and waits.
        mean, std = (torch.tensor(each).cuda().half() for each in (network.encoder.mean, network.encoder.std))

        def score(images: Any) -> Any:
            return network(((images.half() - mean) / std).permute(0, 3, 1, 2)).float()

        if way == "compile":
            # Recorded below, by lane: its own CUDA graphs would keep to one stream.
            score = torch.compile(score, mode="max-autotune-no-cudagraphs", dynamic=False)
        images = torch.from_numpy(_pictures(size, batch)).pin_memory()
        self._lanes = deque(_TorchLane(score, images, recorded=way != "eager") for _ in range(IN_FLIGHT))

    def start(self) -> Wait:
        """See `Runner`."""
        self._lanes.rotate(-1)
        return self._lanes[0].start()

    def close(self) -> None:
        """See `Runner`."""
        import torch

        self._lanes.clear()
        torch.cuda.empty_cache()


class _TorchLane:
    """One batch at a time, as a lane of our own engine: a stream, memory and a recording of its own."""

    def __init__(self, score: Callable[[Any], Any], images: Any, *, recorded: bool) -> None:
        import torch

        self._torch = torch
        self._score = score
        self._images = images
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())  # where the weights were laid out
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._given = images.cuda(non_blocking=True)
            for _ in range(3):
                self._scores = score(self._given)
            self._stream.synchronize()
        if recorded:
            self._graph = torch.cuda.CUDAGraph()
            with (
                torch.inference_mode(),
                torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._scores = score(self._given)
        self._out = torch.empty(self._scores.shape, pin_memory=True)

    def start(self) -> Wait:
        torch = self._torch
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._given.copy_(self._images, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._scores = self._score(self._given)
            self._out.copy_(self._scores, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        wait: Wait = event.synchronize
        return wait


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "tensorrt": lambda: Own("tensorrt"),
    "onnxruntime-tensorrt": lambda: Provided("onnxruntime-tensorrt"),
    "onnxruntime-rtx": lambda: Provided("onnxruntime-rtx"),
    "onnxruntime-cuda": lambda: Own("onnxruntime-cuda"),
    "torch-cuda": lambda: Own("torch-cuda"),
    "torch-eager": lambda: Torch("eager"),
    "torch-graph": lambda: Torch("graph"),
    "torch-compile": lambda: Torch("compile"),
}
"""By name, in the order in which they are measured."""


def card() -> Iterator[dict[str, object]]:
    """The part that looks at the card; finds what it is, and the rates that it reaches where torch can tell."""
    found: dict[str, object] = {"gpu": [asdict(finding) for finding in examine_gpu()]}
    yield found
    rates = card_rates()
    yield found | {"rates": None if rates is None else asdict(rates)}


def card_rates() -> Rates | None:
    """What this card reaches, None where torch cannot tell."""
    if Torch("eager").why_not():
        return None
    import torch

    def seconds(work: Callable[[], object], times: int) -> float:
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    side = 8192
    left = torch.randn(side, side, device="cuda", dtype=torch.float16)
    right = torch.randn(side, side, device="cuda", dtype=torch.float16)
    product = seconds(lambda: left @ right, 20)
    target = torch.empty_like(left)
    moved = seconds(lambda: target.copy_(left), 50)
    return Rates(2 * side**3 / product, 2 * left.numel() * left.element_size() / moved)
