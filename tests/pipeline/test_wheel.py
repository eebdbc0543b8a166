"""The wheel, installed into an empty environment, runs outside the checkout and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.pipeline.clips import Clip
from tests.pipeline.running import ROOT, masks_of, plainly, times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def call(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A build directory of its own: the checkout's belongs to the editable installation.
    call(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", f"-Cbuild-dir={folder / 'build'}",
        "--outdir", folder / "dist", ROOT, cwd=folder,
    )  # fmt: skip
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = (folder / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    done = call(*pip, wheel, cwd=folder, check=False)
    if done.returncode != 0 and "No matching distribution" in done.stderr:
        absent("a package index")
    assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = sum(info.file_size for info in archive.infolist())
    assert {"pipeline/sinks/web/page.html", "pipeline/sinks/web/page.js", "pipeline/sinks/web/page.css"} <= names
    assert "engines/training/report/page.html" in names
    assert {"configs/live.yaml", "pipeline/py.typed", "engines/py.typed"} <= names
    assert "engines/backends/nvidia/pixels.cu" in names
    assert any(name.startswith("pipeline/_native") and name.endswith(".so") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert any(name.endswith("/licenses/NOTICE") for name in names)
    if (ROOT / "engines/models/street.onnx").is_file():
        assert "engines/models/street.onnx" in names
    unwanted = [name for name in names if name.startswith(("tests/", "benchmarks/")) or name.endswith((".cpp", ".hpp"))]
    assert unwanted == []
    assert sizes < 60 << 20


def test_it_runs_outside_the_checkout(installed: Path, clip: Callable[[str], Clip], tiny: str, tmp_path: Path) -> None:
    given = clip("h264")
    program = installed / "deeplab-stream"
    flags = ("--output", "out.mp4", "--masks", "masks.mkv", "--refine", "none", "--report", "report.json")
    call(program, "--input", given.path, "--model", tiny, *flags, cwd=tmp_path)
    assert times(tmp_path / "out.mp4") == list(given.pts)
    for expected, mask in zip(plainly(given.path), masks_of(tmp_path / "masks.mkv"), strict=True):
        expected.check(mask)
    call(program, "--input", given.path, "--model", tiny, "--output", "null", "--refine", "guided", cwd=tmp_path)


def test_presets_and_models_are_inside(installed: Path, clip: Callable[[str], Clip], tmp_path: Path) -> None:
    program = installed / "deeplab-stream"
    listed = call(program, "--list-models", cwd=tmp_path).stdout
    assert "street" in listed
    assert "voc" in listed
    assert "street" in call(installed / "deeplab-engines", "list", cwd=tmp_path).stdout
    if not (ROOT / "engines/models/street.onnx").is_file():
        absent("the embedded model")
    flags = ("--model", "street", "--config", "live", "--output", "street.mkv", "--size", "96")
    call(program, "--input", clip("h264").path, *flags, cwd=tmp_path)
    assert (tmp_path / "street.mkv").is_file()


def test_torch_is_not_there_and_not_missed(
    installed: Path, clip: Callable[[str], Clip], tiny: str, tmp_path: Path
) -> None:
    assert call(installed / "python", "-c", "import torch", cwd=tmp_path, check=False).returncode != 0
    flags = ("--input", clip("h264").path, "--model", tiny, "--output", "null")
    for engine, extra in (("torch", "torch"), ("onnxruntime", "onnxruntime"), ("tensorrt", "tensorrt")):
        done = call(installed / "deeplab-stream", *flags, "--engine", engine, cwd=tmp_path, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert extra in done.stderr.splitlines()[-1]
    call(installed / "deeplab-stream", *flags, "--dense-crf", cwd=tmp_path)
    (tmp_path / "other.yaml").write_text("refine: {kind: crf, backend: pydensecrf}")
    done = call(installed / "deeplab-stream", *flags, "--config", "other.yaml", cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "crf-reference" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_users_get_it_too(installed: Path, clip: Callable[[str], Clip], tiny: str, tmp_path: Path) -> None:
    code = f"""
import pipeline
print(sum(1 for result in pipeline.stream({str(clip("h264").path)!r}, model={tiny!r}, refine="guided")))
"""
    assert call(installed / "python", "-c", code, cwd=tmp_path).stdout.split() == ["30"]
