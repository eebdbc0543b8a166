"""Plans by TensorRT's builder, with a progress bar; they can be called off. Written to TensorRT 10 and 11."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, SupportsInt, cast

import tensorrt as trt
from tqdm import tqdm

from engines.backends.common import one_line
from engines.base import EngineError
from engines.cancellation import Cancellation
from engines.stragglers import leave_behind
from engines.whole_file import whole_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ANOTHER = "another engine may run it: --engine onnxruntime-cuda, or openvino on the processor"

CANCEL_S = 5.0
"""How long a build may take to end that is called off: it does so between two steps, and some take a minute."""

_log = logging.getLogger(__name__)


class Messages(trt.ILogger):
    """TensorRT's log: into ours, and its last errors kept, since its calls tell nothing but that they failed.

    Use `MESSAGES`: TensorRT keeps to the first log that it is given, whatever comes later.
    """

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[str] = deque(maxlen=3)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Take a message; called by TensorRT, from any thread."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._errors.append(msg.strip())
        if severity != trt.ILogger.Severity.VERBOSE:
            _log.debug("TensorRT: %s", msg)  # what is an error here is raised by whoever called

    def why(self) -> str:
        """The last errors, on one line; they are forgotten then."""
        errors = "; ".join(self._errors)
        self._errors.clear()
        return one_line(RuntimeError(errors)) if errors else "it does not say why"


MESSAGES = Messages()


class Progress(trt.IProgressMonitor):
    """TensorRT's phases as progress bars, and the way to call a build off.

    Args:
        show: draw bars.
    """

    def __init__(self, *, show: bool) -> None:
        super().__init__()
        self.cancelled = False
        self._show = show
        self._bars: dict[str, tqdm[int]] = {}
        self._lock = threading.Lock()

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: SupportsInt) -> None:
        """A phase begins; called by TensorRT, from any thread."""
        with self._lock:
            inner = parent_phase in self._bars
            name = f"{'  ' * inner}{phase_name}"
            # None: tqdm then draws on a terminal alone.
            bar = tqdm(range(int(num_steps)), name, leave=False, disable=None if self._show else True)
            self._bars[phase_name] = bar

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """A step is done; False ends the build."""
        with self._lock:
            bar = self._bars.get(phase_name)
            if bar is not None:
                bar.update(max(0, int(step) + 1 - bar.n))
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends, or was called off."""
        with self._lock:
            bar = self._bars.pop(phase_name, None)
            if bar is not None:
                bar.close()


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a plan shall be.

    Attributes:
        input_shape: of one picture as the network takes it, without the batch.
        max_batch: pictures of the largest batch.
        reduced: convolutions may round float32 to TF32 (10 bits of mantissa) in the multiplication.
        portable: runs on every GPU from Ampere on and by later releases of the same major version, somewhat slower.
        timing_cache: file of the times of kernels that earlier builds measured, or None.
        progress: draw progress bars.
    """

    input_shape: tuple[int, int, int]
    max_batch: int = 1
    reduced: bool = False
    portable: bool = False
    timing_cache: Path | None = None
    progress: bool = True


def build_plan(graph: bytes, options: BuildOptions, cancellation: Cancellation) -> bytes:
    """A plan for this machine's GPU; takes minutes.

    Args:
        graph: ONNX that carries the types to compute in (`engines.backends.nvidia.typed_graph`), with one input.
        options: how it shall be.
        cancellation: ends the build, too.

    Raises:
        EngineError: TensorRT cannot read the graph or build the plan; the message has its own last words.
        CancelledError: ``cancellation`` was set; nothing is left behind.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    try:
        builder = trt.Builder(MESSAGES)
    except Exception as error:  # pybind11's own where there is no GPU
        raise EngineError(f"TensorRT cannot build here: {MESSAGES.why()} ({one_line(error)})") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, MESSAGES)
    if not parser.parse(graph):
        errors = []
        for index in range(parser.num_errors):
            complaint: trt.ParserError = parser.get_error(index)
            errors.append(complaint.desc())
        why = one_line(RuntimeError("; ".join(errors)))
        raise EngineError(f"TensorRT cannot read the network: {why}; {ANOTHER}")
    config = builder.create_builder_config()
    progress = Progress(show=options.progress)
    config.progress_monitor = progress
    _configure(config, options)
    profile = builder.create_optimization_profile()
    smallest, largest = (trt.Dims((batch, *options.input_shape)) for batch in (1, options.max_batch))
    profile.set_shape(network.get_input(0).name, smallest, largest, largest)
    config.add_optimization_profile(profile)
    cache = _timing_cache(config, options.timing_cache)
    plan = _cancellable(builder, network, config, progress, cancellation)
    if plan is None:
        raise EngineError(f"TensorRT cannot build the plan: {MESSAGES.why()}; {ANOTHER}")
    if options.timing_cache is not None:
        _keep(cache, options.timing_cache)
    return _bytes(plan)


def _configure(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    if not options.reduced:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.portable:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _timing_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache:
    """The kept times, or none where they are of another GPU or release, or damaged."""
    kept = b""
    if path is not None:
        with contextlib.suppress(OSError):
            kept = path.read_bytes()
    cache: trt.ITimingCache | None = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep(cache: trt.ITimingCache, path: Path) -> None:
    """Keep the times for the next build, which goes on without where that fails."""
    try:
        with whole_file(path) as unfinished:
            unfinished.write_bytes(_bytes(cache.serialize()))
    except (OSError, EngineError) as error:
        _log.warning("the times of kernels are not kept: %s", error)


def _cancellable(
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    progress: Progress,
    cancellation: Cancellation,
) -> trt.IHostMemory | None:
    """Build in a thread of its own.

    Python's handler of Ctrl-C runs in the main thread, which a call into TensorRT would hold for minutes; and an
    exception out of a monitor's method would have to find its way through TensorRT's own frames.
    """
    building: Future[trt.IHostMemory | None] = Future()

    def build() -> None:
        try:
            building.set_result(builder.build_serialized_network(network, config))
        except BaseException as error:
            building.set_exception(error)

    thread = threading.Thread(target=build, name="build", daemon=True)
    thread.start()
    try:
        while not building.done():
            cancellation.check("the build of the plan")
            wait([building], timeout=0.1)
    except BaseException:
        progress.cancelled = True
        leave_behind(thread)  # first: a second Ctrl-C may end the wait
        thread.join(CANCEL_S)
        raise
    try:
        return building.result()
    except Exception as error:  # pybind11's own
        raise EngineError(f"TensorRT cannot build the plan: {one_line(error)}") from error


def _bytes(memory: trt.IHostMemory) -> bytes:
    return bytes(cast("ReadableBuffer", memory))  # it has the buffer protocol
