"""The stream on a GPU, for `benchmarks.gpu`: its tests, its frames a second, and how many inputs it serves."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clip import HEIGHT, WIDTH, make_clip
from benchmarks.gpu_contenders import Own
from benchmarks.gpu_parts import ROOT
from engines.base import EngineError
from pipeline.runner.run import MAX_BATCH

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

MODEL, ENGINE, PRECISION = "street", "tensorrt", "fp16"
MOST_STREAMS = 64
LOST = 0.01
"""Share of the frames that may be dropped where a stream still counts as served."""

SECONDS = 10
"""That each number of streams runs."""

_OUTCOME = re.compile(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")


def conformance(tests: Sequence[str] = TESTS) -> Iterator[dict[str, object]]:
    """The part that runs the tests that need a GPU, which must not be skipped; finds how many passed so far."""
    why = Own(ENGINE).why_not()
    if why:
        raise EngineError(why)
    # Once less would be what the project's own options take back.
    command = [sys.executable, "-u", "-m", "pytest", "-vv", "--tb=short", "-m", "gpu", *tests]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"REQUIRE_GPU": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        passed, failed, last = 0, list[str](), deque[str](maxlen=15)
        for line in process.stdout:
            last.append(line.rstrip())
            if outcome := _OUTCOME.match(line):
                passed += outcome[2] == "PASSED"
                failed += [outcome[1]] if outcome[2] in ("FAILED", "ERROR") else []
                yield {"tests passed": passed, "failed": failed}
    yield {"passed": process.returncode == 0, "tests passed": passed, "failed": failed, "told": list(last)}


def other_engines() -> Iterator[dict[str, object]]:
    """As `conformance`, of `OTHERS`."""
    yield from conformance(OTHERS)


def pipeline_fps(folder: str) -> Iterator[dict[str, object]]:
    """The part that finds the frames a second of one file, from decoder to encoder."""
    why = Own(ENGINE).why_not()
    if why:
        raise EngineError(why)
    _build()
    clip = make_clip(Path(folder, "clip.mp4"), FRAMES)
    report, cores = _run(folder, [str(clip)], ["--output", str(Path(folder, "overlay.mp4"))])
    (one,) = report["inputs"]
    codecs = {"decoder": one["decoder"], "encoder": one["sinks"][0]["encoder"]}
    yield {"fps": report["fps"], "bottleneck": report["bottleneck"], "cores": cores} | codecs


def streams_at_30(folder: str) -> Iterator[dict[str, object]]:
    """The part that finds how many live inputs of 30 frames a second one engine serves, ever more of them.

    With them the processors that each takes.
    """
    why = Own(ENGINE).why_not()
    if why:
        raise EngineError(why)
    _build()
    clip = make_clip(Path(folder, "live.mp4"), 30 * SECONDS, rate=30)
    count = 1
    while count <= MOST_STREAMS:
        report, cores = _run(folder, [str(clip)] * count, ["--mode", "live", "--realtime"])
        inputs = report["inputs"]
        lost = sum(one["dropped"] for one in inputs) / max(1, sum(one["read"] for one in inputs))
        if lost > LOST:
            break
        yield {"streams": count, "lost": lost, "cores_a_stream": cores / count, "batches": report["batches"]}
        count *= 2


def _build() -> None:
    """Make the one plan that all runs share, before anything is timed; nothing where it is kept already."""
    size = ["--frame", f"{WIDTH}x{HEIGHT}", "--max-batch", str(MAX_BATCH)]
    _command([sys.executable, "-m", "engines", "build", MODEL, "--engine", ENGINE, "--precision", PRECISION, *size])


def _command(words: list[str]) -> None:
    """Run a command to its end.

    Raises:
        EngineError: it failed, with the last line of what it said.
    """
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


def _run(folder: str, inputs: list[str], words: list[str]) -> tuple[dict[str, Any], float]:
    """A run's report, and the processors that it kept busy."""
    report = Path(folder, "report.json")
    command = [
        sys.executable,
        "run_pipeline.py",
        "--model",
        MODEL,
        "--engine",
        ENGINE,
        "--precision",
        PRECISION,
        "--quiet",
    ]
    for each in inputs:
        command += ["--input", each, *(["--output", "null"] if "--output" not in words else [])]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    _command([*command, *words, "--report", str(report)])
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    told: dict[str, Any] = json.loads(report.read_text())
    return told, busy / took
