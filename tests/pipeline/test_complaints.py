"""Bad input is answered by one line that names the thing and the way out, and by nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.pipeline.clips import Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import arguments, masks_of, one_line_error, times, tree
from tests.pipeline.tiny import tiny_model

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]
FAILED, USAGE = 1, 2


# ---- inputs


def no_file(folder: Path) -> str:
    return str(folder / "nowhere.mp4")


def text(folder: Path) -> str:
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    return str(folder / "text.mp4")


def empty(folder: Path) -> str:
    (folder / "empty.mp4").touch()
    return str(folder / "empty.mp4")


def empty_folder(folder: Path) -> str:
    (folder / "nothing").mkdir()
    return str(folder / "nothing")


INPUTS: dict[str, tuple[Callable[[Path], str], tuple[str, ...]]] = {
    "no such file": (no_file, ("nowhere.mp4", "no such file")),
    "text": (text, ("text.mp4", "not a video")),
    "empty": (empty, ("empty.mp4", "the file is empty")),
    "no images": (empty_folder, ("nothing", "holds no image")),
    "no glob": (lambda folder: f"{folder}/*.mkv", ("*.mkv", "matches no file")),
    "no number": (lambda folder: f"{folder}/%04d.png", ("%04d.png", "no file has a name of that pattern")),
    "unknown scheme": (lambda _: "gopher://host/clip", ("gopher://host/clip", "known are")),
    "password": (lambda _: "rtsp://me:secret@127.0.0.1:1/", ("rtsp://me:***@127.0.0.1:1/", "connection refused")),
    "no camera": (lambda _: "cam77", ("cam77",)),
    "no address": (lambda _: "http://[::1/x", ("http://[::1/x",)),
    "a name too long": (lambda folder: f"{folder}/{'x' * 5000}", ("xxx…: file name too long",)),
    "a name of two lines": (lambda folder: f"{folder}/one\ntwo.mp4", ("one\\ntwo.mp4: no such file",)),
    "bad graph": (lambda _: "lavfi:nosuchfilter=1", ("lavfi:nosuchfilter",)),
}


@pytest.mark.parametrize("which", INPUTS)
def test_inputs_that_cannot_be_read(which: str, cli: Cli, tiny: str, tmp_path: Path) -> None:
    make, said = INPUTS[which]
    source, out = make(tmp_path), tmp_path / "out.mp4"
    before = tree(tmp_path)
    with nothing_left():
        done = cli(*arguments(source, tiny, "--output", out, "--reconnect", "0"))
    line = one_line_error(done, *said)
    assert "secret" not in line
    assert tree(tmp_path) == before


def test_a_file_in_which_nothing_can_be_decoded(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    data = bytearray(clip("h264").path.read_bytes())
    start = data.index(b"mdat") + 4
    length = int.from_bytes(data[start - 8 : start - 4]) - 8
    data[start : start + length] = bytes(length)
    (tmp_path / "rubbish.mp4").write_bytes(data)
    with nothing_left():
        done = cli(*arguments(tmp_path / "rubbish.mp4", tiny, "--output", tmp_path / "out.mp4"))
    one_line_error(done, "rubbish.mp4", "nothing in it could be decoded")
    assert tree(tmp_path) == ["rubbish.mp4"]


@pytest.mark.parametrize("name", ["cut mp4", "cut mkv", "spoilt mp4", "spoilt mkv", "spoilt ts"])
def test_damage_is_counted_and_passed_over(name: str, cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip(name)
    out, masks, report = tmp_path / "out.mp4", tmp_path / "masks.mkv", tmp_path / "report.json"
    done = cli(*arguments(given.path, tiny, "--output", out, "--masks", masks, "--report", report))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "WARNING" in done.stderr
    assert "damaged" in done.stderr
    assert "damaged" in done.stdout
    shown = times(out)
    assert 0 < len(shown) == len(masks_of(masks)) <= len(given.numbers)
    assert tree(tmp_path) == ["masks.mkv", "masks.mkv.jsonl", "out.mp4", "report.json"]


# ---- outputs


@pytest.mark.parametrize(
    ("flags", "said", "status"),
    [
        (("--output", "{}/out.xyz"), ("out.xyz", "no known kind", ".mp4 .mkv .webm .mov"), USAGE),
        (("--output", "{}/file/out.mp4"), ("file/out.mp4", "a part of the path is a file"), FAILED),
        (("--output", "{}/folder.mp4"), ("folder.mp4",), None),
        (("--output", "{}/clip.mp4"), ("clip.mp4", "is the input itself"), USAGE),
        (("--output", "{}/o.mp4", "--report", "{}/folder.mp4/../clip.mp4"), ("report", "is the input itself"), USAGE),
        (("--output", f"{{}}/{'x' * 300}.mp4"), ("the name is too long",), FAILED),
        (("--output", "{}/file/deep/"), ("file/deep/", "a part of the path is a file"), FAILED),
        (("--output", "{}/file/%06d.png"), ("file/%06d.png", "a part of the path is a file"), FAILED),
        (("--masks", "{}/folder.mkv"), ("folder.mkv", "there is a directory of that name"), FAILED),
        (("--masks", "{}/masks.mp4"), ("masks.mp4", "lossy", "FFV1"), USAGE),
        (("--masks", "{}/masks.txt"), ("masks.txt", "no known kind"), USAGE),
        (("--output", "{}/o.webm", "--codec", "h264"), ("h264", "webm", "vp9"), USAGE),
        (("--output", "{}/o.mp4", "--codec", "mp3"), ("mp3", "choose from h264"), USAGE),
        (("--output", "{}/o.mp4", "--output", "{}/o.mp4"), ("two outputs would write",), USAGE),
        (("--output", "{}/o.mp4", "--output", "{}/./o.mp4"), ("two outputs would write",), USAGE),
        (("--masks", "{}/m.mkv", "--masks", "{}/m.mkv.jsonl"), ("two outputs would write", "m.mkv.jsonl"), USAGE),
        (("--output", "{}/o.mp4", "--report", "{}/o.mp4", "--dry-run"), ("two outputs would write",), USAGE),
        (("--output", "null", "--input", "sample", "--output", "{}/./clip.mp4"), ("clip.mp4 is the input",), USAGE),
        (("--output", "{}/%d_%d.png"), ("%d_%d.png",), USAGE),
        (("--output", "{}/one.png"), ("one.png", "one_%06d.png"), FAILED),
        (("--output", "{}/o.mp4", "--report", "{}/file/report.json"), ("report", "file/report.json"), FAILED),
        (
            ("--output", "null", "--report", "{}/pipe"),
            ("report", "pipe", "no regular file, but a device, pipe"),
            FAILED,
        ),
        (
            ("--output", "{}/a/b/o.mp4"),
            ("a/b/o.mp4", "its directory does not exist: make it with mkdir -p {}/a/b"),
            FAILED,
        ),
        (("--output", "{}/a/b/c/"), ("a/b/c/ cannot", "make it with mkdir -p {}/a/b"), FAILED),
        (("--masks", "{}/a/b c/%d.png"), ("b c/%d.png cannot", "mkdir -p '{}/a/b c'"), FAILED),
        (("--output", "null", "--report", "{}/a/b/r.json"), ("report", "mkdir -p {}/a/b"), FAILED),
        (("--output", "/deeplab-stream-test/o.mp4"), ("make it with mkdir -p /deeplab-stream-test",), FAILED),
        (("--output", "/deeplab-stream-test/o/"), ("make it with mkdir -p /deeplab-stream-test",), FAILED),
        ((), ("clip.mp4 has no output", "--output"), USAGE),
        (("--output", "null", "--classes", ","), ("--classes names no class",), USAGE),
        (("--explain", "{}/figures", "--masks", "{}/m.mkv"), ("--explain", "leave --masks out"), USAGE),
        (("--explain", "{}/figures", "--report", "{}/r.json"), ("--explain", "leave --report out"), USAGE),
    ],
)
def test_outputs_that_cannot_be_written(
    *,
    flags: tuple[str, ...],
    said: tuple[str, ...],
    status: int | None,
    cli: Cli,
    clip: MakeClip,
    tiny: str,
    tmp_path: Path,
) -> None:
    said = tuple(each.replace("{}", str(tmp_path)) for each in said)
    (tmp_path / "file").write_text("not a folder")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.mkv.jsonl").mkdir()
    (tmp_path / "clip.mp4").write_bytes(clip("h264").path.read_bytes())
    before = tree(tmp_path)
    given = arguments(tmp_path / "clip.mp4", tiny, *(flag.format(tmp_path) for flag in flags))
    foreseen = status is not None and "one.png" not in said  # that it holds one picture, and more will come
    dry = cli(*given, "--dry-run")
    assert tree(tmp_path) == before
    if foreseen:
        one_line_error(dry, *said, status=status)
    else:
        assert dry.returncode == 0, dry.stderr
    with nothing_left():
        done = cli(*given)
    if status is None:  # a directory takes pictures, whatever it is called
        assert done.returncode == 0
        return
    one_line_error(done, *said, status=status)
    assert tree(tmp_path) == before
    assert (tmp_path / "clip.mp4").read_bytes() == clip("h264").path.read_bytes()


def test_an_output_that_fails_leaves_the_old_file(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    old = tmp_path / "old.mp4"
    old.write_bytes(b"the old one")
    done = cli(*arguments(clip("h264").path, tiny, "--output", old, "--output", tmp_path / "one.png"))
    one_line_error(done, "one.png")
    assert old.read_bytes() == b"the old one"
    assert tree(tmp_path) == ["old.mp4"]


# ---- models


def written(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return name

    return make


def broken(folder: Path) -> str:
    (folder / "broken.onnx").write_bytes(np.random.default_rng(1).bytes(4000))
    return "broken.onnx"


def cut_off(folder: Path) -> str:
    data = tiny_model(folder / "cut.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(data[: len(data) // 2])
    return "cut.onnx"


def graph(folder: Path, shape_in: list[Any], shape_out: list[Any], *, rigid: bool = False) -> str:
    """A network of the user's that scores nothing but has these shapes; a rigid one adds 8×8 cells to its scores."""
    nodes = [helper.make_node("AveragePool", ["x"], ["p" if rigid else "y"], kernel_shape=[8, 8], strides=[8, 8])]
    cells = [helper.make_tensor("c", TensorProto.FLOAT, [1, 3, 8, 8], np.zeros(192))] if rigid else []
    if rigid:
        nodes.append(helper.make_node("Add", ["p", "c"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)]
    made = helper.make_graph(nodes, "mine", inputs, outputs, cells)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(folder / "mine.onnx")
    )
    return "mine.onnx"


