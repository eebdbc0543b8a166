"""Machines to run TensorRT's engine on: fakes of both major releases, and the real one where there is one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engines.base import Model
from tests.conftest import absent
from tests.engines.conftest import absent_gpu
from tests.engines.support import expected_scores, foreign
from tests.engines.tensorrt.bindings import TENSORRT, tensorrt_stubs
from tests.engines.tensorrt.fake_cuda import FakeCuda, FakeDriver
from tests.engines.tensorrt.fake_tensorrt import fake_tensorrt

FLOAT = "layout: nchw\nmean: [120, 110, 100]\nstd: [60, 60, 60]\n"

OURS = ("engines.backends.tensorrt", "engines.backends.nvidia")


@dataclass
class Machine:
    """Where the engine runs.

    Attributes:
        trt: the module ``tensorrt``, fake or real.
        cuda: the fake GPU, None on a real one.
        pixels: what runs our kernels there.
    """

    trt: Any
    cuda: FakeCuda | None = None
    pixels: FakeDriver | None = None

    @property
    def gpu(self) -> FakeCuda:
        """The fake GPU, for tests that look into it."""
        assert self.cuda is not None
        return self.cuda


@pytest.fixture(
    params=[pytest.param("fake 10", marks=pytest.mark.slow), "fake 11", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Fakes with the signatures of both major releases, and the machine's own GPU."""
    if request.param == "gpu":
        yield Machine(real_tensorrt())
        return
    with faked(int(request.param.split()[1])) as machine:
        yield machine


@pytest.fixture(params=[pytest.param(10, marks=pytest.mark.slow), 11])
def fake(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The fakes alone, for tests that look into them or let them fail."""
    with faked(request.param) as machine:
        yield machine


@contextmanager
def faked(major: int) -> Iterator[Machine]:
    """A machine whose TensorRT and CUDA are ours, with the signatures of the published ones."""
    try:
        import cuda.bindings
        from cuda.bindings import driver, nvrtc, runtime  # noqa: F401 - nvrtc takes the real ones along
    except ImportError:
        absent("cuda-bindings")
    gpu = FakeCuda(runtime)
    pixels = FakeDriver(driver, gpu)
    trt = fake_tensorrt(tensorrt_stubs(major) / "tensorrt" / "__init__.pyi", TENSORRT[major], gpu)
    others = {name: module for name, module in sys.modules.items() if name.startswith(OURS)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", trt)
        patch.setitem(sys.modules, "cuda.bindings.runtime", gpu)  # type: ignore[arg-type]
        patch.setitem(sys.modules, "cuda.bindings.driver", pixels)  # type: ignore[arg-type]
        patch.setattr(cuda.bindings, "runtime", gpu)
        patch.setattr(cuda.bindings, "driver", pixels)
        _forget()
        yield Machine(trt, gpu, pixels)
        _forget()
    sys.modules.update(others)


def real_tensorrt() -> ModuleType:
    """TensorRT on a GPU; with REQUIRE_GPU=1 it must be there."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        absent_gpu(f"TensorRT cannot be loaded: {error}")


def _forget() -> None:
    """Let our own modules be imported anew."""
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]


@pytest.fixture
def small(tmp_path: Path) -> Model:
    """A network of one convolution that wants float planes."""
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    return replace(foreign(folder / "small.onnx", FLOAT), name="small")


@pytest.fixture
def dynamic(tmp_path: Path, batched: None) -> Model:
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    return replace(foreign(folder / "batched.onnx", "layout: nhwc\n", layout="nhwc", dtype="uint8"), name="batched")


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """`write_graph` with a dynamic batch."""
    from onnx import helper

    from tests.engines import support

    def info(name: str, kind: int, shape: list[int | str]) -> object:
        return helper.make_tensor_value_info(name, kind, ["n", *shape[1:]])

    class Batched:
        make_tensor_value_info = staticmethod(info)

        def __getattr__(self, name: str) -> object:
            return getattr(helper, name)

    monkeypatch.setattr(support, "helper", Batched())


def expected(model: Model, image: np.ndarray) -> np.ndarray:
    """The scores of H×W×3 bytes by a network of `small` or `dynamic`, in numpy."""
    values = image.transpose(2, 0, 1).astype(np.float64)
    if model.mean is not None and model.std is not None:
        values = (values - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]
    return expected_scores(model.path, values)
