"""ONNX Runtime's providers for GPUs: their options, that none is left out in silence, and their code on a processor."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import backends
from engines.backends import AUTOMATIC_ON_GPU, open_engine
from engines.backends.onnxruntime_gpu import OnnxRuntimeGpuEngine
from engines.backends.providers import CUDA, GPUS, PROVIDERS, TENSORRT, Provider, gpu_name
from engines.base import Engine, EngineError, EngineOptions, MissingEngineError, Model
from engines.model_file import read_model
from engines.plans import PlanError
from tests.engines.gpu_on_cpu import ON_CPU
from tests.engines.support import AS_ON_GPU, foreign, picture, score

pytestmark = pytest.mark.timeout(60)

PRECISIONS = ("fp32", "fp16", "int8")
PUBLISHED = Path(__file__).with_name("provider_options.txt")


def known_options(provider: Provider) -> set[str]:
    lines = [line.split() for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    return {option for name, option in lines if name == provider.name}


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_every_option_is_one_that_the_provider_publishes(provider: Provider) -> None:
    known = known_options(provider)
    assert len(known) > 20
    for precision in PRECISIONS:
        for cache in (None, Path("somewhere")):
            options = provider.options(precision, cache)
            assert set(options) <= known
            assert all(isinstance(value, str) for value in options.values())
    assert provider.graph_option in {"", *provider.options("fp32", None)}


def test_the_precision_is_in_the_options() -> None:
    assert [CUDA.options(each, None)["use_tf32"] for each in PRECISIONS] == ["0", "1", "1"]
    assert [TENSORRT.options(each, None)["trt_fp16_enable"] for each in PRECISIONS] == ["False", "True", "False"]
    assert [TENSORRT.options(each, None)["trt_int8_enable"] for each in PRECISIONS] == ["False", "False", "True"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_that_is_not_here_is_one_line(name: str, models: dict[str, Model]) -> None:
    """ONNX Runtime itself would go on without it."""
    import onnxruntime

    if PROVIDERS[name].name in onnxruntime.get_available_providers():
        pytest.skip("this build has it")
    with pytest.raises(MissingEngineError, match=r"pip install 'deeplab-stream\[onnxruntime-") as told:
        open_engine(models["street"], name)
    assert "\n" not in str(told.value)


@contextmanager
def opened(model: Model, provider: Provider, options: EngineOptions) -> Iterator[Engine]:
    kind = type("On", (OnnxRuntimeGpuEngine,), {"provider": provider})
    engine = kind(model, options)
    yield engine
    engine.close()


def test_a_provider_that_takes_nothing_is_no_engine(models: dict[str, Model]) -> None:
    """Of this build, too, there is one that loads and leaves everything to the CPU."""
    idle = replace(ON_CPU, name="AzureExecutionProvider", title="Azure's provider")
    with (
        pytest.raises(MissingEngineError, match=r"takes no part of a convolution.*which would all run on the CPU"),
        opened(models["street"], idle, EngineOptions()),
    ):
        pass


def test_half_precision_computes_in_half(models: dict[str, Model]) -> None:
    image, found = picture((96, 128)), []
    for precision in ("fp32", "fp16"):
        with opened(models["street"], ON_CPU, EngineOptions(precision)) as engine:
            assert engine.info.precision == precision
            found.append(score(engine.session(96, 128), image))
    single, half = found
    assert not (single == half).all()
    np.testing.assert_allclose(half, single, rtol=0, atol=0.02 * np.abs(single).max())
    with opened(replace(models["street"], half=True), ON_CPU, EngineOptions()) as engine:
        assert engine.info.precision == "fp16"


def test_an_int8_network_is_refused_where_it_would_not_run_as_one(tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [128, 128, 128]\nstd: [64, 64, 64]\n", quantised=True)
    with pytest.raises(MissingEngineError, match="computes no int8"), opened(model, ON_CPU, EngineOptions()):
        pass


def test_what_is_compiled_is_kept_by_the_weights(tmp_path: Path) -> None:
    """TensorRT's provider finds it by the graph's names alone, which two trainings of one network share."""
    asked: list[Path | None] = []
    provider = replace(ON_CPU, int8=True, options=lambda _, cache: asked.append(cache) or {})
    model, other = (foreign(tmp_path / name, "mean: [0, 0, 0]\nrange: 255\n") for name in ("a.onnx", "b.onnx"))
    with other.path.open("ab") as file:
        file.write(b"\x32\x01x")  # a description: another file, the same names
    options = EngineOptions(cache=tmp_path / "cache")
    for each, size in ((model, 32), (model, 48), (read_model(other.path), 32)):
        with opened(each, provider, options) as engine:
            engine.session(size, size)
    found = [path for path in asked if path is not None]
    assert len(set(found)) == 3
    assert all(path.is_relative_to(tmp_path / "cache") and path.stat().st_mode & 0o077 == 0 for path in found)
    for folder in (found[0], found[0].parent, tmp_path / "cache"):
        folder.chmod(0o777)
        with opened(model, provider, options) as engine, pytest.raises(PlanError, match=rf"{folder} .*chmod go-w"):
            engine.session(32, 32)
        folder.chmod(0o700)
    (found[0] / "planted.engine").symlink_to(model.path)
    with opened(model, provider, options) as engine, pytest.raises(PlanError, match=r"planted\.engine .*remove it"):
        engine.session(32, 32)
    (found[0] / "planted.engine").unlink()
    (found[0] / "ours.engine").write_bytes(b"")
    with opened(model, provider, options) as engine:
        engine.session(32, 32)


def test_a_file_that_has_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")
    model.path.write_bytes(model.path.read_bytes() + b"\0")
    with pytest.raises(EngineError, match="another file"), opened(model, ON_CPU, EngineOptions()):
        pass


def test_a_providers_libraries_are_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every size, which would try to load TensorRT and print to nowhere in the midst of a stream."""
    loaded: list[None] = []
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: loaded.append(None))
    model = foreign(tmp_path / "net.onnx", "mean: [0, 0, 0]\nrange: 255\n")
    with opened(model, replace(ON_CPU, title="a provider that nobody asked for before"), EngineOptions()) as engine:
        for size in (32, 48):
            engine.session(size, size)
    assert len(loaded) == 1