def rigid(folder: Path) -> str:
    return graph(folder, [1, 3, "h", "w"], [1, 3, "a", "b"], rigid=True)


def labelled(folder: Path) -> str:
    return graph(folder, [1, 5, "h", "w"], [1, 5, "a", "b"])


def unlabelled(folder: Path) -> str:
    return graph(folder, [1, 3, "h", "w"], [1, "c", "a", "b"])


def with_yaml(text: str, encoding: str = "utf-8") -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        name = graph(folder, [1, 3, "h", "w"], [1, 3, "a", "b"])
        (folder / "mine.yaml").write_text(text, encoding)
        return name

    return make


MODELS: dict[str, tuple[Callable[[Path], str], tuple[str, ...]]] = {
    "unknown": (lambda _: "strete", ("'strete'", "street", "voc", ".onnx")),
    "no such file": (lambda _: "nowhere.onnx", ("no model file nowhere.onnx",)),
    "rubbish": (broken, ("broken.onnx is no ONNX model",)),
    "cut off": (cut_off, ("cut.onnx is a damaged ONNX model, or only a part of one",)),
    "a text": (written("t.onnx", b"hello\nworld"), ("t.onnx is a text, no ONNX model: it begins with 'hello'",)),
    "a pointer": (written("t.onnx", b"version https://git-lfs.github.com/spec/v1\n"), ("t.onnx", "git lfs pull")),
    "another size": (rigid, ("OpenVINO cannot compile mine for 640×512",)),
    "five channels": (labelled, ("mine.onnx", "three channels")),
    "no labels": (unlabelled, ("mine.onnx", "name all of them in a new file mine.yaml, as labels: [road, car, …]")),
    "YAML in Latin 1": (
        with_yaml("labels: [a, b, fußweg]", "latin-1"),
        ("mine.yaml is not UTF-8 (byte 0xDF in line 1)",),
    ),
    "unknown key": (with_yaml("labels: [a, b, c]\nmena: [1, 2, 3]"), ("mine.yaml", "'mena'", "mean")),
    "labels of another number": (with_yaml("labels: [a, b]"), ("mine.onnx", "3 classes", "2 names")),
    "not YAML": (with_yaml("labels: [a"), ("mine.yaml", "not YAML")),
    "not a mapping": (with_yaml("- a"), ("mine.yaml", "key: value")),
    "a word for a number": (with_yaml("labels: [a, b, c]\nsize: big"), ("mine.yaml", "size")),
    "no such output": (with_yaml("labels: [a, b, c]\noutput: logits"), ("mine.yaml", "output", "y")),
}


