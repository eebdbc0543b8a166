"""The libraries that can run a network, each imported only when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import logging

from engines.backends.common import PRECISIONS
from engines.base import Engine, EngineError, EngineOptions, Model

BACKENDS = {
    "openvino": "engines.backends.openvino:OpenVINOEngine",
    "onnxruntime": "engines.backends.onnxruntime:OnnxRuntimeEngine",
    "torch": "engines.backends.torch:TorchEngine",
    "tensorrt": "engines.backends.tensorrt:TensorRTEngine",
}
"""Backends by name; a class is made with ``(model, options)`` and satisfies `engines.base.Engine`."""

CHOICES = ("auto", *BACKENDS)

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
    if choice not in CHOICES:
        raise EngineError(f"there is no engine {choice!r}: choose from {', '.join(CHOICES)}")
    if options.precision not in PRECISIONS:
        raise EngineError(f"there is no precision {options.precision!r}: choose from {', '.join(PRECISIONS)}")
    if options.threads < 0 or options.requests < 1:
        raise EngineError("an engine needs at least one request, and threads from 0 (automatic)")
    why = "as asked"
    if choice == "auto":
        choice, why = _best()
    module, _, name = BACKENDS[choice].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(model, options)
    info = engine.info
    _log.info(
        "engine %s %s (%s): %s in %s on %s, %d threads, %d requests",
        info.backend, info.version, why, model.name, info.precision, info.device, info.threads, info.requests,
    )  # fmt: skip
    return engine


def _best() -> tuple[str, str]:
    """The fastest backend that is installed, and why it was chosen."""
    if importlib.util.find_spec("openvino"):
        return "openvino", "the fastest on a CPU"
    if importlib.util.find_spec("onnxruntime"):
        return "onnxruntime", "OpenVINO is not installed"
    raise EngineError("no engine is installed: pip install openvino (or onnxruntime)")
