"""The stream on a GPU, for `benchmarks.gpu`: its tests, its frames a second, and how many inputs it serves."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.clip import make_clip
from benchmarks.gpu_contenders import Own

ROOT = Path(__file__).parents[1]
FRAMES = 900
TESTS = (
    "tests/engines/tensorrt",
    "tests/pipeline/test_batching.py",
    "tests/pipeline/sources/test_hwaccel.py",
    "tests/pipeline/sinks/test_nvenc.py",
)
"""Of which those run that need a GPU."""

OTHERS = ("tests/engines/test_engines.py", "tests/engines/test_foreign.py", "tests/engines/test_torch_gpu.py")
"""The same for the engines that stand in for TensorRT, as many as are installed."""

MODEL, ENGINE = "street", "tensorrt"
MOST_STREAMS = 64
LOST = 0.01
"""Share of the frames that may be dropped where a stream still counts as served."""

SECONDS = 10
"""That each number of streams runs."""


def conformance(seconds: float, tests: Sequence[str] = TESTS) -> dict[str, object]:
    """The tests that need a GPU, which must not be skipped."""
    why = Own(ENGINE).why_not() or ("" if seconds > 60 else "no time was left")
    if why:
        return {"measured": f"not measured: {why}"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *tests]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"REQUIRE_GPU": "1"}, capture_output=True, text=True,
            timeout=min(seconds, 240), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"measured": "not measured: it did not end in time"}
    return {"passed": done.returncode == 0, "told": done.stdout.strip().splitlines()[-15:]}


def pipeline_fps(folder: Path, seconds: float) -> dict[str, object]:
    """Frames a second of one file, from decoder to encoder."""
    why = Own(ENGINE).why_not() or ("" if seconds > 30 else "no time was left")
    if why:
        return {"measured": f"not measured: {why}"}
    clip = make_clip(folder / "clip.mp4", FRAMES)
    report, cores = _run(folder, [str(clip)], ["--output", str(folder / "overlay.mp4")], seconds)
    (one,) = report["inputs"]
    codecs = {"decoder": one["decoder"], "encoder": one["sinks"][0]["encoder"]}
    return {"fps": report["fps"], "bottleneck": report["bottleneck"], "cores": cores} | codecs


def streams_at_30(folder: Path, seconds: float) -> dict[str, object]:
    """How many live inputs of 30 frames a second one engine serves, and the processors that each takes."""
    why = Own(ENGINE).why_not()
    if why:
        return {"measured": f"not measured: {why}"}
    clip = make_clip(folder / "live.mp4", 30 * SECONDS, rate=30)
    best: dict[str, object] = {"measured": "not measured: no time was left"}
    end, count = time.monotonic() + seconds, 1
    while count <= MOST_STREAMS and time.monotonic() + 3 * SECONDS < end:
        report, cores = _run(folder, [str(clip)] * count, ["--mode", "live", "--realtime"], end - time.monotonic())
        inputs = report["inputs"]
        lost = sum(one["dropped"] for one in inputs) / max(1, sum(one["read"] for one in inputs))
        if lost > LOST:
            break
        best = {"streams": count, "lost": lost, "cores_a_stream": cores / count, "batches": report["batches"]}
        count *= 2
    return best


def _run(folder: Path, inputs: list[str], words: list[str], seconds: float) -> tuple[dict[str, Any], float]:
    """A run's report, and the processors that it kept busy."""
    report = folder / "report.json"
    command = [
        sys.executable,
        "run_pipeline.py",
        "--model",
        MODEL,
        "--engine",
        "tensorrt",
        "--precision",
        "fp16",
        "--quiet",
    ]
    for each in inputs:
        command += ["--input", each, *(["--output", "null"] if "--output" not in words else [])]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, *words, "--report", str(report)], cwd=ROOT, check=True, timeout=max(30, seconds))
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    told: dict[str, Any] = json.loads(report.read_text())
    return told, busy / took
