"""The command line: every promised flag, what is printed where, and with which status it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from pipeline.cli.main import make_options, make_parser
from pipeline.options import RunOptions
from tests.conftest import absent
from tests.pipeline.clips import Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import (
    PROGRAM,
    ROOT,
    arguments,
    masks_of,
    one_line_error,
    plainly,
    program,
    times,
    tree,
)

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]

PROMISED = """
--input --output --masks --config --model --size --engine --precision --refine --dense-crf --crf-workers
--crf-iterations --mode --realtime --loop --render --alpha --classes --legend --no-legend --quality --codec
--start --duration --max-frames --report --dry-run --list-inputs --list-models --quiet -v --explain
"""


def test_the_program_writes_an_overlay_and_masks(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given, out, masks = clip("vfr"), tmp_path / "out.mp4", tmp_path / "masks.mkv"
    done = program(*arguments(given.path, tiny, "--output", out, "--masks", masks))
    assert done.returncode == 0, done.stderr
    for expected, mask in zip(plainly(given.path), masks_of(masks), strict=True):
        expected.check(mask)
    assert len(times(out)) == len(given.numbers)
    assert "20 frames in" in done.stdout
    assert "bottleneck" in done.stdout
    assert "\r" not in done.stderr, "a progress bar where nobody looks"
    assert tree(tmp_path) == ["masks.mkv", "masks.mkv.jsonl", "out.mp4"]


def test_help_tells_every_flag_and_gives_examples() -> None:
    done = program("--help")
    assert done.returncode == 0
    for flag in PROMISED.split():
        assert flag in done.stdout
    examples = done.stdout.partition("examples:")[2].strip().splitlines()
    assert len(examples) >= 5
    for line in examples:
        words = line.split("|")[0].replace("'", "").split()
        assert words[0] == "run_pipeline.py"
        make_parser().parse_args(words[1:])


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        ("--model street", "model.name", "street"),
        ("--size 256", "model.size", 256),
        *(
            (f"--engine {name}", "engine.name", name)
            for name in ("auto", "openvino", "onnxruntime", "tensorrt", "torch")
        ),
        *((f"--precision {name}", "engine.precision", name) for name in ("auto", "fp32", "fp16", "int8")),
        *((f"--refine {name}", "refine.kind", name) for name in ("none", "guided", "crf")),
        ("--dense-crf", "refine.kind", "crf"),
        ("--dense-crf --refine crf", "refine.kind", "crf"),
        ("--crf-workers 3", "refine.workers", 3),
        ("--crf-iterations 4", "refine.crf.iterations", 4),
        *((f"--mode {name}", "mode", name) for name in ("auto", "live", "lossless")),
        ("--realtime", "source.realtime", True),
        ("--loop 0", "source.loop", 0),
        *((f"--render {name}", "render.mode", name) for name in ("overlay", "mask", "side-by-side")),
        ("--alpha 0.25", "render.alpha", 0.25),
        ("--classes road,car", "render.classes", ("road", "car")),
        ("--legend", "render.legend", True),
        ("--no-legend", "render.legend", False),
        ("--quality 30", "video.quality", 30),
        ("--codec hevc", "video.codec", "hevc"),
        ("--start 1:30.5", "source.start", Fraction(181, 2)),
        ("--duration 2", "source.duration", 2),
        ("--max-frames 7", "source.max_frames", 7),
        ("--config live", "mode", "live"),
        ("--config live --mode lossless", "mode", "lossless"),
    ],
)
def test_every_flag_reaches_its_option(flags: str, path: str, value: Any) -> None:
    given = make_parser().parse_args(["--input", "a.mp4", "--output", "b.mp4", *flags.split()])
    found: Any = make_options(given)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_without_flags_the_defaults_stand() -> None:
    given = make_options(make_parser().parse_args(["--input", "a.mp4", "--output", "b.mp4"]))
    assert given == RunOptions(given.inputs)


def test_inputs_of_a_preset_are_treated_as_flags_are(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(clip("h264").path.read_bytes())
    preset = tmp_path / "site.yaml"
    preset.write_text(f"inputs:\n  files:\n    uri: '{folder}/*.mp4'\n    outputs: ['{tmp_path}/out/{{name}}.mkv']\n")
    done = cli("--config", preset, "--model", tiny, "--max-frames", "3")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == ["a.mkv", "b.mkv"]


def test_dry_run_tells_the_plan_and_writes_nothing(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    with nothing_left():
        flags = ("--output", out, "--report", report, "--refine", "guided", "--dry-run")
        done = cli(*arguments(clip("h264").path, tiny, *flags))
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path) == []
    assert "tiny, 3 classes" in done.stdout
    assert "openvino" in done.stdout
    assert "96×80 yuv420p, 25 FPS, 30 frames" in done.stdout
    assert str(out) in done.stdout


def test_int8_takes_the_quantised_network_of_a_name(cli: Cli, clip: MakeClip, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = cli(
        "--input", clip("h264").path, "--output", "null", "--model", "street", "--precision", "int8", "--size", "96",
        "--max-frames", "3", "--report", report,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert (told["model"]["name"], told["engine"]["precision"]) == ("street-int8", "int8")


def test_list_models(cli: Cli) -> None:
    done = cli("--list-models")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "11 classes" in rows["street"]
    assert "embedded" in rows["street"]
    assert "21 classes" in rows["voc"]
    assert "Apache-2.0" in rows["voc"]


def test_a_wrong_yaml_is_a_line_that_names_file_and_field(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    model = tmp_path / "mine.onnx"
    shutil.copy(tiny, model)
    model.with_suffix(".yaml").write_text("size: 5\n")
    done = cli("--input", clip("h264").path, "--output", tmp_path / "out.mp4", "--model", model)
    one_line_error(done, f"{tmp_path}/mine.yaml: size is 5: it must be a whole number from 16 to 8192")
    assert tree(tmp_path) == ["mine.onnx", "mine.yaml"]


def test_a_model_that_is_not_exported_names_the_command(
    cli: Cli, clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "deeplabv3-mobilenetv3-large-voc"
    done = cli("--input", clip("h264").path, "--output", tmp_path / "out.mp4", "--model", name)
    assert done.returncode == 1
    assert f"run 'python -m engines export {name}' once" in one_line_error(done)
    assert not (tmp_path / "out.mp4").exists()


def test_list_inputs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("--list-inputs")
    assert done.returncode == 0, done.stderr
    assert "sample" in done.stdout
    monkeypatch.setattr("pipeline.cli.listing.list_inputs", list)
    assert cli("--list-inputs").stdout == "-  no camera is here\n"


def test_quiet_says_nothing(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.json"
    done = cli(*arguments(clip("h264").path, tiny, "--output", "null", "--report", report, "--quiet"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(report.read_text())["frames"] == 30


def test_v_says_more(cli: Cli, clip: MakeClip, tiny: str) -> None:
    quiet, loud = (cli(*arguments(clip("h264").path, tiny, "--output", "null", *more)) for more in ((), ("-v",)))
    assert loud.returncode == 0
    assert len(loud.stderr.splitlines()) >= len(quiet.stderr.splitlines())


def test_a_pipe_in_and_a_pipe_out(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given, masks = clip("long"), tmp_path / "masks.mkv"
    with given.path.open("rb") as file:
        done = subprocess.run(
            [*PROGRAM, *arguments("-", tiny, "--output", "-", "--masks", str(masks))],
            stdin=file,
            capture_output=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO(done.stdout)) as container:
        assert "matroska" in container.format.name
        shown = [frame.pts * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]
    assert shown == list(given.pts)
    assert done.stdout[:4] == b"\x1aE\xdf\xa3", "nothing before the first byte"
    assert b"250 frames in" in done.stderr, "the report must not be in the video"
    for expected, mask in zip(plainly(given.path), masks_of(masks), strict=True):
        expected.check(mask)


def test_a_pipe_that_ends_in_the_middle(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    data = clip("long").path.read_bytes()
    done = subprocess.run(
        [*PROGRAM, *arguments("-", tiny, "--output", str(tmp_path / "out.mkv"))],
        input=data[: len(data) * 2 // 3],
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 50 < len(times(tmp_path / "out.mkv")) < 250


def test_a_compiled_model_runs_without_torch(clip: MakeClip, tiny: str) -> None:
    kinds = ["none", "guided", "crf"]
    code = (
        f"import sys; from pipeline.cli import main; status = [main([*sys.argv[1:], kind]) for kind in {kinds}]; "
        "print(*[name for name in ('torch', 'torchvision', 'onnx', 'onnxruntime', 'openvino_telemetry') "
        "if sys.modules.get(name)]); sys.exit(any(status))"
    )
    flags = arguments(clip("h264").path, tiny, "--output", "null", "--quiet", "--max-frames", "4")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--refine"],
        capture_output=True,
        encoding="utf-8",
        timeout=50,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), (done.stdout, done.stderr)


def test_help_and_usage_load_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "finally: sys.stderr.write(' '.join(name for name in ('numpy', 'av', 'openvino') if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=30, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_python_without_the_libraries_is_told_which_has_them() -> None:
    command = [PROGRAM[0], "-S", *PROGRAM[1:], "--doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: No module named '\w+': `make demo` .* run \.venv/bin/python .*run_pipeline\.py\n", done.stderr
    )


def test_nothing_is_written_into_the_home_directory_but_the_cache(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = program(*arguments(clip("h264").path, tiny, "--output", "null"), env={**environment, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()} == {
        (".cache", "deeplab-stream")
    }


def test_a_terminal_sees_a_progress_bar(clip: MakeClip, tiny: str) -> None:
    try:
        ours, theirs = pty.openpty()
    except OSError:
        absent("a terminal")
        return
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    flags = arguments(clip("h264").path, tiny, "--output", "null", "--realtime")
    with subprocess.Popen([*PROGRAM, *flags], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # the terminal's other end is closed
            pass
        finally:
            os.close(ours)
        assert process.wait(30) == 0
    text = said.decode()
    assert text.count("\r") > 3
    assert "/30" in text
    assert "frames/s" in text


@pytest.mark.parametrize("early", [False, True])
def test_a_run_that_fails_has_a_report(*, early: bool, cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    """Also one that fails before there is an engine."""
    report = tmp_path / "report.json"
    report.write_text("the old one")
    given = "nowhere.mp4" if early else clip("h264").path
    done = cli(*arguments(given, tiny, "--output", tmp_path / "one.png", "--report", report))
    error = one_line_error(done, "nowhere.mp4: no such file" if early else "one.png holds one picture")
    told = json.loads(report.read_text())
    assert error.endswith(f"error: {told['error']}")
    assert (told["model"] is None) == (told["engine"] is None) == early
    assert [one["name"] for one in told["inputs"]] == ([] if early else ["h264"])
    assert tree(tmp_path) == ["report.json"]


def test_the_report_is_whole_or_absent(
    cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    report.write_text("the old one")
    monkeypatch.setattr("pipeline.cli.session.Report.as_json", lambda _: 1 / 0)
    done = cli(*arguments(clip("h264").path, tiny, "--output", "null", "--report", report))
    assert done.returncode == 1
    assert report.read_text() == "the old one"
    assert tree(tmp_path) == ["report.json"]


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_standard_output_is_no_failure(closed: str, clip: MakeClip, tiny: str) -> None:
    flags = arguments(clip("h264").path, tiny, "--output", "null")
    descriptor = 1 if closed == "stdout" else 2
    done = program(*flags, preexec_fn=lambda: os.close(descriptor))
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
