"""ONNX Runtime on an NVIDIA GPU, by one of three execution providers: TensorRT, TensorRT for RTX, or CUDA.

ONNX Runtime goes on without a provider that it cannot load, and leaves to the CPU what a provider does not take.
Both are looked for here: the first is an error, the second is told.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from engines.backends.checks import check_batch
from engines.backends.common import (
    EngineBase,
    FinishedRequest,
    Quota,
    SessionBase,
    picture_shape,
    prepare,
    reduced_arithmetic,
)
from engines.backends.nvidia.typed_graph import typed_graph
from engines.backends.onnxruntime import PROVIDER as CPU
from engines.backends.onnxruntime import one_line
from engines.backends.providers import CUDA, RTX, TENSORRT, Provider, gpu_name
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, Scores, Session
from engines.model_file import demand_same_file
from engines.plans import own_directory, refuse_foreign_files

try:
    import onnxruntime
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"ONNX Runtime cannot be loaded ({one_line(error)}): pip install 'deeplab-stream[onnxruntime-gpu]'"
    ) from error

_log = logging.getLogger(__name__)

_QUIET = 4
"""Its log's level: it would print, in colour, what it raises as well."""

_WARNINGS = 2

_GRAPH_OF = "gpu_graph_id"
"""Its option of a run: which recorded CUDA graph belongs to it. Each shape needs one of its own, and nobody checks."""

_NO_GRAPH = "graph capture feature"
"""In what it says of a network that it cannot record, because parts of it run on the CPU."""


class OnnxRuntimeGpuEngine(EngineBase):
    """One network by an execution provider, which a subclass names.

    A session is made for each input size, of a graph with that size and the precision in it. `Session.start` computes
    before it returns, without the interpreter's lock, as `engines.backends.onnxruntime` does.

    Args:
        model: the network.
        options: how it shall run; ``cache`` is for what TensorRT compiles.

    Raises:
        MissingEngineError: the provider is not in this build of ONNX Runtime, cannot be loaded, or computes no int8.
        EngineError: the model is not of the precision.
    """

    provider: ClassVar[Provider]

    def __init__(self, model: Model, options: EngineOptions) -> None:
        precision = reduced_arithmetic(options.precision, model)
        demand_same_file(model)
        if precision == "int8" and not self.provider.int8:
            # As if it were not here, so that the automatic choice goes on.
            raise MissingEngineError(f"{self.provider.title} computes no int8: use {model.name}'s float model")
        self._cache = options.cache
        device = _probe(self.provider)
        info = EngineInfo(
            self.provider.backend, onnxruntime.__version__, device, precision, 1, options.requests, options.precision,
            options.batch if self.provider.batches else 1,
        )  # fmt: skip
        super().__init__(model, info)

    def free_memory(self) -> int | None:
        """ONNX Runtime does not tell; see `engines.base.OwnMemory`."""
        return None

    def _compile(self, height: int, width: int) -> Session:
        model, precision, size = self._model, self._info.precision, (height, width)
        graph = typed_graph(model, precision, size, self._info.max_batch)
        what = f"{model.name} at {width}×{height}"
        if self.provider.compiles:
            self._cancellation.check(f"compiling {what}")
        cache = None
        if self._cache is not None and self.provider.compiles:
            # TensorRT's provider finds what it has compiled by the graph's names alone, whatever the weights.
            name = f"{model.sha256[:16]}-{width}x{height}-{precision}"
            cache = own_directory(self._cache, "model cache", self.provider.backend, name)
            refuse_foreign_files(cache)
        network = provider_network(self.provider, graph, self.provider.options(precision, cache), what)
        try:
            most = self._info.max_batch
            return OnnxRuntimeGpuSession(network, model, size, self._quota, provider=self.provider, max_batch=most)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{self.provider.title} cannot run {what}: {one_line(error)}") from error

    def _free(self) -> None:
        """Nothing is outside the sessions."""


class OnnxRuntimeCudaEngine(OnnxRuntimeGpuEngine):
    """By CUDA and cuDNN."""

    provider = CUDA


