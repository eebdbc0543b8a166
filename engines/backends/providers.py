"""ONNX Runtime's execution providers for NVIDIA GPUs: their names, their options, and what installs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GPUS = Path("/proc/driver/nvidia/gpus")
"""What NVIDIA's driver says of each GPU; not under WSL."""

Options = Callable[[str, Path | None], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider.

    Attributes:
        backend: what it is called here, a key of `engines.backends.BACKENDS`.
        name: ONNX Runtime's.
        title: for people.
        install: the command that brings it.
        options: its options by the precision and the directory for what it compiles.
        memory: where pictures and scores are bound: ``"cuda"``, or ``"cpu"`` where the provider copies them itself.
        library: of the provider, beside ONNX Runtime's own; empty where it comes otherwise.
        graph_option: that has the network recorded as a CUDA graph; empty where there is none.
        int8: it computes quantised networks as such.
        batches: it takes a batch of another size without compiling anew.
        plugin: package that registers it; empty where it is built in.
    """

    backend: str
    name: str
    title: str
    install: str
    options: Options
    memory: str = "cpu"
    library: str = ""
    graph_option: str = ""
    int8: bool = False
    batches: bool = False
    plugin: str = ""

    @property
    def compiles(self) -> bool:
        """It makes a plan of a network, for minutes; those that do are those that compute int8."""
        return self.int8


def cuda_options(precision: str, _cache: Path | None) -> dict[str, str]:
    """Of ``CUDAExecutionProvider``; TF32 would be less than the single precision that was asked for."""
    return {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": "0" if precision == "fp32" else "1",
        "enable_cuda_graph": "1",
    }


def tensorrt_options(precision: str, cache: Path | None) -> dict[str, str]:
    """Of ``TensorrtExecutionProvider``; from Python it takes ``True`` and ``False`` alone."""
    options = {
        "device_id": "0",
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_cuda_graph_enable": "True",
    }
    if cache is not None:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
        }
    return options


def rtx_options(_precision: str, cache: Path | None) -> dict[str, str]:
    """Of ``NvTensorRTRTXExecutionProvider``, which computes in the graph's own types."""
    return {} if cache is None else {"nv_runtime_cache_path": str(cache)}


CUDA = Provider(
    backend="onnxruntime-cuda",
    name="CUDAExecutionProvider",
    title="ONNX Runtime's CUDA provider",
    install="pip uninstall onnxruntime, then pip install 'deeplab-stream[onnxruntime-gpu]'",
    options=cuda_options,
    memory="cuda",
    library="libonnxruntime_providers_cuda.so",
    graph_option="enable_cuda_graph",
    batches=True,
)

TENSORRT = Provider(
    backend="onnxruntime-tensorrt",
    name="TensorrtExecutionProvider",
    title="ONNX Runtime's TensorRT provider",
    install="pip uninstall onnxruntime, then pip install 'deeplab-stream[onnxruntime-gpu]' 'tensorrt<11'",
    options=tensorrt_options,
    memory="cuda",
    library="libonnxruntime_providers_tensorrt.so",
    graph_option="trt_cuda_graph_enable",
    int8=True,
)

RTX = Provider(
    backend="onnxruntime-rtx",
    name="NvTensorRTRTXExecutionProvider",
    title="ONNX Runtime's TensorRT-RTX provider",
    install="pip install 'deeplab-stream[onnxruntime-rtx]'",
    options=rtx_options,
    int8=True,
    plugin="onnxruntime_ep_nv_tensorrt_rtx",
)


PROVIDERS = {provider.backend: provider for provider in (TENSORRT, RTX, CUDA)}
"""By the name of the engine."""


def gpu_name() -> str:
    """The GPU as it calls itself, where there is one alone and the driver tells."""
    found = [path.read_text(errors="replace") for path in GPUS.glob("*/information")]
    lines = found[0].splitlines() if len(found) == 1 else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "GPU 0")
