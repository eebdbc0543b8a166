"""What only one backend has, and the choice among them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends import open_engine
from engines.backends.common import one_line
from engines.base import EngineError, EngineOptions, MissingEngineError, Model
from tests.engines.support import (
    open_engine_for,
    picture,
    score,
)

pytestmark = pytest.mark.timeout(60)


def test_openvino_keeps_compiled_models_and_survives_damaged_ones(models: dict[str, Model], tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    options = EngineOptions(threads=1, cache=cache)
    image = picture((96, 128))

    def run() -> np.ndarray:
        with open_engine_for(models["street"], "openvino", options) as engine:
            return score(engine.session(96, 128), image)

    first = run()
    (blob,) = cache.glob("*.blob")
    assert (cache.stat().st_mode & 0o777) == 0o700
    stamp = blob.stat().st_mtime_ns
    assert (run() == first).all()
    assert blob.stat().st_mtime_ns == stamp, "compiled again"
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:1000])
    assert (run() == first).all()


def test_openvino_does_without_a_cache_that_cannot_be_had(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    others = tmp_path / "others"
    others.mkdir()
    for cache, said in (
        (tmp_path / "file" / "cache", r"model cache .*file/cache cannot be made .*; compiling without it"),
        (others, r"model cache .* can be written by other users.*; compiling without it"),
    ):
        if cache == others:
            monkeypatch.setattr(os, "geteuid", lambda: 4711)
        caplog.clear()
        engine = open_engine(models["street"], "openvino", EngineOptions(threads=1, cache=cache))
        session = engine.session(32, 32)
        scores = np.empty(session.score_shape, np.float32)
        session.start(np.zeros((32, 32, 3), np.uint8), scores).wait(30)
        engine.close()
        assert re.search(said, caplog.text)
    assert not list(others.iterdir()), "nothing is read from there, and nothing written"


def test_openvino_cache_does_not_grow_for_ever(models: dict[str, Model], tmp_path: Path) -> None:
    for index in range(50):
        blob = tmp_path / f"{index}.blob"
        blob.write_bytes(b"")
        os.utime(blob, (index, index))
    open_engine(models["street"], "openvino", EngineOptions(cache=tmp_path)).close()
    assert {blob.name for blob in tmp_path.glob("*.blob")} == {f"{index}.blob" for index in range(18, 50)}


def test_of_a_long_message_both_ends_are_told() -> None:
    assert one_line(ValueError("Check 'x' failed\n  this\nis wrong")) == "this is wrong"
    told = one_line(ValueError("begin " + "x" * 9000 + " end"))
    assert told.startswith("begin x")
    assert told.endswith("x end")
    assert len(told) < 1100


def test_openvino_half_precision_only_where_the_processor_has_it(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    import engines.backends.openvino as backend

    assert backend._precision("auto", replace(models["street"], half=False), ["FP16"]) == ("f32", "fp32")
    assert backend._precision("fp16", models["street"], ["FP16", "FP32"]) == ("f16", "fp16")
    monkeypatch.setattr(backend, "_has_bf16", lambda: True)
    assert backend._precision("fp16", models["street"], ["BF16", "FP32"]) == ("bf16", "bf16")
    monkeypatch.setattr(backend, "_has_bf16", lambda: False)  # OpenVINO lists it, but would emulate it
    with pytest.raises(EngineError, match="no half-precision arithmetic"):
        backend._precision("fp16", models["street"], ["BF16", "FP32"])


def test_bf16_in_the_place_of_fp16_is_told(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a processor that multiplies bf16 alone, as nearly all are that have half precision."""
    monkeypatch.setattr("engines.backends.openvino._precision", lambda *_: ("bf16", "bf16"))
    for asked, told in (("fp16", "street in bf16 in place of fp16 on"), ("auto", "street in bf16 on")):
        caplog.clear()
        with caplog.at_level(logging.INFO, "engines"):
            engine = open_engine(models["street"], "openvino", EngineOptions(asked, threads=1))
        engine.close()
        assert engine.info.precision == "bf16"
        assert told in caplog.text


