"""Decoding by NVDEC: real libav and its real way to a device and back, over a stand-in for NVIDIA's driver.

Tests marked ``gpu`` ask the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, HardwareError, SourceError
from pipeline.hwaccel import missing
from pipeline.sources import SourceOptions, open_source
from tests.pipeline.clips import RECIPES, Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.encoding import make
from tests.pipeline.nvidia import build_driver, nvdec_pictures
from tests.pipeline.running import arguments, masks_of, one_line_error, program
from tests.pipeline.sources.decoded import Told, tell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")

TAKEN = ("h264", "vfr", "hevc", "10 bit", "vp9", "left", "interlaced", "anamorphic", "full range")
"""Clips of layouts, times, tags, turns and orders of decoding that differ."""


def lossy(name: str, folder: Path, **more: Any) -> Path:
    """A clip of the recipe as cameras make it: lossless H.264 is none of NVDEC's."""
    recipe = replace(RECIPES[name], **more)
    if recipe.codec == "libx264":
        kept = {key: value for key, value in recipe.options.items() if key == "x264-params"}
        recipe = replace(recipe, options=RECIPES["h264 lossy"].options | kept, exact=False)
    return make(f"{name} lossy", recipe, folder).path


def children(tasks: list[dict[str, Any]], environment: dict[str, str]) -> list[Told]:
    """The inputs one after the other in a process with this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.sources.decoded"], input=json.dumps(tasks), env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing of libav's or the driver's own is printed"
    return [Told(**{**answer, "log": tuple(map(tuple, answer["log"]))}) for answer in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def depths(clip: Callable[[str], Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream that goes over from 8 to 10 bits in the middle."""
    folder = tmp_path_factory.mktemp("depths")
    base = RECIPES["late ts"]
    after = tuple(tick + 30 * 3600 for tick in base.ticks)
    deep = replace(base, ticks=after, stored="yuv420p10le", layout="yuv420p10le")
    parts = [make("8 bit", base, folder), make("10 bit", deep, folder)]
    path = folder / "depths.ts"
    path.write_bytes(b"".join(part.path.read_bytes() for part in parts))
    return path


