"""GPUs, drivers and file systems as they are found, and what is said of those that do not fit."""

from __future__ import annotations

import errno
import fcntl
import logging
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.base import EngineError, EngineOptions, FrameSession, MissingEngineError, Model
from engines.doctor import MISSING, _engine, advice
from engines.zoo import load_model
from tests.engines.support import open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine

pytestmark = pytest.mark.timeout(60)

SIZE = (32, 48)


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (0, r"\(cudaErrorInsufficientDriver\)\): install NVIDIA's driver, or use --engine auto"),
        (13000, r": see what nvidia-smi says, or use --engine auto"),
        (12040, r"driver knows CUDA 12, and these libraries are of CUDA 13: .*'deeplab-stream\[tensorrt-cu12\]'"),
    ],
)
def test_a_driver_that_is_not_there_or_too_old(driver: int, told: str, fake: Machine, small: Model) -> None:
    fake.gpu.driver = driver
    fake.gpu.fail["cudaGetDeviceCount"] = "cudaErrorInsufficientDriver"
    with pytest.raises(MissingEngineError, match=told):
        open_engine(small, "tensorrt")


def test_a_gpu_that_tensorrt_has_given_up(
    fake: Machine, small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT itself says so only when a plan is built, when auto can go on to nothing else."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setattr("engines.backends.AUTOMATIC_ON_GPU", ("tensorrt",))
    fake.gpu.capability = (7, 0)
    with pytest.raises(MissingEngineError, match="TensorRT takes no GPU as old as Fake GPU: use --engine"):
        open_engine(small, "tensorrt")
    engine = open_engine(small)
    assert engine.info.backend == "openvino"
    engine.close()
    found = _engine("tensorrt", load_model("street"))
    assert (found.state, advice([found])) == (MISSING, ""), "it is installed"
    fake.gpu.capability = (7, 5)
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        assert np.isfinite(score(engine.session(*SIZE), picture(SIZE))).all()


def test_a_portable_plan_is_for_later_gpus(fake: Machine, small: Model) -> None:
    from engines.backends.tensorrt import TensorRTEngine

    fake.gpu.capability = (7, 5)
    with pytest.raises(EngineError, match=r"Ampere .* and later, and Fake GPU is older: leave --portable out"):
        TensorRTEngine(small, EngineOptions("fp32"), portable=True)


def test_a_file_system_without_locks_keeps_plans_all_the_same(
    fake: Machine, small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As homes on some clusters are."""
    caplog.set_level(logging.INFO, "engines.plans")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    for _ in range(2):
        with open_engine_for(small, "tensorrt", options) as engine:
            score(engine.session(*SIZE), picture(SIZE))
    assert "knows no locks (Function not implemented)" in caplog.text
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 1


def test_kernels_that_cannot_be_compiled_are_told_of_once(
    fake: Machine, dynamic: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many sizes and inputs ask for them."""
    from cuda.bindings import nvrtc

    def missing(*_: object) -> None:
        raise RuntimeError("libnvrtc.so was not found")

    monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", missing)
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32")) as engine:
        for size in (SIZE, (48, 32)):
            session = engine.session(*size)
            assert isinstance(session, FrameSession)
            assert not session.takes("yuv420p")
            assert not session.takes("nv12")
    assert caplog.text.count("frames are scaled and labelled by the processor: NVRTC cannot be loaded") == 1
