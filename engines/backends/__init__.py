"""The libraries that can run a network, each imported only when it is chosen."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from engines.backends.common import PRECISIONS
from engines.base import Engine, EngineError, EngineOptions, MissingEngineError, Model

BACKENDS = {
    "openvino": "engines.backends.openvino:OpenVINOEngine",
    "onnxruntime": "engines.backends.onnxruntime:OnnxRuntimeEngine",
    "torch": "engines.backends.torch:TorchEngine",
    "tensorrt": "engines.backends.tensorrt:TensorRTEngine",
    "onnxruntime-tensorrt": "engines.backends.onnxruntime_gpu:OnnxRuntimeTensorRTEngine",
    "onnxruntime-rtx": "engines.backends.onnxruntime_gpu:OnnxRuntimeRTXEngine",
    "onnxruntime-cuda": "engines.backends.onnxruntime_gpu:OnnxRuntimeCudaEngine",
    "torch-cuda": "engines.backends.torch_gpu:TorchGpuEngine",
    "torch-compile": "engines.backends.torch_gpu:TorchCompileEngine",
}
"""Backends by name; a class is made with ``(model, options)`` and satisfies `engines.base.Engine`."""

CHOICES = ("auto", *BACKENDS)

GPU = "tensorrt"
"""The best on an NVIDIA GPU."""

AUTOMATIC_ON_GPU = (GPU, "onnxruntime-tensorrt", "onnxruntime-rtx", "onnxruntime-cuda", "torch-cuda")
"""What ``auto`` tries first where there is an NVIDIA GPU, the fastest first."""

ON_GPU = (*AUTOMATIC_ON_GPU, "torch-compile")
"""What needs one."""

AUTOMATIC = ("openvino", "onnxruntime")
"""What ``auto`` tries then, the fastest on a CPU first."""

ENGINE_HELP = (
    f"library that runs the network; default auto: on an NVIDIA GPU the first that can be used of "
    f"{', '.join(AUTOMATIC_ON_GPU)}; else {', else '.join(AUTOMATIC)}"
)

NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What NVIDIA's driver shows of itself, the second under WSL."""

_log = logging.getLogger(__name__)


def open_engine(model: Model, choice: str = "auto", options: EngineOptions | None = None) -> Engine:
    """A network in the best backend there is, or in the one that is named.

    Args:
        model: the network.
        choice: ``"auto"`` or a key of `BACKENDS`.
        options: how it shall run; `EngineOptions` of their own defaults where None.

    Raises:
        EngineError: no such backend, it is not installed or cannot run here (the message says what to
            install), or it cannot do what the options ask.
    """
    options = options or EngineOptions()
    if choice != "auto" and choice not in BACKENDS:
        raise EngineError(f"there is no engine {choice!r}: choose from {', '.join(CHOICES)}")
    if options.precision not in PRECISIONS:
        raise EngineError(f"there is no precision {options.precision!r}: choose from {', '.join(PRECISIONS)}")
    if options.threads < 0 or options.requests < 1:
        raise EngineError("an engine needs at least one request, and threads from 0 (automatic)")
    engine, why = _best(model, options) if choice == "auto" else (_open(model, choice, options), "as asked")
    info = engine.info
    _log.info(
        "engine %s %s (%s): %s in %s on %s, %d threads, %d requests%s",
        info.backend, info.version, why, model.name, info.arithmetic, info.device, info.threads, info.requests,
        f" of up to {info.max_batch} pictures" if info.max_batch > 1 else "",
    )  # fmt: skip
    return engine


def has_nvidia_driver() -> bool:
    """NVIDIA's driver runs here, so that it is worth loading what needs it."""
    return any(path.exists() for path in NVIDIA_DEVICES)


def _open(model: Model, backend: str, options: EngineOptions) -> Engine:
    module, _, name = BACKENDS[backend].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(model, options)
    return engine


def _best(model: Model, options: EngineOptions) -> tuple[Engine, str]:
    """The fastest backend whose library loads, and why it was chosen."""
    missing: list[str] = []
    gpu = AUTOMATIC_ON_GPU if has_nvidia_driver() else ()
    for backend in (*gpu, *AUTOMATIC):
        try:
            engine = _open(model, backend, options)
        except MissingEngineError as error:
            missing.append(str(error))
            continue
        fallen = (
            "; ".join(missing) if len(missing) < 3 else f"{missing[0]}; --doctor tells of {len(missing) - 1} others"
        )
        return engine, fallen or ("there is a GPU" if backend in gpu else "the fastest on a CPU")
    raise EngineError(f"no engine can be loaded: {'; '.join(missing)}")