def test_openvino_takes_half_precision_of_itself_only_where_the_model_keeps_its_labels(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    import engines.backends.openvino as backend

    measured, not_measured = (replace(models["street"], half=half) for half in (True, False))
    monkeypatch.setattr(backend, "_has_bf16", lambda: True)
    assert backend._precision("auto", measured, ["BF16", "FP32"]) == ("bf16", "bf16")
    assert backend._precision("fp32", measured, ["BF16", "FP32"]) == ("f32", "fp32")
    assert backend._precision("auto", not_measured, ["BF16", "FP32"]) == ("f32", "fp32")
    assert backend._precision("auto", replace(measured, quantised=True), ["BF16", "FP32"]) == ("f32", "int8")
    monkeypatch.setattr(backend, "_has_bf16", lambda: False)
    assert backend._precision("auto", measured, ["BF16", "FP32"]) == ("f32", "fp32")


def test_openvino_half_precision_keeps_nearly_all_labels(models: dict[str, Model]) -> None:
    """On processors without it this compares single precision with itself."""
    image, labels = picture((96, 128)), []
    for half in (True, False):
        with open_engine_for(replace(models["street"], half=half), "openvino") as engine:
            labels.append(score(engine.session(96, 128), image).argmax(0))
    assert (labels[0] == labels[1]).mean() > 0.9


def test_openvino_precision_is_always_set(models: dict[str, Model]) -> None:
    """Left alone, OpenVINO computes in bf16 on processors that have it."""
    engine = open_engine(replace(models["street"], half=False), "openvino", EngineOptions(threads=1))
    session = engine.session(96, 128)
    compiled = session._lanes._idle[0].request.get_compiled_model()  # type: ignore[attr-defined]
    assert "f" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    assert "16" not in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    engine.close()


@pytest.mark.parametrize(("requests", "threads", "streams"), [(1, 1, 1), (1, 2, 1), (2, 2, 2), (3, 2, 2), (2, 1, 1)])
def test_openvino_divides_its_threads_among_the_requests(
    requests: int, threads: int, streams: int, models: dict[str, Model]
) -> None:
    engine = open_engine(models["street"], "openvino", EngineOptions(threads=threads, requests=requests))
    session = engine.session(64, 64)
    compiled = session._lanes._idle[0].request.get_compiled_model()  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == streams
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    engine.close()


def test_auto_takes_openvino_and_says_why(models: dict[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "engines"):
        engine = open_engine(models["street"])
    assert engine.info.backend == "openvino"
    assert "openvino" in caplog.text
    assert "the fastest on a CPU" in caplog.text
    engine.close()


BROKEN = {
    "no library": "raise ImportError('libtbb.so.12: cannot open shared object file')",
    "wrong library": "raise OSError('libtbb.so.12: wrong ELF class\\nsecond line')",
    "no plugin": "class Core:\n    def get_property(*_): raise RuntimeError('libtbb.so.12: no plugin of the CPU')",
}

FALL_BACK = """
import logging, sys
from pathlib import Path
from engines.backends import open_engine
from engines.base import EngineError
from engines.model_file import read_model
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
model = read_model(Path(sys.argv[1]))
print(open_engine(model).info.backend)
for name in ("openvino", "auto"):
    try:
        open_engine(model, name)
    except EngineError as error:
        print(error)
    sys.modules["onnxruntime"] = None
    del sys.modules["engines.backends.onnxruntime"]
"""


@pytest.mark.parametrize("package", BROKEN.values(), ids=BROKEN)
def test_auto_falls_back_from_a_broken_library(package: str, models: dict[str, Model], tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(package)
    command = [sys.executable, "-c", FALL_BACK, str(models["street"].path)]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert answer.returncode == 0, answer.stderr
    logged, chosen, named, neither = answer.stdout.splitlines()
    assert chosen == "onnxruntime"
    assert logged.startswith("engine onnxruntime ")
    for line in (logged, named, neither):
        assert "OpenVINO cannot be loaded (libtbb.so.12: " in line
        assert "pip install openvino" in line
    assert neither.startswith("no engine can be loaded: ")
    assert "pip install onnxruntime" in neither


def test_auto_stands_by_an_engine_that_loads(models: dict[str, Model], tmp_path: Path) -> None:
    """A model that the best engine cannot read is told as such, and not tried on the next."""
    (tmp_path / "x.onnx").write_bytes(b"rubbish")
    with pytest.raises(EngineError, match=r"OpenVINO cannot read .*x\.onnx"):
        open_engine(replace(models["street"], path=tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("openvino", "pip install openvino"), ("onnxruntime", "pip install onnxruntime"), ("torch", "pip install torch")],
)
def test_a_missing_engine_says_what_to_install(
    name: str, words: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what `import` sees of a package that is not there
    monkeypatch.delitem(sys.modules, f"engines.backends.{name}", raising=False)
    with pytest.raises(EngineError, match=words):
        open_engine(models["street"], name)


def test_an_engine_that_there_is_none_of_is_told(models: dict[str, Model]) -> None:
    with pytest.raises(EngineError, match="no engine 'cuda': choose from auto, openvino"):
        open_engine(models["street"], "cuda")


def test_tensorrt_says_what_to_install(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        MissingEngineError, match=r"TensorRT cannot be loaded .*pip install 'deeplab-stream\[tensorrt\]'"
    ):
        open_engine(models["street"], "tensorrt")


def test_auto_asks_for_tensorrt_where_there_is_a_driver_alone(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for there in (False, True):
        device = tmp_path / "nvidiactl"
        monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (device,))
        if there:
            device.touch()
        caplog.clear()
        with caplog.at_level(logging.INFO, "engines"):
            open_engine(models["street"]).close()
        assert ("TensorRT cannot be loaded" in caplog.text) == there
        assert "engine openvino" in caplog.text


def test_running_a_model_imports_no_torch(models: dict[str, Model]) -> None:
    """Nor onnx, nor anything of training: a fresh interpreter runs a model and looks at what it has loaded."""
    program = f"""
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from engines.backends import open_engine
from engines.model_file import read_model
import engines.zoo, engines.cli
model = read_model(Path({str(models["street"].path)!r}))
for name in ("openvino", "onnxruntime"):
    engine = open_engine(model, name)
    session = engine.session(64, 64)
    session.start(np.zeros((64, 64, 3), np.uint8), np.empty(session.score_shape, np.float32)).wait(30)
    engine.close()
loaded = set(m.partition(".")[0] for m in sys.modules)
print(sorted(loaded & {{"torch", "onnx", "cv2", "onnxscript", "openvino_telemetry"}}))
print(sorted(m for m in sys.modules if m.startswith(("engines.training", "engines.networks", "engines.export"))))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert answer.stdout.split() == ["[]", "[]"], answer.stdout + answer.stderr
