"""What a benchmark ran on, for its JSON."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from pipeline.cpu import available_cpus

_PACKAGES = ("deeplab-stream", "numpy", "av", "openvino", "onnxruntime", "torch", "opencv-python-headless")


def describe() -> dict[str, object]:
    """Processor, system and the versions of what was measured."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cpus": available_cpus(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
