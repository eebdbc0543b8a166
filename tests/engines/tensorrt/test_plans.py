"""Plans of TensorRT's: what they are built from, that it is done once, what cannot be built; on fakes and on a GPU."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from engines.base import EngineError, EngineOptions, Model
from engines.cli import main
from engines.plans import PlanCache
from engines.zoo import load_model
from tests.engines.support import open_engine_for, picture, score
from tests.engines.tensorrt.conftest import Machine, expected

pytestmark = pytest.mark.timeout(600)  # a real plan takes its time

SIZE = (32, 48)


def test_a_plan_is_built_once_and_kept(machine: Machine, small: Model, tmp_path: Path) -> None:
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    for _ in range(2):
        with open_engine_for(small, "tensorrt", options) as engine:
            image = picture(SIZE)
            np.testing.assert_allclose(
                score(engine.session(*SIZE), image), expected(small, image), rtol=1e-3, atol=1e-2
            )
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.rpartition(".")[2] for name in kept if name.startswith("TensorRT")] == ["timing"]
    assert len([name for name in kept if name.startswith("small-48x32-fp32-")]) == 1
    if machine.cuda:
        assert sum(entry[1] == "build_serialized_network" for entry in machine.trt.log) == 1


def test_a_plan_that_tensorrt_refuses_is_built_anew(
    fake: Machine, small: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engines.plans")
    options = EngineOptions("fp32", cache=tmp_path / "cache")
    with open_engine_for(small, "tensorrt", options) as engine:
        engine.session(*SIZE)
        key = engine._key(SIZE)  # type: ignore[attr-defined]
    PlanCache(tmp_path / "cache")._write(key, b"XXXX of another driver")
    with open_engine_for(small, "tensorrt", options) as engine:
        score(engine.session(*SIZE), picture(SIZE))
    assert "cannot be loaded by TensorRT: Serialization assertion failed: magic tag does not match" in caplog.text


def test_a_plan_of_another_release_is_not_taken(fake: Machine, small: Model, tmp_path: Path) -> None:
    for version in ("11.4.0.106", "11.5.0.1"):
        fake.trt.__version__ = version
        with open_engine_for(small, "tensorrt", EngineOptions("fp32", cache=tmp_path / "cache")) as engine:
            engine.session(*SIZE)
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 2


def built(fake: Machine, model: Model, options: EngineOptions, **more: bool) -> tuple[dict[str, object], bytes]:
    """What TensorRT's builder was given: its settings and the graph."""
    from engines.backends.tensorrt import TensorRTEngine

    engine = TensorRTEngine(model, options, **more)
    plan = engine._build(SIZE, None)
    engine.close()
    header, _, graph = plan[4:].partition(b"\n")
    return json.loads(header), graph


def test_what_the_builder_is_given(fake: Machine, dynamic: Model) -> None:
    settings, _ = built(fake, dynamic, EngineOptions("fp32", batch=4))
    assert settings["shapes"] == {"picture": [[1, *SIZE, 3], [4, *SIZE, 3], [4, *SIZE, 3]]}
    assert settings["network"] == 1 << int(fake.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert (settings["flags"], settings["cleared"], settings["hardware"]) == ([], ["TF32"], "")
    settings, _ = built(fake, dynamic, EngineOptions("fp16"), portable=True)
    assert (settings["flags"], settings["cleared"]) == (["VERSION_COMPATIBLE"], [])
    assert settings["hardware"] == "AMPERE_PLUS"


def test_a_network_for_one_picture_takes_no_batch(fake: Machine, small: Model) -> None:
    with (
        open_engine_for(small, "tensorrt", EngineOptions("fp32", batch=2)) as engine,
        pytest.raises(EngineError, match="small takes one picture at a time"),
    ):
        engine.session(*SIZE)


def test_what_tensorrt_cannot_build_is_told_in_its_words(fake: Machine, small: Model) -> None:
    with open_engine_for(small, "tensorrt", EngineOptions("fp32")) as engine:
        fake.trt.faults["build"] = "Could not find any implementation for node Conv_3"
        with pytest.raises(
            EngineError,
            match=r"cannot build the plan: Could not find any implementation .*; another engine may run it",
        ):
            engine.session(*SIZE)
        fake.trt.faults["build"] = None
        fake.trt.faults["builder"] = "CUDA initialization failure with error: 35"
        with pytest.raises(EngineError, match="TensorRT cannot build here: CUDA initialization failure with error: 35"):
            engine.session(*SIZE)


def test_ctrl_c_ends_a_build_at_the_next_step(fake: Machine, small: Model, tmp_path: Path) -> None:
    steps = []

    def interrupt(step: int) -> None:
        steps.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if step > 3:
            signal.sigtimedwait([], 0.05)

    fake.trt.faults["build"] = interrupt
    with open_engine_for(small, "tensorrt", EngineOptions("fp32", cache=tmp_path / "cache")) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.session(*SIZE)
        assert 4 <= len(steps) < 19
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["plans.lock"]
        fake.trt.faults.clear()
        score(engine.session(*SIZE), picture(SIZE))  # the next try is free to go on


def test_the_command_builds_what_the_stream_takes(
    fake: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["build", "street", "--engine", "tensorrt", "--precision", "fp16", "--max-batch", "2"]
    words += ["--frame", "128x96", "--size", "96"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.startswith("street: fp16, 128×96, batches of up to 2 on Fake GPU by TensorRT 1")
    (plan,) = (tmp_path / "deeplab-stream" / "compiled").glob("street-128x96-fp16-*.plan")
    for options in (EngineOptions("fp16", batch=2, cache=plan.parent), EngineOptions("auto", cache=plan.parent)):
        with open_engine_for(load_model("street"), "tensorrt", options) as engine:
            engine.session(96, 128)
    assert sum(entry[1] == "build_serialized_network" for entry in fake.trt.log) == 1
    assert main([*words[:-1], "97"]) == 0
    assert main([*words[:6], "--max-batch", "0"]) == 1
    assert "--max-batch 0" in capsys.readouterr().err