def test_the_order_on_a_gpu(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first that can be used, and the log says what is missing of the better ones."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(backends, "NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert AUTOMATIC_ON_GPU == (
        "tensorrt", "onnxruntime-tensorrt", "onnxruntime-rtx", "onnxruntime-cuda", "torch-cuda",
    )  # fmt: skip
    tried: list[str] = []
    really = backends._open

    def open_backend(model: Model, backend: str, options: EngineOptions) -> Engine:
        tried.append(backend)
        return really(model, backend, options)

    monkeypatch.setattr(backends, "_open", open_backend)
    for index in range(len(AUTOMATIC_ON_GPU) - 1, 0, -1):
        monkeypatch.setitem(backends.BACKENDS, AUTOMATIC_ON_GPU[index], AS_ON_GPU["onnxruntime-gpu-on-cpu"])
        tried.clear()
        with caplog.at_level(logging.INFO, "engines"):
            open_engine(models["street"]).close()
        assert tuple(tried) == AUTOMATIC_ON_GPU[: index + 1]
    assert "TensorRT cannot be loaded" in caplog.text
    assert "--doctor tells of" in caplog.text


def test_the_gpu_is_called_as_the_driver_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert GPUS.is_absolute()
    monkeypatch.setattr("engines.backends.providers.GPUS", tmp_path)
    assert gpu_name() == "GPU 0"
    for slot in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 79\n")
        assert gpu_name() == ("NVIDIA L4" if slot.startswith("0000:01") else "GPU 0"), "which of two is not told"
