"""The whole stream on TensorRT: the labels of another engine, and a ring that the GPU reads and writes itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.main import main
from pipeline.options import InputOptions
from pipeline.runner import Runner
from tests.engines.tensorrt.conftest import Machine
from tests.pipeline.running import options_of


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
