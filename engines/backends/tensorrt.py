"""TensorRT: its place; this release runs networks on the CPU."""

from __future__ import annotations

from typing import NoReturn

from engines.base import EngineError, EngineOptions, Model


class TensorRTEngine:
    """Refuses, and says what to use instead."""

    def __new__(cls, model: Model, options: EngineOptions) -> NoReturn:  # noqa: ARG004
        """Refuse.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            "this release runs on CPU engines and has no TensorRT engine yet: use --engine auto, openvino or "
            "onnxruntime (a later release will want an NVIDIA GPU and pip install 'deeplab-stream[tensorrt]')"
        )
