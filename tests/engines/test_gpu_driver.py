"""A GPU without a driver: found by what Linux tells of it, and the command that mends it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import doctor, gpu_driver
from engines.doctor import MISSING, UNFIT, Finding, advice, examine_gpu
from engines.zoo import load_model

UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'
FEDORA = "ID=fedora\n"
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos"\n'


def machine(
    root: Path, *, devices: tuple[tuple[str, str], ...] = (("0x10de", "0x030000"),), system: str = UBUNTU,
    files: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """A file system with (vendor, class) of each device on the bus."""
    for number, (vendor, kind) in enumerate(devices):
        folder = root / f"sys/bus/pci/devices/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    for name, text in {"etc/os-release": system, **dict.fromkeys(files, "")}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_gpus_are_told_from_other_devices(tmp_path: Path) -> None:
    others = (("0x8086", "0x030000"), ("0x10de", "0x040300"), ("0x1002", "0x030000"))  # Intel, NVIDIA's sound, AMD
    assert gpu_driver.gpus(machine(tmp_path / "a", devices=others)) == []
    assert gpu_driver.lack(tmp_path / "a") is None
    assert gpu_driver.lack(tmp_path / "empty") is None
    both = machine(tmp_path / "b", devices=(*others, ("0x10de", "0x030200"), ("0x10de", "0x030000")))
    assert gpu_driver.gpus(both) == ["0000:03:00.0", "0000:04:00.0"]
    lack = gpu_driver.lack(both)
    assert lack is not None
    assert lack.told.startswith("2 GPUs, the first at 0000:03:00.0, have no driver: ")


@pytest.mark.parametrize(
    ("system", "command", "told"),
    [
        (UBUNTU, "sudo ubuntu-drivers install", "sudo ubuntu-drivers install, then reboot"),
        (MINT, "sudo ubuntu-drivers install", "then reboot"),
        (DEBIAN, "sudo apt install nvidia-driver", "from its component non-free"),
        (FEDORA, "sudo dnf install akmod-nvidia", "from RPM Fusion"),
        (ROCKY, "", "https://www.nvidia.com/drivers"),
        ("", "", "https://www.nvidia.com/drivers"),
        ("what\nID", "", "https://www.nvidia.com/drivers"),
    ],
)
def test_a_gpu_without_a_driver_gets_its_systems_command(system: str, command: str, told: str, tmp_path: Path) -> None:
    lack = gpu_driver.lack(machine(tmp_path, system=system))
    assert lack is not None
    assert lack.command == command
    assert lack.told.startswith("the GPU at 0000:00:00.0 has no driver: ")
    assert told in lack.told


def test_a_driver_that_shows_no_device(tmp_path: Path) -> None:
    loaded = ("sys/module/nvidia/version",)
    bare = gpu_driver.lack(machine(tmp_path / "bare", files=loaded))
    assert bare is not None
    assert bare.command == "sudo nvidia-modprobe -u -c 0"
    for name in (".dockerenv", "run/.containerenv"):
        inside = gpu_driver.lack(machine(tmp_path / name.replace("/", "_"), files=(*loaded, name)))
        assert inside is not None
        assert "docker run --gpus all" in inside.told
        assert inside.command == "", "nothing inside the container mends it"
    host = gpu_driver.lack(machine(tmp_path / "host", files=(".dockerenv",)))
    assert host is not None
    assert "install it on the host" in host.told
    assert host.command == ""


def test_the_doctor_names_the_driver_and_what_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path)
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "none",))
    lack, gpus = gpu_driver.lack(root), gpu_driver.gpus(root)
    monkeypatch.setattr(gpu_driver, "lack", lambda: lack)
    monkeypatch.setattr(gpu_driver, "gpus", lambda: gpus)
    (gpu,) = examine_gpu()
    assert (gpu.state, gpu.command) == (MISSING, "sudo ubuntu-drivers install")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    model = load_model("street")
    engines = [doctor._engine(name, model) for name in ("tensorrt", "torch-cuda", "onnxruntime-cuda")]
    assert [each.state for each in engines] == [MISSING, UNFIT, UNFIT]
    assert {each.told for each in engines[1:]} == {"needs the GPU's driver"}
    assert advice([gpu, *engines]) == "sudo ubuntu-drivers install && pip install 'deeplab-stream[tensorrt]'"


def test_a_machine_without_a_gpu_is_told_to_install_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "none",))
    monkeypatch.setattr(gpu_driver, "lack", lambda: None)
    monkeypatch.setattr(gpu_driver, "gpus", list)
    found = [*examine_gpu(), doctor._engine("tensorrt", load_model("street"))]
    assert {each.state for each in found} == {UNFIT}
    assert advice(found) == ""


@pytest.mark.parametrize(
    ("cuda", "extra"), [(12, "tensorrt-cu12"), (13, "tensorrt"), (14, "tensorrt"), (None, "tensorrt")]
)
def test_the_package_is_chosen_by_the_driver(cuda: int | None, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_driver, "newest_cuda", lambda: cuda)
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "engines.backends.tensorrt", raising=False)
    found = doctor._engine("tensorrt", load_model("street"))
    assert isinstance(found, Finding)
    assert (found.state, found.package) == (MISSING, f"deeplab-stream[{extra}]")
    assert f"pip install 'deeplab-stream[{extra}]'" in found.told


def test_without_the_drivers_library_nobody_knows_its_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_driver, "_LIBRARY", "libnone.so.1")
    assert gpu_driver.newest_cuda() is None
