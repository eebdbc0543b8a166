"""The whole stream on TensorRT: the labels of another engine, and a ring that the GPU reads and writes itself."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.base import Request
from engines.stragglers import stragglers
from pipeline.api import stream
from pipeline.cli.main import main
from pipeline.options import InputOptions
from pipeline.runner import Runner, inference
from pipeline.runner.batching import Batch
from tests.engines.tensorrt.conftest import Machine
from tests.engines.tensorrt.fake_cuda import FakeCuda
from tests.pipeline import clips
from tests.pipeline.running import Recorder, options_of, run, until


def masks(folder: Path, *words: str) -> list[np.ndarray]:
    out = folder / "-".join(["masks", *words]).replace("/", "_")
    arguments = ["--input", "sample", "--masks", f"{out}/", "--max-frames", "6", "--model", "street", "--size", "96"]
    assert main([*arguments, "--precision", "fp32", *words]) == 0
    return [np.asarray(Image.open(path)) for path in sorted(out.iterdir())]


def alike(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """The GPU scales by arithmetic of its own, which moves an outline here and there."""
    return all((one == other).mean() > 0.996 for one, other in zip(found, expected, strict=True))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_stream_runs_on_it(machine: Machine, home: Path) -> None:
    found, expected = masks(home, "--engine", "tensorrt"), masks(home, "--engine", "onnxruntime")
    assert len(found) == len(expected) == 6
    assert alike(found, expected)
    if machine.cuda:
        assert machine.cuda.calls["cudaHostRegister"] == machine.cuda.calls["cudaHostUnregister"] == 1
        assert machine.cuda.alive == {}


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_live_frame_is_copied_while_another_one_is_computed(
    inputs: int, fake: Machine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own input or another one's: the GPU is not done with the first before it is given the second."""
    begun, overlapped, held_until, most = threading.Event(), threading.Event(), time.monotonic() + 40, [0]
    query, begin = FakeCuda._cudaEventQuery, inference._begin

    def noticed(batch: Batch) -> Request:
        begun.set()
        return begin(batch)

    def held(gpu: FakeCuda, event: object) -> object:
        most[0] = max(most[0], sum(bool(stream.waiting) for stream in gpu.streams))
        if most[0] > 1:
            overlapped.set()
        # Not before the first frame: what warms requests up comes one by one.
        if begun.is_set() and not overlapped.is_set() and time.monotonic() < held_until:
            return gpu.cudaError_t.cudaErrorNotReady
        return query(gpu, event)

    monkeypatch.setattr(FakeCuda, "_cudaEventQuery", held)
    monkeypatch.setattr(inference, "_begin", noticed)
    recorder = Recorder()
    given = [InputOptions("sample", f"{number}", outputs=("null",)) for number in range(inputs)]
    live = {"mode": "live", "realtime": True, "max_latency": 60_000, "duration": 3.0}
    report = run(given, "street", extra=[recorder], engine="tensorrt", size=96, **live)
    assert overlapped.is_set()
    assert report.engine is not None
    assert report.engine.requests == 2
    assert most[0] == 2, "more would make frames wait on the GPU that could still be overtaken by newer ones"
    assert recorder.indices == sorted(set(recorder.indices))


@pytest.mark.parametrize("flags", [{}, {"temporal": True}], ids=["labels", "scores"])
def test_kernels_are_compiled_before_the_first_frame_where_they_are_needed(
    flags: dict[str, bool], fake: Machine, home: Path
) -> None:
    given = [InputOptions("sample", outputs=("null",))]
    with Runner(options_of(given, "street", engine="tensorrt", size=96, **flags)) as runner:
        assert (runner.engine._kernels is None) == bool(flags)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_where_the_crf_follows_scores_stay_in_half_precision(fake: Machine, home: Path) -> None:
    """They cost half the bytes; whoever reads others gets them in single precision."""
    given = [InputOptions("sample", outputs=("null",))]
    for flags, half in (
        ({"refine": "crf", "precision": "fp16"}, True),
        ({"refine": "crf", "precision": "fp32"}, False),
        ({"refine": "crf", "precision": "fp16", "temporal": True}, False),
        ({"refine": "guided", "precision": "fp16"}, False),
    ):
        with Runner(options_of(given, "street", engine="tensorrt", size=96, **flags)) as runner:
            assert runner.engine.info.half_scores == half, flags
    sharp = ["--dense-crf", "--precision", "fp16"]
    found, expected = masks(home, "--engine", "tensorrt", *sharp), masks(home, "--engine", "onnxruntime", "--dense-crf")
    assert len(found) == 6
    assert alike(found, expected)


