"""Backends of GPUs on a processor: the same code with the one device that is everywhere."""

from __future__ import annotations

from dataclasses import replace

from engines.backends.onnxruntime_gpu import OnnxRuntimeGpuEngine
from engines.backends.providers import CUDA

ON_CPU = replace(
    CUDA,
    backend="onnxruntime-gpu-on-cpu",
    name="CPUExecutionProvider",
    options=lambda *_: {},
    memory="cpu",
    graph_option="",
)


class OnnxRuntimeOnCpu(OnnxRuntimeGpuEngine):
    provider = ON_CPU
