"""``--doctor`` tries what there is, and names the one command for what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines import doctor
from engines.doctor import MISSING, READY, UNFIT, Finding, advice

ROOT = Path(__file__).parents[2]


def examined(folder: Path, broken: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What a machine is told where some packages cannot be loaded."""
    for name in broken:
        (folder / f"{name}.py").write_text(f"raise ImportError('lib{name}.so is missing')\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "run_pipeline.py", "--doctor"], cwd=ROOT, capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}, check=False,
    )  # fmt: skip


def states(text: str) -> dict[str, str]:
    """State by name of everything in the table."""
    rows = [line.split() for line in text.split("\n\n", maxsplit=1)[0].splitlines()]
    return {row[2]: row[0] for row in rows}


@pytest.mark.slow
def test_a_machine_that_has_all_but_a_gpu(tmp_path: Path) -> None:
    answer = examined(tmp_path, ())
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    found = states(answer.stdout)
    assert {found[name] for name in ("openvino", "onnxruntime", "torch", "street", "libx264", "ffv1")} == {READY}
    assert found["voc"] == MISSING
    assert found["NVDEC"] == found["NVENC"] == UNFIT
    assert "NVIDIA's driver is not installed (libcuda.so.1 cannot be loaded)" in answer.stdout
    assert "python -m engines fetch voc" in answer.stdout
    assert " in bf16 on " in answer.stdout or " in fp32 on " in answer.stdout


@pytest.mark.slow
def test_what_is_missing_is_installed_by_one_command(tmp_path: Path) -> None:
    answer = examined(tmp_path, ("onnxruntime", "torch"))
    assert answer.returncode == 0, answer.stderr
    found = states(answer.stdout)
    assert (found["openvino"], found["onnxruntime"], found["torch"]) == (READY, MISSING, MISSING)
    assert "(libonnxruntime.so is missing)" in answer.stdout
    assert answer.stdout.splitlines()[-1] == (
        "to install what is missing: pip install 'deeplab-stream[onnxruntime,torch]'"
    )


@pytest.mark.slow
def test_a_machine_without_an_engine(tmp_path: Path) -> None:
    answer = examined(tmp_path, ("openvino", "onnxruntime", "torch"))
    assert answer.returncode == 1
    assert "pip install openvino" in answer.stdout
    assert answer.stdout.splitlines()[-2:] == [
        "to install what is missing: pip install 'deeplab-stream[onnxruntime,torch]' openvino",
        "no engine runs here: the stream cannot start",
    ]


def test_the_command_names_each_extra_once_and_none_that_is_of_no_use_here() -> None:
    findings = [
        Finding("engine", "a", MISSING, "", "deeplab-stream[torch]"),
        Finding("tool", "b", MISSING, "", "deeplab-stream[metrics]"),
        Finding("tool", "c", MISSING, "", "deeplab-stream[torch]"),
        Finding("engine", "d", UNFIT, "needs a GPU", "deeplab-stream[tensorrt]"),
        Finding("engine", "e", READY, "", "deeplab-stream[onnxruntime]"),
        Finding("model", "f", MISSING, "fetch it"),
    ]
    assert advice(findings) == "pip install 'deeplab-stream[metrics,torch]'"
    assert advice([Finding("engine", "g", MISSING, "", "openvino")]) == "pip install openvino"
    assert advice(findings[3:]) == ""


def test_every_extra_is_one_of_the_package() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {package.partition("[")[2].rstrip("]") for package in (*doctor.PACKAGES.values(), doctor.CUDA_12)} - {""}
    assert named | set(doctor.TOOLS) <= set(extras)
