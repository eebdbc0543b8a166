"""What the tests of engines share: networks small and real, pictures, a call and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engines.backends
from engines.backends import ON_GPU, open_engine
from engines.base import Engine, EngineOptions, Model, Session
from engines.labels import LabelSet, voc_palette
from engines.model_file import read_model

ON_CPU = ("openvino", "onnxruntime", "torch")
"""Backends of processors."""

AS_ON_GPU = {
    "onnxruntime-gpu-on-cpu": "tests.engines.gpu_on_cpu:OnnxRuntimeOnCpu",
    "torch-gpu-on-cpu": "tests.engines.torch_gpu_on_cpu:TorchOnCpu",
}
"""Code of GPUs' backends, which runs on a processor, too."""

REFERENCE = "torch"

TF32 = ("onnxruntime-tensorrt", "onnxruntime-rtx")
"""Backends that multiply with a mantissa of 10 bits where single precision is asked for, and cannot be told not to."""

engines.backends.BACKENDS.update(AS_ON_GPU)

BACKENDS: list[Any] = [
    *ON_CPU,
    *AS_ON_GPU,
    *(
        pytest.param(name, marks=(pytest.mark.gpu, pytest.mark.timeout(600)))  # some compile for each size
        for name in ON_GPU
        if name not in ("tensorrt", "torch-compile")
    ),
]
"""A new backend joins here.  TensorRT has a suite of its own that runs these tests with it; torch.compile takes minutes
for each of their many sizes."""
WAIT_S = 30.0

LABELS = LabelSet(("road", "car", "person", "sky"), voc_palette(4), background=3)

backends = pytest.mark.parametrize("backend", BACKENDS)
cpu_backends = pytest.mark.parametrize("backend", ON_CPU)


def write_graph(
    path: Path,
    *,
    layout: str = "nchw",
    dtype: str = "float32",
    sides: tuple[int | str, int | str] = ("h", "w"),
    score_type: str = "float32",
    quantised: bool = False,
) -> Path:
    """A foreign network of one 3×3 convolution with stride 2, as somebody's exporter may write it."""
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 0.5, (len(LABELS), 3, 3, 3)).astype(np.float32)
    constants = {"weights": weights, "bias": rng.normal(0, 1, len(LABELS)).astype(np.float32)}
    nodes, at = [], "picture"

    def step(op: str, *inputs: str, **attributes: object) -> None:
        nonlocal at
        nodes.append(helper.make_node(op, [at, *inputs], [f"t{len(nodes)}"], **attributes))
        at = f"t{len(nodes) - 1}"

    if layout == "nhwc":
        step("Transpose", perm=[0, 3, 1, 2])
    if dtype != "float32":
        step("Cast", to=TensorProto.FLOAT)
    if quantised:
        constants |= {"scale": np.float32(0.02), "zero": np.uint8(128)}
        step("QuantizeLinear", "scale", "zero")
        step("DequantizeLinear", "scale", "zero")
    step("Conv", "weights", "bias", strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    if score_type != "float32":
        step("Cast", to=getattr(TensorProto, score_type.upper()))
    nodes[-1].output[0] = "logits"
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16}
    shape = [1, 3, *sides] if layout == "nchw" else [1, *sides, 3]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("picture", types[dtype], shape)],
        [helper.make_tensor_value_info("logits", types[score_type], [1, len(LABELS), "a", "b"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def foreign(path: Path, yaml: str, **options: object) -> Model:
    write_graph(path, **options)  # type: ignore[arg-type]
    path.with_suffix(".yaml").write_text(f"labels: [{', '.join(LABELS.names)}]\n{yaml}")
    return read_model(path)


def expected_scores(path: Path, picture: np.ndarray) -> np.ndarray:
    """The convolution of `write_graph` in numpy, of a 3×H×W float picture."""
    constants = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    padded = np.pad(picture.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    return np.einsum("cijyx,kcyx->kij", windows, constants["weights"]) + constants["bias"][:, None, None]


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Soft blobs: nearer to a photograph than noise is."""
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8 + 2, size[1] // 8 + 2, 3), np.uint8)
    large = small.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    return np.ascontiguousarray(large)


def score(session: Session, image: np.ndarray) -> np.ndarray:
    out = np.full(session.score_shape, np.nan, np.float32)
    session.start(image, out).wait(WAIT_S)
    return out


class open_engine_for:  # noqa: N801 - reads as the function that it wraps
    """`open_engine` as a context manager."""

    def __init__(self, model: Model, backend: str, options: EngineOptions | None = None) -> None:
        self.engine = open_engine(model, backend, options or EngineOptions(threads=1))

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.close()