@pytest.mark.parametrize("which", MODELS)
def test_models_that_cannot_be_used(
    which: str, cli: Cli, clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = MODELS[which]
    model = make(tmp_path)
    before = tree(tmp_path)
    with nothing_left():
        done = cli("--input", clip("h264").path, "--output", "out.mp4", "--model", model)
    one_line_error(done, *said)
    assert tree(tmp_path) == before


# ---- flags and presets


@pytest.mark.parametrize(
    ("flags", "said", "status"),
    [
        (("--classes", "red,gren"), ("'gren'", "did you mean 'green'", "red, green, blue"), USAGE),
        (("--config", "nonsense"), ("'nonsense'", "presets:", "live"), USAGE),
        (("--config", "{}"), ("cannot be read: Is a directory",), USAGE),
        (("--config", "{}/latin.yaml"), ("latin.yaml' is not UTF-8 (byte 0xFF in line 2): save it as UTF-8",), USAGE),
        (("--config", "{}/deep.yaml"), ("deep.yaml' is not usable: it is nested too deeply",), USAGE),
        (("--config", "{}/odd.yaml"), ("odd.yaml: source: start must not be negative, not nan",), USAGE),
        (("--config", "{}/preset.yaml"), ("preset.yaml", "model.sise", "did you mean 'size'"), USAGE),
        (("--size", "7"), ("size 7", "32 to 8192"), USAGE),
        (("--alpha", "2"), ("alpha 2.0", "0 (invisible) to 1 (opaque)"), USAGE),
        (("--quality", "99"), ("quality 99", "0 (best) to 51 (worst)"), USAGE),
        (("--crf-workers", "-1"), ("-1 CRF workers", "256"), USAGE),
        (("--crf-iterations", "-1"), ("iterations",), USAGE),
        (("--start", "soon"), ("--start 'soon'", "MM:SS"), USAGE),
        (("--start", "1e400"), ("--start '1e400'", "MM:SS"), USAGE),
        (("--start", "999999999:00:00"), ("start must be at most 1e+09",), USAGE),
        *(
            ((flag, ""), (f"{flag} is empty",), USAGE)
            for flag in ("--input", "--output", "--report", "--explain", "--config", "--model", "--codec", "--classes")
        ),
        (("--start", "100"), ("no picture at or after 100 s", "earlier start"), FAILED),
        (("--duration", "0"), ("duration", "above 0"), USAGE),
        (("--max-frames", "0"), ("max_frames", "above 0"), USAGE),
        (("--refine", "guided", "--dense-crf"), ("--dense-crf", "--refine guided"), USAGE),
        (("--engine", "tensorrt"), ("TensorRT",), FAILED),
        (("--precision", "int8"), ("tiny is not quantised",), FAILED),
    ],
)
def test_flags_that_make_no_sense(
    *, flags: tuple[str, ...], said: tuple[str, ...], status: int, cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("model: {sise: 3}\n")
    (tmp_path / "latin.yaml").write_bytes(b"mode: live\n# \xff\n")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 1500)
    (tmp_path / "odd.yaml").write_text("source: {start: .nan}\n")
    before = tree(tmp_path)
    with nothing_left():
        given = ["--input", clip("h264").path, "--model", tiny, "--output", tmp_path / "out.mp4"]
        done = cli(*given, *(flag.format(tmp_path) for flag in flags))
    one_line_error(done, *said, status=status)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("more", [("--output", "null", "--dry-run"), ("--explain", "{}/figures")])
def test_a_size_that_would_exhaust_the_memory(
    *,
    more: tuple[str, ...],
    cli: Cli,
    clip: MakeClip,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the message proposes is accepted."""
    monkeypatch.setattr("pipeline.runner.memory.available_memory", lambda: 200 << 20)
    flags = arguments(clip("h264").path, tiny, *(flag.format(tmp_path) for flag in more))
    error = one_line_error(cli(*flags, "--size", "8184"), "size 8184: an input of 9824×8184", "0.2 GiB", status=USAGE)
    assert tree(tmp_path) == []
    largest = int(error.split("choose ")[1].split()[0])
    assert 500 < largest < 1500
    done = cli(*flags, "--size", str(largest))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flags", [("--inptu", "x"), ("--in", "x"), ("--size", "big"), ("--refine", "magic")])
def test_what_is_no_flag(flags: tuple[str, ...], cli: Cli) -> None:
    done = cli(*flags)
    assert done.returncode == USAGE
    assert flags[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_v_shows_where(cli: Cli, tiny: str) -> None:
    done = cli(*arguments("nowhere.mp4", tiny, "--output", "null", "-v"))
    assert "Traceback" in done.stderr
    assert "SourceError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("deeplab-stream: error: nowhere.mp4")


def test_what_nobody_foresaw_takes_one_line_too(
    cli: Cli, clip: MakeClip, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise IndexError("seven\nis not six")

    monkeypatch.setattr("pipeline.runner.run.divide", fail)
    done = cli(*arguments(clip("h264").path, tiny, "--output", "null"))
    one_line_error(done, "unexpected IndexError: seven is not six", "-v")
