"""What the doctor says of a machine with a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines.doctor import MISSING, READY, Finding, _engine, advice, examine_gpu
from engines.zoo import load_model
from tests.engines.tensorrt.conftest import Machine


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_machine_that_is_ready(fake: Machine, driver: None) -> None:
    gpu, kernels, plans = examine_gpu()
    assert (gpu.state, gpu.told) == (READY, "Fake GPU, compute capability 8.9, 24 GiB, CUDA 13.0")
    assert kernels.state == plans.state == READY
    assert "NVRTC" in kernels.told
    found = _engine("tensorrt", load_model("street"))
    assert found.state == READY
    assert found.told == f"{fake.trt.__version__}, street in fp16 on Fake GPU"
    assert not any(entry[1] == "build_serialized_network" for entry in fake.trt.log)


def test_a_machine_that_lacks_tensorrt(fake: Machine, driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = _engine("tensorrt", load_model("street"))
    assert (found.state, found.package) == (MISSING, "deeplab-stream[tensorrt]")
    assert advice([found]) == "pip install 'deeplab-stream[tensorrt]'"


def test_a_gpu_that_does_not_answer(fake: Machine, driver: None) -> None:
    fake.gpu.driver = 0
    fake.gpu.fail["cudaGetDeviceCount"] = "cudaErrorInsufficientDriver"
    (found,) = examine_gpu()
    assert (found.state, found.package) == (MISSING, "")
    assert "InsufficientDriver" in found.told
    assert "driver" in found.told
    assert isinstance(found, Finding)