class OnnxRuntimeTensorRTEngine(OnnxRuntimeGpuEngine):
    """By TensorRT 10, inside ONNX Runtime."""

    provider = TENSORRT


class OnnxRuntimeRTXEngine(OnnxRuntimeGpuEngine):
    """By TensorRT for RTX, a plugin that brings its own libraries."""

    provider = RTX


class OnnxRuntimeGpuSession(SessionBase):
    """A network at one input size."""

    def __init__(
        self, network: Any, model: Model, size: tuple[int, int], quota: Quota, *, provider: Provider, max_batch: int
    ) -> None:
        (output,) = network.get_outputs()
        scores = output.shape
        if len(scores) != 4 or not all(isinstance(side, int) for side in scores[1:]):
            raise EngineError(
                f"{model.name} gives {'×'.join(map(str, scores))}, not N×classes×height×width that follow from the "
                "picture's size: use --engine openvino"
            )
        super().__init__(size, scores)
        self._model = model
        self._quota = quota
        self._title = provider.title
        self._bound = [
            BoundNetwork(network, model, (count, *picture_shape(model, size)), (count, *self._scores), provider.memory)
            for count in range(1, max_batch + 1)
        ]

    def start(self, image: NDArray[np.uint8], out: Scores) -> FinishedRequest:
        """Score a picture; see `engines.base.Session`."""
        return self.start_batch((image,), (out,))

    def start_batch(self, images: Sequence[NDArray[np.uint8]], outs: Sequence[Scores]) -> FinishedRequest:
        """Score several pictures at once; see `engines.base.BatchSession`."""
        check_batch(images, outs, len(self._bound), self._size, self._scores)
        self._quota.take()
        try:
            found = self._bound[len(images) - 1].run([prepare(image, self._model) for image in images])
            for out, scores in zip(outs, found, strict=True):
                np.copyto(out, scores)
        except Exception as error:
            self._quota.give()
            raise EngineError(f"{self._title} failed: {one_line(error)}") from error
        return FinishedRequest(self._quota)


