"""NVIDIA GPUs that the machine has, and why the driver cannot be used: what Linux tells without it."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VENDOR, DISPLAY = "0x10de", "0x03"
"""NVIDIA's number on the PCI bus, and how the class of what computes or draws begins there."""

INSTALLS = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "arch": "sudo pacman -S nvidia-open",
}
"""By the name of a distribution, in /etc/os-release, or of one that it is like."""

SOURCES = {"debian": " (from its component non-free)", "fedora": " (from RPM Fusion)"}

_LIBRARY = "libcuda.so.1"
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Lack:
    """Why there is no driver to use.

    Attributes:
        told: for people, on one line.
        command: that mends it; empty where none that could be run here does.
    """

    told: str
    command: str = ""


def gpus(root: Path = _ROOT) -> list[str]:
    """Places of NVIDIA's GPUs on the PCI bus, such as ``"0000:01:00.0"``; none where Linux does not tell."""
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    return [
        path.name for path in devices if _read(path / "vendor") == VENDOR and _read(path / "class").startswith(DISPLAY)
    ]


def lack(root: Path = _ROOT) -> Lack | None:
    """Why the driver cannot be used, to be asked where it shows no device; None where there is no GPU."""
    found = gpus(root)
    if not found:
        return None
    which = f"the GPU at {found[0]}" if len(found) == 1 else f"{len(found)} GPUs, the first at {found[0]},"
    has = "has" if len(found) == 1 else "have"
    contained = any((root / path).exists() for path in (".dockerenv", "run/.containerenv"))
    if (root / "sys/module/nvidia").exists():
        if contained:
            way = "docker run --gpus all, or podman run --device nvidia.com/gpu=all"
            return Lack(f"{which} {has} a driver, whose devices are not in this container: {way}")
        command = "sudo nvidia-modprobe -u -c 0"
        return Lack(f"{which} {has} a driver, whose devices are not there: {command}", command)
    if contained:
        return Lack(f"{which} {has} no driver: install it on the host, and start this container with the GPU")
    names = _distribution(root)
    name = next((name for name in names if name in INSTALLS), "")
    if not name:
        return Lack(f"{which} {has} no driver: https://www.nvidia.com/drivers, then reboot")
    told = f"{which} {has} no driver: {INSTALLS[name]}{SOURCES.get(name, '')}, then reboot"
    return Lack(told, INSTALLS[name])


def newest_cuda() -> int | None:
    """Major version of CUDA that the driver knows, None where it cannot be asked."""
    version = ctypes.c_int()
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(_LIBRARY).cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value // 1000
    return None


def _distribution(root: Path) -> list[str]:
    """The distribution's name, then those that it is like."""
    lines = _read(root / "etc/os-release").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return " ".join(values.get(key, "").strip("\"'") for key in ("ID", "ID_LIKE")).split()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
