"""The kernels of ``pixels.cu``, built for this processor by its C++ compiler from the very source that NVRTC takes."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.conftest import need_program

SOURCE = Path(__file__).parents[3] / "engines" / "backends" / "nvidia" / "pixels.cu"
DEVICE = Path(__file__).with_name("device.hpp")


@cache
def host_kernels() -> ctypes.CDLL:
    """A library with ``launch_NAME(columns and rows of blocks, of threads, addresses of the arguments)``."""
    built = Path(mkdtemp(prefix="pixels-")) / "pixels.so"
    command = [need_program("g++"), "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    command += ["-shared", "-fPIC", f'-DPIXELS="{SOURCE}"', "-x", "c++", str(DEVICE), "-o", str(built)]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(built))