class BoundNetwork:
    """A network for one size of batch, with memory of its own for pictures and scores, as a CUDA graph wants it."""

    def __init__(
        self, network: Any, model: Model, pictures: tuple[int, ...], scores: tuple[int, ...], memory: str
    ) -> None:
        blank = np.zeros(pictures, model.input_dtype)
        self._network = network
        self._pictures = onnxruntime.OrtValue.ortvalue_from_numpy(blank, memory, 0)
        self._out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(scores, np.float32, memory, 0)
        self._binding = network.io_binding()
        self._binding.bind_ortvalue_input(model.input_name, self._pictures)
        self._binding.bind_ortvalue_output(model.output_name, self._out)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry(_GRAPH_OF, str(len(blank)))
        network.run_with_iobinding(self._binding, self._options)  # allocates, chooses kernels, records the CUDA graph

    def run(self, pictures: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        """Scores, batch×classes×height×width, of as many pictures as the batch has, each 1×…"""
        self._pictures.update_inplace(np.concatenate(pictures) if len(pictures) > 1 else pictures[0])
        self._network.run_with_iobinding(self._binding, self._options)
        scores: NDArray[np.float32] = self._out.numpy()
        return scores


def _probe(provider: Provider) -> str:
    """Run a convolution of one pixel by a provider; returns the name of the device.

    Raises:
        MissingEngineError: the provider cannot be used here.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise MissingEngineError(f"{provider.title} needs onnx ({error}): pip install onnx") from error
    shape = [1, 1, 1, 1]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, shape, [1.0])
    node = helper.make_node("Conv", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "probe", values[:1], values[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = _without_graph(provider, provider.options("fp32", None))
    what = "a convolution of one pixel"
    try:
        network = provider_network(provider, proto.SerializeToString(), options, what)
        network.run(None, {"x": np.zeros(shape, np.float32)})
    except MissingEngineError:
        raise
    except Exception as error:
        raise _missing(provider, f"cannot run {what} ({one_line(error)})") from error
    return gpu_name()


def _without_graph(provider: Provider, options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name != provider.graph_option}


def provider_network(provider: Provider, graph: bytes, options: dict[str, str], what: str) -> Any:
    """A session of ONNX Runtime's that runs a graph by a provider.

    Raises:
        MissingEngineError: the provider is not there, or was left out.
        EngineError: the graph cannot be run.
    """
    _load(provider)
    try:
        network = _made(provider, graph, options)
    except Exception as error:  # its exceptions have no common class of their own
        if why := _loader_says(provider):
            raise _missing(provider, f"cannot be loaded ({why})") from error
        if provider.graph_option not in options or _NO_GRAPH not in str(error):
            raise EngineError(f"{provider.title} cannot run {what}: {one_line(error)}") from error
        _log.warning("%s runs %s without a CUDA graph, somewhat slower: %s", provider.title, what, one_line(error))
        return provider_network(provider, graph, _without_graph(provider, options), what)
    if provider.name not in network.get_providers():
        raise _missing(provider, f"cannot be loaded ({_loader_says(provider) or 'ONNX Runtime left it out'})")
    _check_assignment(provider, network, what)
    return network


def _made(provider: Provider, graph: bytes, options: dict[str, str]) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = _QUIET
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(provider.name, options)]
    if provider.plugin:
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]
        settings.add_provider_for_devices(devices[:1], options)
        providers = []
    with _quiet():
        return onnxruntime.InferenceSession(graph, settings, providers=providers, enable_fallback=0)


@functools.cache
def _load(provider: Provider) -> None:
    """Let ONNX Runtime find the provider, once.

    Raises:
        MissingEngineError: it is not there.
    """
    if provider.plugin:
        _register(provider)
    elif provider.name not in onnxruntime.get_available_providers():
        raise _missing(provider, f"is not in this build of ONNX Runtime ({onnxruntime.__version__})")
    else:
        with contextlib.suppress(Exception):
            import tensorrt  # noqa: F401 - loads the library that ONNX Runtime's provider wants
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def _register(provider: Provider) -> None:
    import importlib

    try:
        package = importlib.import_module(provider.plugin)
        if not any(device.ep_name == provider.name for device in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(provider.name, package.get_library_path())
    except Exception as error:  # a broken library can raise anything
        raise _missing(provider, f"cannot be loaded ({one_line(error)})") from error
    if not any(device.ep_name == provider.name for device in onnxruntime.get_ep_devices()):
        raise _missing(provider, "finds no GPU that it knows: it needs one of RTX")


def _missing(provider: Provider, why: str) -> MissingEngineError:
    return MissingEngineError(f"{provider.title} {why}: {provider.install}")


def _loader_says(provider: Provider) -> str:
    """Why the system cannot load a provider's library, which ONNX Runtime only logs; empty where it can."""
    if not provider.library:
        return ""
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / provider.library))
    except OSError as error:
        return one_line(error)
    return ""


def _check_assignment(provider: Provider, network: Any, what: str) -> None:
    """See that the provider computes; what it leaves to the CPU is told.

    Raises:
        EngineError: it computes nothing.
    """
    nodes = Counter[str]()
    left: list[str] = []
    for part in network.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
        if part.ep_name == CPU != provider.name:
            left += [node.op_type for node in part.get_nodes()]
    if not nodes[provider.name]:
        raise EngineError(
            f"{provider.title} takes no part of {what}, which would all run on the CPU: use another --engine"
        )
    if left:
        kinds = ", ".join(sorted(set(left)))
        batch = network.get_inputs()[0].shape[0]
        # Where the batch is not fixed, sizes are computed, and those on the CPU whatever the provider.
        level = logging.WARNING if isinstance(batch, int) else logging.INFO
        _log.log(level, "%s leaves %d of %d operators to the CPU: %s", provider.title, len(left), nodes.total(), kinds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's own words on the standard error."""
    onnxruntime.set_default_logger_severity(_QUIET)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