@pytest.fixture(scope="module")
def told(
    clip: Callable[[str], Clip], depths: Path, driver: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Told, Told]]:
    """Of every case what comes by software, and what comes by the device."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = {name: lossy(name, folder) for name in TAKEN} | {"depths": depths, "size change": clip("size change").path}
    for name, path in paths.items():
        nvdec_pictures(path, folder / name)

    def task(name: str, path: Path | None = None, **more: str) -> dict[str, Any]:
        environment = {"NVDEC_PICTURES": str(folder / name), **more}
        return {"path": str(path or paths[name]), "hwaccel": "auto", "environment": environment}

    def copy(name: str) -> Path:
        other = folder / f"{name}.mp4"
        other.write_bytes(paths["h264"].read_bytes())
        return other

    cases = {name: task(name) for name in paths}
    cases["threads"] = task("h264") | {"threads": 3}
    cases["sought"] = task("h264", NVDEC_PICTURES=str(folder / "twice")) | {"start": 0.7}
    (folder / "twice").write_bytes(2 * (folder / "h264").read_bytes())
    cases["refused"] = task("10 bit", NVDEC_REFUSES="10")
    cases["refused in the middle"] = task("depths", NVDEC_REFUSES="10")
    cases["lossless"] = task("h264", clip("h264 lossless").path)
    cases["jpeg"] = task("h264", clip("mjpeg").path)
    cases["not of NVDEC"] = task("h264", clip("444 10 bit").path)
    # Each under a name of its own: what has failed once is not tried again.
    cases["fails"] = task("h264", copy("fails"), NVDEC_FAILS_AT="1")
    cases["fails later"] = task("h264", copy("later"), NVDEC_FAILS_AT="12")
    cases["failed before"] = task("h264", Path(cases["fails later"]["path"]))
    cases["none"] = task("h264") | {"hwaccel": "none"}
    cases["memory is full"] = task("h264", copy("full"), CUDA_CONTEXTS="1")
    answers = children(list(cases.values()), driver)
    return {
        name: (tell(str(case["path"]), hwaccel="none", start=case.get("start", 0)), answer)
        for (name, case), answer in zip(cases.items(), answers, strict=True)
    }


@pytest.mark.parametrize("name", [*TAKEN, "size change"])
def test_pictures_that_come_from_the_device_are_those_of_software(
    name: str, told: dict[str, tuple[Told, Told]]
) -> None:
    software, device = told[name]
    assert device.decoder == f"{software.decoder} by NVDEC"
    assert device.pictures == software.pictures
    assert len(device.pictures) >= 20
    assert (device.damaged, device.error) == (software.damaged, software.error)
    (line,) = (text for level, text in device.log if level == "INFO" and "NVDEC" in text)
    assert f"decoded by NVDEC ({software.decoder}" in line


def test_frame_threads_change_nothing(told: dict[str, tuple[Told, Told]]) -> None:
    software, device = told["threads"]
    assert device.decoder == "h264 by NVDEC"
    assert device.pictures == software.pictures


def test_a_later_part_begins_where_software_begins(told: dict[str, tuple[Told, Told]]) -> None:
    """Its pictures cannot be compared: the stand-in knows but one order."""
    software, device = told["sought"]
    assert [picture[:-1] for picture in device.pictures] == [picture[:-1] for picture in software.pictures]
    assert 0 < len(device.pictures) < 30
    assert device.decoder == "h264 by NVDEC"
    assert device.damaged == 0


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("refused", "h264 High 10"),
        ("lossless", "h264 High 4:4:4 Predictive"),
        ("jpeg", "mjpeg Baseline"),
        ("not of NVDEC", "ffv1"),
    ],
)
def test_what_the_device_does_not_take_is_decoded_in_software(
    name: str, stream: str, told: dict[str, tuple[Told, Told]]
) -> None:
    software, device = told[name]
    assert device.decoder == software.decoder
    assert device.pictures == software.pictures
    assert any(f"software, NVDEC does not take it ({stream})" in text for level, text in device.log if level == "INFO")


def test_a_stream_that_changes_loses_and_doubles_nothing_on_its_way_to_software(
    told: dict[str, tuple[Told, Told]],
) -> None:
    software, device = told["refused in the middle"]
    assert device.pictures == software.pictures
    assert {layout for _, _, layout, *_ in device.pictures} == {"yuv420p", "yuv420p10le"}
    lines = [text.partition(": ")[2] for level, text in device.log if level == "INFO"]
    assert "decoded by NVDEC (h264 High)" in lines[0] or lines[0].startswith("from here on")
    assert any("from here on decoded in software, NVDEC does not take it (h264 High 10)" in line for line in lines)
    assert device.decoder == "h264"
    assert told["depths"][1].pictures == software.pictures
    assert told["depths"][1].decoder == "h264 by NVDEC"


def test_a_device_that_fails_at_first_is_left_for_software(told: dict[str, tuple[Told, Told]]) -> None:
    software, device = told["fails"]
    assert device.pictures == software.pictures
    assert [level for level, _ in device.log].count("WARNING") >= 1
    assert "NVDEC fails at it" in " ".join(text for _, text in device.log)
    assert device.decoder == "h264"


def test_a_device_that_fails_later_ends_the_input_with_the_way_out(told: dict[str, tuple[Told, Told]]) -> None:
    software, device = told["fails later"]
    assert device.pictures[:5] == software.pictures[:5]
    assert device.error.endswith("lost, NVDEC fails at it; --hwaccel none decodes it in software")
    assert "\n" not in device.error


def test_an_input_that_the_device_has_failed_at_is_left_for_software(told: dict[str, tuple[Told, Told]]) -> None:
    software, device = told["failed before"]
    assert device.decoder == "h264"
    assert device.pictures == software.pictures


def test_a_device_without_memory_is_done_without(told: dict[str, tuple[Told, Told]]) -> None:
    software, device = told["memory is full"]
    assert device.pictures == software.pictures
    assert "decoded in software, the GPU cannot be opened" in " ".join(text for _, text in device.log)


def test_a_pipe_is_decoded_in_software(driver: dict[str, str], tmp_path: Path) -> None:
    """It could not be opened again if NVDEC were not to suit it."""
    path = lossy("late ts", tmp_path)
    nvdec_pictures(path, tmp_path / "pictures")
    command = [sys.executable, "-m", "tests.pipeline.sources.decoded", "-"]
    for hwaccel, decoder in (("auto", "h264"), ("cuda", "h264 by NVDEC")):
        with path.open("rb") as whole, subprocess.Popen(["cat"], stdin=whole, stdout=subprocess.PIPE) as cat:
            done = subprocess.run(
                [*command, hwaccel], stdin=cat.stdout, env=driver | {"NVDEC_PICTURES": str(tmp_path / "pictures")},
                capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
        (answer,) = json.loads(done.stdout)
        assert answer["decoder"] == decoder
        assert answer["pictures"] == tell(str(path), hwaccel="none").pictures


def test_none_does_not_even_load_the_driver(clip: Callable[[str], Clip], driver: dict[str, str]) -> None:
    path = str(clip("h264").path)
    none, auto = children([{"path": path, "hwaccel": "none"}, {"path": path, "hwaccel": "auto"}], driver)
    assert (none.cuda, auto.cuda) == (False, True)
    assert (none.decoder, none.log) == ("h264", ())


@pytest.mark.parametrize(
    ("libraries", "more", "reason"),
    [
        ((), {}, "NVIDIA's driver is not installed (libcuda.so.1 cannot be loaded)"),
        (("libcuda.so.1",), {}, "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"),
        (("libcuda.so.1", "libnvcuvid.so.1"), {"CUDA_DEVICES": "0"}, "no GPU can be opened (Generic error in an ex"),
    ],
)
def test_what_is_missing_is_named(
    libraries: tuple[str, ...], more: dict[str, str], reason: str, clip: Callable[[str], Clip], tmp_path: Path
) -> None:
    path = str(clip("h264").path)
    tasks = [{"path": path, "hwaccel": hwaccel} for hwaccel in ("auto", "auto", "cuda")]
    first, again, demanded = children(tasks, build_driver(tmp_path, libraries) | more)
    assert first.pictures == again.pictures == tell(path, hwaccel="none").pictures
    ((level, line),) = first.log
    assert level == "INFO"
    assert line.startswith("video is decoded in software: ")
    assert reason in line
    assert again.log == (), "told once"
    assert demanded.pictures == []
    assert demanded.error.startswith("hwaccel cuda: no NVDEC, ")
    assert reason in demanded.error
    assert demanded.error.endswith("; --hwaccel auto does without")
    assert "\n" not in demanded.error


def test_a_demand_is_not_met_by_software(clip: Callable[[str], Clip], driver: dict[str, str], tmp_path: Path) -> None:
    paths = {
        "h264 High 10": lossy("10 bit", tmp_path),
        "ffv1": clip("444 10 bit").path,
        "h264 High 4:4:4 Predictive": clip("h264 lossless").path,
    }
    refusing = {"NVDEC_REFUSES": "10"}
    tasks = [{"path": str(path), "hwaccel": "cuda", "environment": refusing} for path in paths.values()]
    for answer, stream in zip(children(tasks, driver), paths, strict=True):
        assert answer.error.endswith(f"NVDEC does not take it ({stream}); --hwaccel none decodes it in software")
        assert answer.pictures == []


def test_a_choice_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="hwaccel is auto, none or cuda, not 'vaapi'"):
        SourceOptions(hwaccel="vaapi")  # type: ignore[arg-type]


def test_a_whole_run_from_the_device(driver: dict[str, str], tiny: str, tmp_path: Path) -> None:
    path, masks = lossy("h264", tmp_path), {}
    nvdec_pictures(path, tmp_path / "pictures")
    for hwaccel, decoder in (("none", "h264"), ("cuda", "h264 by NVDEC")):
        out, report = tmp_path / f"{hwaccel}.mkv", tmp_path / f"{hwaccel}.json"
        flags = arguments(path, tiny, "--output", "null", "--masks", out, "--report", report, "--hwaccel", hwaccel)
        done = program(*flags, env=driver | {"NVDEC_PICTURES": str(tmp_path / "pictures")})
        assert done.returncode == 0, done.stderr
        assert json.loads(report.read_text())["inputs"][0]["decoder"] == decoder
        assert f"\n  decoder {decoder}\n" in done.stdout
        masks[hwaccel] = [mask.tobytes() for mask in masks_of(out)]
    assert masks["cuda"] == masks["none"]


# ---- this machine's own


def need_nvdec() -> None:
    reason = missing("NVDEC")
    if reason and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(f"REQUIRE_GPU is set, and there is no NVDEC: {reason}")
    if reason:
        pytest.skip(f"no NVDEC: {reason}")


@pytest.mark.skipif(not missing("NVDEC"), reason="this machine has an NVIDIA GPU")
def test_a_machine_without_a_gpu(clip: Callable[[str], Clip]) -> None:
    path = str(clip("h264").path)
    assert tell(path, hwaccel="auto").pictures == tell(path, hwaccel="none").pictures
    with pytest.raises(HardwareError, match="hwaccel cuda: no NVDEC"):
        open_source(path, SourceOptions(hwaccel="cuda"))


@pytest.mark.skipif(not missing("NVDEC"), reason="this machine has an NVIDIA GPU")
def test_the_command_line_refuses_before_anything_is_opened(cli: Cli) -> None:
    done = cli("--input", "rtsp://127.0.0.1:1/", "--output", "null", "--hwaccel", "cuda")
    one_line_error(done, "hwaccel cuda: no NVDEC", "--hwaccel auto does without")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["h264", "hevc", "vp9", "10 bit", "left", "full range", "interlaced"])
def test_nvdec_gives_the_pictures_of_software(name: str, tmp_path: Path) -> None:
    need_nvdec()
    # NVDEC takes HEVC from 144×144 on.
    path = str(lossy(name, tmp_path, width=320, height=240))
    device, software = tell(path, hwaccel="auto"), tell(path, hwaccel="none")
    if device.decoder == software.decoder and name == "10 bit":
        pytest.skip("this GPU decodes no 10-bit H.264")
    assert device.decoder == f"{software.decoder} by NVDEC"
    assert device.pictures == software.pictures
    assert device.damaged == 0


@pytest.mark.gpu
def test_nvdec_leaves_what_it_does_not_take(tmp_path: Path) -> None:
    need_nvdec()
    path = str(make("444", replace(RECIPES["444"], width=320, height=240), tmp_path).path)
    assert tell(path, hwaccel="auto").pictures == tell(path, hwaccel="none").pictures
    if tell(path, hwaccel="auto").decoder == "h264":
        with pytest.raises(SourceError, match="NVDEC does not take it"):
            open_source(path, SourceOptions(hwaccel="cuda"))
