"""TensorRT: the engine of NVIDIA GPUs; written to its releases 10 and 11."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.backends.checks import check_batch, check_count
from engines.backends.common import (
    EngineBase,
    LaneRequest,
    Lanes,
    Quota,
    SessionBase,
    one_line,
    picture_shape,
    prepare,
    reduced_arithmetic,
    requests_on_gpu,
)
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, RawFrame, Scores, Session
from engines.cancellation import Patience
from engines.model_file import demand_same_file
from engines.plans import OLDEST_PORTABLE, PORTABLE, PlanCache, PlanKey

try:
    import tensorrt as trt
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"TensorRT cannot be loaded ({one_line(error)}): pip install 'deeplab-stream[tensorrt]'"
    ) from error

from engines.backends.nvidia import typed_graph
from engines.backends.nvidia.building import MESSAGES, BuildOptions, build_plan
from engines.backends.nvidia.cuda import Array, PageLocked, free_memory, open_device
from engines.backends.nvidia.kernels import PixelKernels
from engines.backends.nvidia.lanes import Border, Lane, new_context
from engines.backends.nvidia.pixels import LAYOUTS, check_frame

OLDEST = (7, 5)
"""Compute capability of Turing, the oldest that TensorRT takes (since 10.5)."""

_log = logging.getLogger(__name__)


class TensorRTEngine(EngineBase):
    """One network in TensorRT.

    A plan is built for each input size and kept (`engines.plans`); that takes minutes, once.

    Args:
        model: the network.
        options: how it shall run.
        portable: build plans that run on other GPUs, too (`engines.backends.nvidia.building.BuildOptions`).

    Raises:
        EngineError: TensorRT, CUDA's bindings or a GPU is missing, or it cannot give the precision.
    """

    side_by_side = True  # a plan that is there is loaded while another one is built

    def __init__(self, model: Model, options: EngineOptions, *, portable: bool = False) -> None:
        device = open_device()
        if device.compute_capability < OLDEST:  # else known only when a plan is built
            raise MissingEngineError(f"TensorRT takes no GPU as old as {device.name}: use --engine onnxruntime-cuda")
        if portable and device.compute_capability < OLDEST_PORTABLE:
            raise EngineError(
                f"a portable plan is for Ampere (compute capability 8.0) and later, and {device.name} is older: "
                "leave --portable out"
            )
        precision = reduced_arithmetic(options.precision, model)
        demand_same_file(model)  # a plan is found by the hash
        self._capability = device.compute_capability
        self._kernels: PixelKernels | EngineError | None = None
        self._kernels_lock = threading.Lock()
        self._portable = portable
        self._cache = PlanCache(options.cache) if options.cache is not None else None
        try:
            self._runtime: trt.Runtime | None = trt.Runtime(MESSAGES)
        except Exception as error:  # pybind11's own
            raise MissingEngineError(f"TensorRT cannot start: {MESSAGES.why()} ({one_line(error)})") from error
        self._runtime.engine_host_code_allowed = True  # of portable plans, which only this user can have written
        requests = requests_on_gpu(options)
        info = EngineInfo(
            "tensorrt", trt.__version__, device.name, precision, 0, requests, options.precision, options.batch,
            half_scores=options.half_scores and precision == "fp16",
        )  # fmt: skip
        super().__init__(model, info)
        self._patience = Patience(self._cancellation)
        self._page_locked = PageLocked(self._patience)

    def page_lock(self, memory: Array) -> None:
        """Let copies go straight from and to an array's memory; see `engines.base.PageLocking`."""
        self._page_locked.add(memory)

    def page_unlock(self, memory: Array) -> None:
        """Undo `page_lock`; see `engines.base.PageLocking`."""
        self._page_locked.remove(memory)

    def free_memory(self) -> int:
        """Bytes that are left on the GPU; see `engines.base.OwnMemory`."""
        return free_memory()

    def _compile(self, height: int, width: int) -> Session:
        size = (height, width)
        if self._cache is None:
            engine = self._deserialise(self._build(size, None))
        else:
            key = self._key(size)
            timing = self._cache.directory / f"{key.library} {key.device}.timing".replace(" ", "-").replace("/", "-")
            engine = self._cache.obtain(key, lambda: self._build(size, timing), self._deserialise, self._cancellation)
        border = _border(engine, self._model, size, self._info)

        def lane() -> Lane:
            return Lane(engine, border, self._page_locked, self._patience)

        return TensorRTSession(size, border, self._model, self._quota, lane=lane, pixels=self._pixels)

    def _pixels(self) -> PixelKernels:
        """Our kernels, compiled when a session first takes a frame.

        Raises:
            EngineError: they cannot be; it is told the first time.
        """
        with self._kernels_lock:
            if self._kernels is None:
                try:
                    self._kernels = PixelKernels(self._capability, self._patience)
                except EngineError as error:
                    self._kernels = error
                    _log.warning("frames are scaled and labelled by the processor: %s", error)
            if isinstance(self._kernels, EngineError):
                raise EngineError(str(self._kernels))
            return self._kernels

    def _key(self, size: tuple[int, int]) -> PlanKey:
        return PlanKey(
            model=self._model.name,
            onnx_sha256=self._model.sha256,
            library=f"TensorRT {trt.__version__}",
            device=self._info.device,
            compute_capability="{}.{}".format(*self._capability),
            precision=self._info.precision,
            size=size,
            max_batch=self._info.max_batch,
            options=(
                f"types {typed_graph.VERSION}",
                *([PORTABLE] if self._portable else []),
                *(["half scores"] if self._info.half_scores else []),
            ),
        )

    def _build(self, size: tuple[int, int], timing: Path | None) -> bytes:
        self._cancellation.check("the build of the plan")
        info = self._info
        graph = typed_graph.typed_graph(self._model, info.precision, size, info.max_batch, half_scores=info.half_scores)
        options = BuildOptions(
            input_shape=picture_shape(self._model, size),
            max_batch=self._info.max_batch,
            reduced=self._info.precision != "fp32",
            portable=self._portable,
            timing_cache=timing,
        )
        return build_plan(graph, options, self._cancellation)

    def _deserialise(self, plan: bytes) -> trt.ICudaEngine:
        assert self._runtime
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"cannot be loaded by TensorRT: {MESSAGES.why()}")
        return engine

    def _free(self) -> None:
        self._page_locked.close()
        self._runtime = self._kernels = None


