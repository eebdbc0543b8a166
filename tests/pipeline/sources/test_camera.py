"""Cameras, by a stand-in for the system's calls: see `v4l2_shim.c` for what it does not prove."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.pipeline.running import arguments, masks_of, program, started, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux"),
]


@dataclass(frozen=True)
class Shim:
    """A camera at /dev/video97 for programs with this environment; files in ``folder`` spoil it."""

    environment: dict[str, str]
    folder: Path


@pytest.fixture
def shim(shim_library: Path, tmp_path: Path) -> Shim:
    folder = tmp_path / "camera"
    folder.mkdir()
    return Shim({**os.environ, "LD_PRELOAD": str(shim_library), "V4L2_SHIM": str(folder)}, folder)


@pytest.fixture(scope="module")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        absent("a C compiler")
    assert compiler is not None
    library = tmp_path_factory.mktemp("shim") / "v4l2_shim.so"
    source = Path(__file__).with_name("v4l2_shim.c")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    yield library


def test_cameras_are_listed_with_their_modes(shim: Shim) -> None:
    done = program("--list-inputs", env=shim.environment)
    lines = done.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["cam97", "Shim Camera 9000, /dev/video97"]
    assert [" ".join(line.split()) for line in lines[1:3]] == [
        "Raw : yuyv422 : YUYV 4:2:2 : 320x240 640x480",
        "Raw : yuv420p : planar 4:2:0 : 320x240 640x480",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--input", "cam97"), "cam97: 320×240 yuv420p, 30 FPS"),
        (("--input", "cam:shim camera", "--video-size", "640x480", "--framerate", "15"), "640×480 yuv420p, 15 FPS"),
        (("--input", "/dev/video97", "--pixel-format", "yuyv422"), "/dev/video97: 320×240 yuv422p, 30 FPS"),
    ],
)
def test_names_and_wishes(flags: tuple[str, ...], said: str, shim: Shim, tiny: str) -> None:
    more = ["--model", tiny, "--output", "null", "--dry-run"]
    done = program(*flags, *more, env=shim.environment)
    assert said in done.stdout, done.stderr


HOLDING = """
from pipeline.sources import SourceOptions, open_source
for _ in range(20):
    source = open_source("cam97", SourceOptions(reconnect=0, framerate=120))
    pictures = source.read()
    held = [next(pictures) for _ in range(12)]  # more than the camera has buffers
    source.close()
    numbers = [int(one.frame.planes[0][0, 0]) for one in held]
    assert [(b - a) % 200 for a, b in zip(numbers, numbers[1:])] == [1] * 11, numbers
    del pictures, held
"""


def test_pictures_outlive_their_camera(shim: Shim) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDING], env=shim.environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_camera_is_pulled_out_and_falls_silent(shim: Shim, tiny: str, tmp_path: Path) -> None:
    masks, report, log, preset = (tmp_path / name for name in ("masks.mkv", "report.json", "log", "preset.yaml"))
    preset.write_text("source: {read_timeout: 0.7}\n")
    flags = arguments("cam97", tiny, "--masks", masks, "--report", report, "--config", preset)

    def said(text: str, times: int = 1) -> None:
        until(lambda: log.read_text().count(text) >= times, 20, text)

    with log.open("wb") as errors, started(*flags, env=shim.environment, stderr=errors) as process:
        until(lambda: list(tmp_path.glob(".*.mkv*")), 30, "the first mask")
        time.sleep(0.3)
        (shim.folder / "gone").touch()
        said("cam97: lost (No such device)")
        (shim.folder / "gone").unlink()
        said("cam97: there again")
        (shim.folder / "stalled").touch()
        said("cam97: lost, the camera gave no picture for 0.7 s")
        (shim.folder / "stalled").unlink()
        said("cam97: there again", 2)
        time.sleep(0.3)
        (shim.folder / "stalled").touch()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(10) == 130
        assert time.monotonic() - began < 2
    assert len(masks_of(masks)) > 10
    (one,) = json.loads(report.read_text())["inputs"]
    assert one["outages"]["count"] == 2
    assert one["outages"]["causes"] == {"cut": 1, "silent": 1}
