"""OpenVINO: the default on a CPU."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.checks import check_arrays
from engines.backends.common import (
    EngineBase,
    LaneRequest,
    Lanes,
    Quota,
    SessionBase,
    arithmetic,
    available_cpus,
    one_line,
)
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, Scores, Session
from engines.plans import own_directory

DEVICE = "CPU"

KEPT_BLOBS = 32
"""Compiled models that stay in the cache: one a model, size, precision and OpenVINO, 10 MB or so each."""

_log = logging.getLogger(__name__)


class OpenVINOEngine(EngineBase):
    """One network in OpenVINO.

    Args:
        model: the network.
        options: how it shall run.

    Raises:
        EngineError: OpenVINO is missing, cannot read the model or cannot give the precision.
    """

    def __init__(self, model: Model, options: EngineOptions) -> None:
        openvino, core = _load()
        hint, precision = _precision(options.precision, model, core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
        threads = options.threads or available_cpus()
        self._properties: dict[str, Any] = {
            # On a CPU with bf16 OpenVINO's own default is bf16: twice as fast, but it moves labels where
            # two classes are close, so it is for models that were measured with it.
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            # One request shall use all threads; several shall have threads of their own, since
            # two pictures side by side scale better than one picture cut in two.
            "PERFORMANCE_HINT": "LATENCY" if options.requests == 1 else "THROUGHPUT",
            "NUM_STREAMS": min(options.requests, threads),
            # The decoder and the encoder share these cores: a pinned thread cannot step aside.
            "ENABLE_CPU_PINNING": False,
        }
        if options.cache is not None:
            try:
                self._properties["CACHE_DIR"] = str(_own_directory(options.cache))
                _prune(options.cache)
            except EngineError as error:
                # A cache must never be why something does not run.
                _log.warning("%s; compiling without it, anew at each start", error)
        version = openvino.get_version().split("-")[0]
        device = str(core.get_property(DEVICE, "FULL_DEVICE_NAME")).strip()
        info = EngineInfo("openvino", version, device, precision, threads, options.requests, options.precision)
        super().__init__(model, info)
        self._core: Any = core
        self._network: Any = _read(openvino, core, model)

    def _compile(self, height: int, width: int) -> Session:
        network = self._network.clone()
        try:
            network.reshape({network.input(0): [1, height, width, 3]})
            try:
                compiled = self._core.compile_model(network, DEVICE, self._properties)
            except RuntimeError as error:
                if "CACHE_DIR" not in self._properties:
                    raise
                _log.warning("the cache of compiled models fails (%s); compiling without", one_line(error))
                del self._properties["CACHE_DIR"]
                compiled = self._core.compile_model(network, DEVICE, self._properties)
            return OpenVINOSession(compiled, (height, width), self._quota)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot compile {self._model.name} for {width}×{height}: {one_line(error)}"
            ) from error

    def _free(self) -> None:
        self._network = self._core = None


class _Lane:
    """An infer request of OpenVINO's and the arrays that it works on while it is busy."""

    def __init__(self, request: Any) -> None:
        from openvino import Tensor

        self.request = request
        self._tensor: Any = Tensor
        self._arrays: tuple[NDArray[np.uint8], Scores] | None = None

    def start(self, image: NDArray[np.uint8], out: Scores) -> None:
        """Begin to score a picture.

        Raises:
            EngineError: OpenVINO does not.
        """
        self._arrays = (image, out)
        try:
            self.request.set_input_tensor(self._tensor(image[np.newaxis], shared_memory=True))
            self.request.set_output_tensor(self._tensor(out[np.newaxis], shared_memory=True))
            self.request.start_async()
        except RuntimeError as error:
            self._arrays = None
            raise EngineError(f"OpenVINO cannot start: {one_line(error)}") from error

    def wait(self, timeout: float) -> bool:
        """Without the interpreter's lock; see `engines.backends.common.Lane`."""
        try:
            done = bool(self.request.wait_for(max(0, round(timeout * 1000))))
        except RuntimeError as error:
            self._arrays = None
            raise EngineError(f"OpenVINO failed: {one_line(error)}") from error
        if done:
            self._arrays = None
        return done


class OpenVINOSession(SessionBase):
    """A network compiled for one input size."""

    def __init__(self, compiled: Any, size: tuple[int, int], quota: Quota) -> None:
        super().__init__(size, compiled.output(0).shape)
        self._lanes = Lanes("OpenVINO", quota, lambda: _Lane(compiled.create_infer_request()))

    def start(self, image: NDArray[np.uint8], out: Scores) -> LaneRequest[_Lane]:
        """Begin to score a picture, read from and written into the caller's own memory; see `engines.base.Session`."""
        check_arrays(image, out, self._size, self._scores)
        if not image.flags.writeable:
            image = image.copy()  # OpenVINO shares no read-only array
        return self._lanes.started(lambda lane: lane.start(image, out))


