"""The native kernels (CRF, motion) under AddressSanitizer and UBSan: their own tests, on a build for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import absent, need_program

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "test_motion or test_crf_fields or threads or classes or instruction or remember or overflow or refuses or arrays "
    "or odd_sizes or beyond"
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_access_out_of_bounds_and_nothing_undefined(tmp_path: Path) -> None:
    compiler, cmake = need_program("g++"), need_program("cmake")
    asan = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(asan.stdout.strip()).is_absolute():
        absent("AddressSanitizer")
    flags = (
        "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS"
    )
    configure = [
        cmake, "-S", str(ROOT / "pipeline" / "native"), "-B", str(tmp_path / "build"), "-DCMAKE_BUILD_TYPE=None",
        f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_CXX_FLAGS={flags}", "-DSANITIZE=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    for command in (configure, [cmake, "--build", str(tmp_path / "build"), "--parallel", str(os.cpu_count())]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = (tmp_path / "build").glob("_native*.so")

    # A plugin that lets the tests meet this build instead of the installed one.
    (tmp_path / "sanitized.py").write_text(
        "import sys\n"
        "from importlib.machinery import ExtensionFileLoader\n"
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"loader = ExtensionFileLoader('pipeline._native', {str(built)!r})\n"
        f"spec = spec_from_file_location('pipeline._native', {str(built)!r}, loader=loader)\n"
        "module = module_from_spec(spec)\n"
        "sys.modules['pipeline._native'] = module\n"
        "loader.exec_module(module)\n"
        "import pipeline\n"
        "pipeline._native = module\n"
    )
    libraries = [asan.stdout.strip()]
    standard = subprocess.run([compiler, "-print-file-name=libstdc++.so.6"], capture_output=True, text=True, check=True)
    libraries.append(standard.stdout.strip())
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONPATH": str(tmp_path),
        "PYTHONMALLOC": "malloc",
        # No camera pictures: the engine that scores them cannot be loaded under AddressSanitizer.
        "DEEPLAB_STREAM_DATA": str(tmp_path / "none"),
        "CI": "",
    }
    tests = [
        str(ROOT / "tests" / "pipeline" / name)
        for name in ("test_crf_native.py", "test_crf_fields.py", "test_crf.py", "test_motion.py")
    ]
    run = [
        sys.executable, "-m", "pytest", "-s", "-p", "sanitized", "-m", "not slow",
        "-k", f"({TESTS}) and not pydensecrf and not opencvs", "-o", "timeout=0", *tests,
    ]  # fmt: skip
    done = subprocess.run(run, capture_output=True, text=True, timeout=800, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "passed" in done.stdout
