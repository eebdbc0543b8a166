"""torch on an NVIDIA GPU: half precision, channels last, recorded as a CUDA graph, compiled where that is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.backends.checks import check_arrays
from engines.backends.common import (
    EngineBase,
    LaneRequest,
    Lanes,
    SessionBase,
    one_line,
    picture_shape,
    prepare,
    reduced_arithmetic,
    requests_on_gpu,
)
from engines.backends.nvidia.typed_graph import typed_graph
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, Scores, Session
from engines.cancellation import Patience, unanswered
from engines.model_file import demand_same_file
from engines.stragglers import forsake

try:
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from engines.backends.onnx_in_torch import TorchGraph
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"the torch engine needs torch and onnx ({one_line(error)}): pip install 'deeplab-stream[torch]'"
    ) from error

Run = Callable[[torch.Tensor], torch.Tensor]
Settings = Callable[[], AbstractContextManager[None]]

_WARM_UPS = 3
"""Runs before a recording: cuDNN chooses its algorithms in the first."""

_POLL_S = 100e-6

_log = logging.getLogger(__name__)


class TorchGpuEngine(EngineBase):
    """One network, its ONNX graph in torch's operators, in the precision that was asked for.

    Args:
        model: the network.
        options: how it shall run; ``cache`` is not used.

    Raises:
        MissingEngineError: torch has no CUDA here, or the model is quantised, which torch's operators are not.
        EngineError: the model is not of the precision.
    """

    name: ClassVar[str] = "torch-cuda"
    device: ClassVar[str] = "cuda"
    compiled: ClassVar[bool] = False

    def __init__(self, model: Model, options: EngineOptions) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise MissingEngineError(_no_cuda())
        precision = reduced_arithmetic(options.precision, model)
        if precision == "int8":
            raise MissingEngineError(f"the {self.name} engine computes no int8: use {model.name}'s float model")
        demand_same_file(model)
        device = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        requests = requests_on_gpu(options)
        info = EngineInfo(self.name, torch.__version__, device, precision, 0, requests, options.precision)
        super().__init__(model, info)

    def free_memory(self) -> int | None:
        """Bytes that are left on the GPU; see `engines.base.OwnMemory`."""
        return int(torch.cuda.mem_get_info()[0])

    def _compile(self, height: int, width: int) -> Session:
        model, precision, size = self._model, self._info.precision, (height, width)
        if self.compiled:
            self._cancellation.check(f"compiling {model.name} at {width}×{height}")
        blank = torch.zeros((1, *picture_shape(model, size)), dtype=_dtype(model), device=self.device)
        graph = TorchGraph(typed_graph(model, precision, size, 1), model.output_name).to(self.device)
        for constant in graph.buffers():
            if constant.dim() == 4:
                constant.data = constant.data.contiguous(memory_format=torch.channels_last)
        exact = partial(torch.backends.cudnn.flags, enabled=True, benchmark=True, allow_tf32=precision != "fp32")
        try:
            with torch.no_grad(), exact():
                graph.fix_size(blank)
            run: Run = _compiled(graph, blank) if self.compiled else graph
            with torch.inference_mode(), exact():
                scores = run(blank).shape
            lanes = Lanes("torch", self._quota, lambda: self._lane(run, blank, exact))
            return TorchGpuSession(model, size, scores, lanes)
        except Exception as error:
            raise EngineError(f"torch cannot run {model.name} at {width}×{height}: {one_line(error)}") from error

    def _lane(self, run: Run, blank: torch.Tensor, exact: Settings) -> Lane:
        return CudaLane(run, blank, exact, Patience(self._cancellation))

    def _free(self) -> None:
        """Nothing is outside the sessions."""


class TorchCompileEngine(TorchGpuEngine):
    """The same by torch.compile, which takes minutes for each input size."""

    name = "torch-compile"
    compiled = True


class TorchGpuSession(SessionBase):
    """A network at one input size.

    Args:
        model: what it is.
        size: (height, width) of the input, in pixels.
        scores: 1×C×h×w.
        lanes: what runs it.
    """

    def __init__(self, model: Model, size: tuple[int, int], scores: torch.Size, lanes: Lanes[Lane]) -> None:
        super().__init__(size, scores)
        self._model = model
        self._lanes = lanes

    def start(self, image: NDArray[np.uint8], out: Scores) -> LaneRequest[Lane]:
        """Begin to score a picture; see `engines.base.Session`."""
        check_arrays(image, out, self._size, self._scores)
        picture = prepare(image, self._model)
        return self._lanes.started(lambda lane: lane.start(picture, out))


class Lane(Protocol):
    """What runs one picture at a time."""

    def start(self, picture: NDArray[np.generic], out: Scores) -> None:
        """Begin with a picture as the network takes it; its scores are in ``out`` once `wait` has returned True."""

    def wait(self, timeout: float) -> bool:
        """See `engines.backends.common.Lane`."""


class CudaLane:
    """A stream, page-locked memory, and the network recorded as a CUDA graph between places on the card.

    Args:
        run: the network.
        blank: a picture as it takes them, on the GPU.
        exact: settings of cuDNN's to compute with.
        patience: with the GPU.
    """

    def __init__(self, run: Run, blank: torch.Tensor, exact: Settings, patience: Patience) -> None:
        self._run = run
        self._patience = patience
        self._began = 0.0
        self._exact = exact
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._picture = torch.zeros_like(blank)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream.wait_stream(torch.cuda.current_stream())  # where the weights were laid out
        with torch.inference_mode(), exact():
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    self._scores = run(self._picture)
            self._stream.synchronize()
            try:
                graph = torch.cuda.CUDAGraph()
                # Other threads go on to reserve memory, which a global recording forbids them.
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    scores = run(self._picture)
                self._graph, self._scores = graph, scores
            except RuntimeError as error:
                _log.warning("torch runs the network without a CUDA graph, somewhat slower: %s", one_line(error))
        self._host_picture = torch.empty(blank.shape, dtype=blank.dtype, pin_memory=True)
        self._host_scores = torch.empty(self._scores.shape, dtype=torch.float32, pin_memory=True)
        self._out: Scores | None = None

    def start(self, picture: NDArray[np.generic], out: Scores) -> None:
        """See `Lane`."""
        np.copyto(self._host_picture.numpy(), picture)
        self._out = out
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                self._picture.copy_(self._host_picture, non_blocking=True)
                if self._graph is not None:
                    self._graph.replay()
                else:
                    with self._exact():
                        self._scores = self._run(self._picture)
                self._host_scores.copy_(self._scores, non_blocking=True)
                self._done.record(self._stream)
            self._began = time.monotonic()
        except RuntimeError as error:
            raise EngineError(f"torch failed: {one_line(error)}") from error

    def wait(self, timeout: float) -> bool:
        """See `Lane`."""
        began = time.monotonic()
        try:
            while not self._done.query():  # type: ignore[no-untyped-call]
                if self._patience.is_over(began):
                    forsake(self)  # what frees its memory would wait for the GPU
                    raise unanswered(began)
                if time.monotonic() - began >= timeout:
                    return False
                time.sleep(_POLL_S)
        except RuntimeError as error:
            raise EngineError(f"torch failed: {one_line(error)}") from error
        self._patience.took(time.monotonic() - self._began)
        if self._out is not None:
            np.copyto(self._out, self._host_scores.numpy()[0])
            self._out = None
        return True


def _compiled(graph: TorchGraph, blank: torch.Tensor) -> Run:
    with torch.no_grad():
        traced = make_fx(graph)(blank)
    run: Run = torch.compile(traced, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
    return run


def _no_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: pip uninstall -y torch, then pip install torch"
    return (
        f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, finds no GPU: where the driver is older (it "
        "knows the CUDA that nvidia-smi shows), update it, or choose torch's build for that: https://pytorch.org/get-started"
    )


def _dtype(model: Model) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, model.input_dtype)
    return dtype
