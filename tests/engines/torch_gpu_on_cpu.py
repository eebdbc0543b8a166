"""torch's backend of GPUs on a processor."""

from __future__ import annotations

from engines.backends.torch_gpu import TorchGpuEngine


class TorchOnCpu(TorchGpuEngine):
    name = "torch-gpu-on-cpu"
    device = "cpu"


class TorchCompiledOnCpu(TorchOnCpu):
    compiled = True
