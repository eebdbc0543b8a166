"""TensorRT passes the suite that every engine passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.tensorrt.conftest import real_tensorrt

ROOT = Path(__file__).parents[3]

SUITE = ("tests/engines/test_engines.py", "tests/engines/test_foreign.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", ["10", "11", pytest.param("", marks=pytest.mark.gpu, id="gpu")])
def test_the_suite_of_all_engines(release: str, tmp_path: Path) -> None:
    if not release:
        real_tensorrt()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.engines.tensorrt.as_backend",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "-m", "not slow", "-k", "tensorrt", f"--basetemp={tmp_path / 'run'}", *SUITE], cwd=ROOT,
        env=os.environ | {"FAKE_TENSORRT": release}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    (line,) = re.findall(r"^([.sx]+) +\[100%\]$", done.stdout, re.MULTILINE)
    assert line.strip(".") == ""
    assert len(line) > 30