class TensorRTSession(SessionBase):
    """A network compiled for one input size.

    Args:
        size: (height, width) of the input, in pixels.
        border: what the plan takes and gives.
        model: the network.
        quota: the engine's.
        lane: makes one; as many are made as requests may be in flight.
        pixels: gives our kernels.
    """

    def __init__(
        self,
        size: tuple[int, int],
        border: Border,
        model: Model,
        quota: Quota,
        *,
        lane: Callable[[], Lane],
        pixels: Callable[[], PixelKernels],
    ) -> None:
        super().__init__(size, (1, *border.score_shape))
        self._border = border
        self._model = model
        self._pixels = pixels
        self._lanes = Lanes("TensorRT", quota, lane)

    def start(self, image: NDArray[np.uint8], out: Scores) -> LaneRequest[Lane]:
        """Begin to score a picture; see `engines.base.Session`."""
        return self.start_batch((image,), (out,))

    def start_batch(self, images: Sequence[NDArray[np.uint8]], outs: Sequence[Scores]) -> LaneRequest[Lane]:
        """Begin to score several pictures at once; see `engines.base.BatchSession`."""
        half = self._border.score_dtype == np.float16
        check_batch(images, outs, self._border.max_batch, self._size, self._scores, half=half)
        pictures = [prepare(image, self._model) for image in images]
        return self._lanes.started(lambda lane: lane.start(pictures, outs))

    def takes(self, layout: str) -> bool:
        """Whether our kernels, which are compiled now, know a layout; see `engines.base.FrameSession`."""
        if self._border.score_dtype != np.float32:  # as they read scores
            return False
        try:
            self._pixels()
        except EngineError:
            return False
        return layout in LAYOUTS

    def warm_up(self, frame: RawFrame | None) -> None:
        """Make contexts, load code and record graphs, all that there are; see `engines.base.FrameSession`."""
        most = self._border.max_batch
        picture = prepare(np.zeros((*self._size, 3), np.uint8), self._model)
        out = np.empty(self._scores, self._border.score_dtype)

        def pictures(count: int) -> Callable[[Lane], None]:
            return lambda lane: lane.start([picture] * count, [out] * count)

        work = [pictures(count) for count in range(most, 0, -1) for _ in ("plainly", "by the recorded graph")]
        if frame is not None:
            kernels = self._pixels()
            work.append(lambda lane: lane.start_frames([frame] * most, self._model, kernels))
        self._lanes.warm_up(work)

    def start_frames(self, frames: Sequence[RawFrame]) -> LaneRequest[Lane]:
        """Begin to label frames as they were decoded: scaling, colours, upsampling and argmax are the GPU's.

        See `engines.base.FrameSession`.
        """
        check_count(len(frames), self._border.max_batch)
        for frame in frames:
            check_frame(frame)
        kernels = self._pixels()
        return self._lanes.started(lambda lane: lane.start_frames(frames, self._model, kernels))


def _border(engine: trt.ICudaEngine, model: Model, size: tuple[int, int], info: EngineInfo) -> Border:
    """What a plan takes and gives.

    Raises:
        EngineError: it gives no scores, or as `new_context`.
    """
    context = new_context(engine)
    shape = picture_shape(model, size)
    context.set_input_shape(model.input_name, trt.Dims((1, *shape)))
    dims = context.get_tensor_shape(model.output_name)
    scores = [dims[axis] for axis in range(len(dims))]
    if len(scores) != 4 or min(scores) < 1:
        raise EngineError(f"{model.name} gives {'×'.join(map(str, scores))}, not 1×classes×height×width")
    return Border(
        input_name=model.input_name,
        input_size=size,
        input_shape=shape,
        input_dtype=np.dtype(model.input_dtype),
        output_name=model.output_name,
        score_shape=(scores[1], scores[2], scores[3]),
        score_dtype=np.dtype(np.float16 if info.half_scores else np.float32),
        max_batch=info.max_batch,
    )
