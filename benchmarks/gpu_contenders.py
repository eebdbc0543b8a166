"""Who runs the networks of `benchmarks.gpu`: TensorRT, TensorRT-RTX in ONNX Runtime, and torch in three ways."""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_networks import Exported
from engines.backends import has_nvidia_driver, open_engine
from engines.base import EngineError, EngineOptions, PageLocking
from engines.zoo import compiled_cache

IN_FLIGHT = 3
WARM_UP = 10
WAIT_S = 60.0

Wait = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured.

    Attributes:
        median_ms, p95_ms: of a batch alone, from its pictures in memory to its scores in memory.
        per_second: pictures, with batches in flight.
        batches: that were timed.
    """

    median_ms: float
    p95_ms: float
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
    """A network that is ready to take batches.

    Attributes:
        in_flight: batches that may be under way at once.
    """

    in_flight: int

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
    while (now := time.perf_counter()) < began + seconds / 2 or done < runner.in_flight:
        if len(flying) == runner.in_flight:
            flying.popleft()()
            done += 1
        flying.append(runner.start())
    while flying:
        flying.popleft()()
        done += 1
    now = time.perf_counter()
    milliseconds = np.array(alone) * 1e3
    return Timing(
        float(np.median(milliseconds)), float(np.percentile(milliseconds, 95)), done * batch / (now - began), len(alone)
    )


def _pictures(size: tuple[int, int], batch: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


class TensorRT:
    """Our engine."""

    def why_not(self) -> str:
        """See `Contender`."""
        if not has_nvidia_driver():
            return "no NVIDIA driver is loaded"
        try:
            from engines.backends import tensorrt  # noqa: F401
        except EngineError as error:
            return str(error)
        return ""

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """See `Contender`."""
        return _TensorRTRunner(exported, size, batch)


class _TensorRTRunner:
    in_flight = IN_FLIGHT

    def __init__(self, exported: Exported, size: tuple[int, int], batch: int) -> None:
        options = EngineOptions("fp16", requests=IN_FLIGHT, batch=batch, cache=compiled_cache())
        self._engine = open_engine(exported.model, "tensorrt", options)
        self._session: Any = self._engine.session(*size)
        pictures = _pictures(size, batch)
        self._images = list(pictures)
        shape = (IN_FLIGHT, batch, *self._session.score_shape)
        self._outs = np.zeros(shape, np.float32)
        self._turn = 0
        assert isinstance(self._engine, PageLocking)
        self._engine.page_lock(pictures)
        self._engine.page_lock(self._outs)

    def start(self) -> Wait:
        """See `Runner`."""
        self._turn = (self._turn + 1) % IN_FLIGHT
        request = self._session.start_batch(self._images, list(self._outs[self._turn]))
        return lambda: request.wait(WAIT_S)

    def close(self) -> None:
        """See `Runner`."""
        self._engine.close()


class TensorRTRTX:
    """TensorRT for RTX, as a provider of ONNX Runtime's."""

    def why_not(self) -> str:
        """See `Contender`."""
        if not has_nvidia_driver():
            return "no NVIDIA driver is loaded"
        if importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None:
            return "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
        return ""

    def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> Runner:
        """See `Contender`."""
        return _RTXRunner(exported, size, batch)


class _RTXRunner:
    in_flight = 1

    def __init__(self, exported: Exported, size: tuple[int, int], batch: int) -> None:
        import onnxruntime
        import onnxruntime_ep_nv_tensorrt_rtx as provider

        from engines.backends.nvidia.typed_graph import typed_graph

        name = provider.get_ep_name()
        if not any(device.ep_name == name for device in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(name, provider.get_library_path())
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
        options = onnxruntime.SessionOptions()
        options.add_provider_for_devices(devices, {})
        graph = typed_graph(exported.model, "fp16", size, batch)
        self._session = onnxruntime.InferenceSession(graph, sess_options=options)
        self._feed = {exported.model.input_name: _pictures(size, batch)}

    def start(self) -> Wait:
        """See `Runner`."""
        self._session.run(None, self._feed)
        return lambda: None

    def close(self) -> None:
        """See `Runner`."""
        del self._session


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
    in_flight = IN_FLIGHT

    def __init__(self, exported: Exported, size: tuple[int, int], batch: int, way: str) -> None:
        import copy

        import torch

        from engines.networks.normalise import normalise

        self._torch = torch
        network = copy.deepcopy(exported.network).cuda().half()
        for weight in network.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        encoder = exported.network.encoder

        def score(images: Any) -> Any:
            return network(normalise(images, encoder).half()).float()

        self._given = torch.empty((batch, *size, 3), dtype=torch.uint8, device="cuda")
        self._images = torch.from_numpy(_pictures(size, batch)).pin_memory()
        self._given.copy_(self._images)
        self._score = torch.compile(score, mode="max-autotune") if way == "compile" else score
        with torch.inference_mode():
            for _ in range(3):
                self._scores = self._score(self._given)
            self._graph = torch.cuda.CUDAGraph() if way == "graph" else None
            if self._graph is not None:
                torch.cuda.synchronize()
                with torch.cuda.graph(self._graph):
                    self._scores = score(self._given)
        self._outs = [torch.empty(self._scores.shape, pin_memory=True) for _ in range(IN_FLIGHT)]
        self._turn = 0

    def start(self) -> Wait:
        """See `Runner`."""
        torch = self._torch
        self._turn = (self._turn + 1) % IN_FLIGHT
        with torch.inference_mode():
            self._given.copy_(self._images, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._scores = self._score(self._given)
            self._outs[self._turn].copy_(self._scores, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        wait: Wait = event.synchronize
        return wait

    def close(self) -> None:
        """See `Runner`."""
        self._graph = None
        self._torch.cuda.empty_cache()


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "tensorrt": TensorRT,
    "tensorrt-rtx": TensorRTRTX,
    "torch-eager": lambda: Torch("eager"),
    "torch-graph": lambda: Torch("graph"),
    "torch-compile": lambda: Torch("compile"),
}
"""By name, in the order in which they are measured."""


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