def _load() -> tuple[Any, Any]:
    """The package and a core that knows the device, without the telemetry that importing it would start.

    That writes a client's number and statistics into the user's home directory, and keeps a thread.

    Raises:
        MissingEngineError: it is not installed, or broken.
    """
    unasked = "openvino_telemetry" not in sys.modules
    if unasked:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it fails, which is foreseen
    try:
        import openvino

        core = openvino.Core()
        core.get_property(DEVICE, "FULL_DEVICE_NAME")  # loads the plugin
    except Exception as error:  # a broken library can raise anything
        raise MissingEngineError(f"OpenVINO cannot be loaded ({one_line(error)}): pip install openvino") from error
    finally:
        if unasked:
            del sys.modules["openvino_telemetry"]
    return openvino, core


def _read(openvino: Any, core: Any, model: Model) -> Any:
    """The network with one output, uint8 N×H×W×3 in and float32 out, whatever the file has."""
    try:
        network = core.read_model(model.path)
        scores = next(port for port in network.outputs if model.output_name in port.names)
        network = openvino.Model([scores.get_node().input_value(0)], network.get_parameters(), model.name)
        steps = openvino.preprocess.PrePostProcessor(network)
        picture = steps.input(0)
        if not _is_plain(model):
            kind = openvino.Type
            picture.tensor().set_element_type(kind.u8).set_layout(openvino.Layout("NHWC"))
            picture.model().set_layout(openvino.Layout(model.layout.upper()))
            work = picture.preprocess()
            if model.input_dtype != "uint8":
                work.convert_element_type(kind.f32)
            if model.channels == "bgr":
                work.reverse_channels()
            if model.mean is not None and model.std is not None:
                work.mean(list(model.mean)).scale(list(model.std))
            if model.input_dtype == "float16":
                work.convert_element_type(kind.f16)
        steps.output(0).tensor().set_element_type(openvino.Type.f32)
        built = steps.build()
        if model.quantised:
            _leave_picture_in_float(built)
        return built
    except StopIteration as error:
        raise EngineError(f"{model.path} has no output {model.output_name!r}") from error
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot read {model.path}: {one_line(error)}") from error


def _leave_picture_in_float(network: Any) -> None:
    """Take out the quantisation of the network's input, so that the first convolution sees floats.

    With it OpenVINO (2025.4 to 2026.4) computes other scores than the file says on a processor with AVX-512 VNNI, but
    without AMX: `street-int8` had 62.7 mIoU there where ONNX Runtime has 87.8.  All that is computed from the first
    convolution's scores on stays in eight bits.
    """
    port = network.input(0)
    while (node := _only_reader(port)) is not None and node.get_type_name() in _ON_PICTURES:
        port = node.output(0)
    if node is None or node.get_type_name() != "FakeQuantize":
        return
    restored = node.output(0)
    while (after := _only_reader(restored)) is not None and after.get_type_name() in {
        "Convert",
        "Subtract",
        "Multiply",
    }:
        restored = after.output(0)
        if after.get_type_name() == "Multiply":
            restored.replace(port)
            return


_ON_PICTURES = {"Convert", "Subtract", "Add", "Divide", "Multiply", "Transpose", "Concat"}
"""What may stand between a picture and its quantisation."""


def _only_reader(port: Any) -> Any | None:
    """The node that reads an output, but for its shape; None where there are several."""
    readers = [each.get_node() for each in port.get_target_inputs()]
    readers = [node for node in readers if node.get_type_name() != "ShapeOf"]
    return readers[0] if len(readers) == 1 else None


def _is_plain(model: Model) -> bool:
    return (model.layout, model.input_dtype, model.channels, model.mean) == ("nhwc", "uint8", "rgb", None)


def _precision(asked: str, model: Model, capabilities: list[str]) -> tuple[str, str]:
    """OpenVINO's precision hint, and what really runs.

    Raises:
        EngineError: the model or the processor cannot do what is asked.
    """
    kind = arithmetic(asked, model)
    if asked == "fp16" or (asked == "auto" and model.half and kind == "fp32"):
        if "FP16" in capabilities:
            return "f16", "fp16"
        if "BF16" in capabilities and _has_bf16():
            return "bf16", "bf16"
    if asked == "fp16":
        raise EngineError("this CPU has no half-precision arithmetic: use precision fp32 or auto")
    return "f32", kind


def _has_bf16() -> bool:
    """The processor itself multiplies bf16; OpenVINO also lists what it emulates, at a loss."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return True
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _own_directory(path: Path) -> Path:
    """A directory for compiled models that nobody else can have written into.

    Raises:
        EngineError: it cannot be made or written, or belongs to somebody else.
    """
    own_directory(path, "model cache")
    if not os.access(path, os.W_OK | os.X_OK):
        raise EngineError(f"the model cache {path} cannot be written: choose another directory")
    return path


def _prune(path: Path) -> None:
    """Remove the oldest compiled models beyond `KEPT_BLOBS`; another process may do the same."""
    aged = []
    for blob in path.glob("*.blob"):
        with contextlib.suppress(OSError):
            aged.append((blob.stat().st_mtime, blob))
    for _, blob in sorted(aged)[:-KEPT_BLOBS]:
        with contextlib.suppress(OSError):
            blob.unlink()