def test_memory_that_may_not_be_locked_is_copied_twice(
    fake: Machine, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.gpu.fail["cudaHostRegister"] = "cudaErrorMemoryAllocation"
    found, expected = masks(home, "--engine", "tensorrt"), masks(home, "--engine", "onnxruntime")
    assert alike(found, expected)
    told = capsys.readouterr().err
    assert told.count("copied twice on its way to the GPU: CUDA failed to page-lock") == 1
    assert "ulimit -l" in told


def test_a_size_that_would_exhaust_the_gpus_memory(
    fake: Machine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine's own holds the frames alone; what the message proposes is accepted."""
    monkeypatch.setattr("pipeline.runner.memory.available_memory", lambda: 16 << 20)
    fake.gpu.free = 50 << 20
    given = ["--input", "sample", "--output", "null", "--max-frames", "2", "--model", "street", "--engine", "tensorrt"]
    largest = []
    for precision in ("fp32", "fp16"):
        assert main([*given, "--precision", precision, "--size", "2048"]) == 2
        said = capsys.readouterr().err
        told = re.search(r"of the GPU's memory and 0\.0 GiB are left; choose (\d+) or less", said)
        assert told, said
        largest.append(int(told[1]))
    assert largest[0] < largest[1] < 1.5 * largest[0]
    assert main([*given, "--precision", "fp32", "--size", str(largest[0])]) == 0
    fake.gpu.free = 0
    assert main([*given, "--precision", "fp32", "--size", "64"]) == 2
    assert "0.0 GiB are left; free some" in capsys.readouterr().err


def interrupted(machine: Machine, home: Path, step: Callable[[int], None]) -> tuple[int, float]:
    """A run whose second size is built when Ctrl-C comes: its status, and how long it took to end after that."""
    clip, pressed = clips.build("size change", home), [0.0]

    def build(number: int) -> None:
        if (built := len(plans(home))) and number == 0:
            pressed[0] = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        if built:
            step(number)

    machine.trt.faults["build"] = build
    arguments = ["--input", str(clip.path), "--masks", f"{home}/masks/", "--model", "street", "--size", "64"]
    status = main([*arguments, "--precision", "fp32", "--engine", "tensorrt"])
    return status, time.monotonic() - pressed[0]


def plans(home: Path) -> list[str]:
    """What is in the plan cache, without the times of kernels and the lock."""
    kept = (home / "cache" / "deeplab-stream" / "compiled").iterdir()
    return sorted(path.name for path in kept if path.suffix not in (".timing", ".lock"))


def test_ctrl_c_ends_the_build_for_a_new_size(fake: Machine, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What came before it is finished, and nothing of the second plan is left."""
    steps = []

    def slowly(number: int) -> None:
        steps.append(number)
        signal.sigtimedwait([], 0.1)

    status, took = interrupted(fake, home, slowly)
    assert status == 130
    assert took < 5
    assert len(steps) < 19, "the build went on to its end"
    assert len(list((home / "masks").iterdir())) == 24
    assert [name.partition("-fp32")[0] for name in plans(home)] == ["street-80x64"]
    told = [line for line in capsys.readouterr().err.splitlines() if "the build of the plan was called off" in line]
    assert len(told) == 1
    assert "ends before frame 24, of 64×48" in told[0]
    assert fake.gpu.alive == {}


def test_a_build_that_does_not_answer_is_left_behind(
    fake: Machine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of TensorRT's steps take a minute."""
    from engines.backends.nvidia import building

    monkeypatch.setattr(building, "CANCEL_S", 0.2)
    go_on = threading.Event()
    try:
        status, took = interrupted(fake, home, lambda _: go_on.wait(60) and None)
        assert status == 130
        assert took < 5
        (thread,) = stragglers()
    finally:
        go_on.set()
    thread.join(10)
    assert not stragglers()
    assert [name.partition("-fp32")[0] for name in plans(home)] == ["street-80x64"]


def test_leaving_the_loop_ends_the_build_for_a_new_size(fake: Machine, home: Path) -> None:
    clip, begun = clips.build("size change", home), threading.Event()

    def slowly(number: int) -> None:
        if plans(home):
            begun.set()
            signal.sigtimedwait([], 0.1)

    fake.trt.faults["build"] = slowly
    given = {"model": "street", "size": 64, "engine": "tensorrt", "precision": "fp32"}
    results = stream(clip.path, **given)
    for result in results:
        if result.index == 23:
            break
    assert begun.wait(30)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 5
    assert [name.partition("-fp32")[0] for name in plans(home)] == ["street-80x64"]
    assert not any(thread.name == "build" for thread in threading.enumerate())


def test_ctrl_c_ends_a_run_on_a_gpu_that_hangs(
    fake: Machine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engines import cancellation

    monkeypatch.setattr(cancellation, "GIVE_UP_S", 0.5)
    pressed = [0.0]

    def press() -> None:
        until(lambda: fake.gpu.calls["cudaGraphLaunch"] > 9, 60, "some frames")  # after the warm-up
        fake.gpu.hangs = True
        pressed[0] = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    arguments = ["--input", "lavfi:testsrc2=size=160x120:rate=25", "--output", "null", "--model", "street"]
    with ThreadPoolExecutor(1) as finger:
        pressing = finger.submit(press)
        status = main([*arguments, "--size", "64", "--precision", "fp32", "--engine", "tensorrt"])
        took = time.monotonic() - pressed[0]
        pressing.result()
    assert status == 1
    assert took < 8
    told = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
    assert [line for line in told if "GPU" in line] == [line for line in told if "error: " in line]
    assert "the GPU has not answered for " in told[-1]
    assert fake.gpu.blocked == []
