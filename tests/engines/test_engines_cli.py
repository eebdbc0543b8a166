"""``python -m engines`` as people call it: a process, its words and its exit status."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engines.base import Model
from engines.catalogue import ZOO
from engines.cli import main
from tests.engines.serving import Server

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DEEPLAB_STREAM_WEIGHTS", raising=False)
    return tmp_path


def test_info_of_what_is_not_here_fetches_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.zoo.fetch", None)
    assert main(["info", "voc-dm05"]) == 0
    told = capsys.readouterr().out
    published = ("69.65 VOC 2012 val", "deeplabv3_mnv2_dm05_pascal_quant.tflite", "laid on corners", "21: background")
    for words in (*published, "Not fetched yet: python -m engines fetch voc-dm05"):
        assert words in told


def test_list_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "CLASSES", "FILE", "WHERE", "LICENCE", "WHAT"]
    street, int8, voc = lines[1:4]
    assert street.split()[:2] == ["street", "11"]
    assert int8.split()[:5] == ["street-int8", "11", "2.5", "MB", "embedded"]
    assert " embedded " in street
    assert "research use" in street
    assert voc.split()[:7] == ["voc", "21", "2.2", "MB", "not", "fetched", "Apache-2.0"]
    (torchs,) = (line for line in lines if line.startswith("deeplabv3-resnet50-voc"))
    assert torchs.split()[1:6] == ["21", "168.3", "MB", "not", "fetched"]
    where = lines[0].index("WHERE")
    assert street[where - 1] == voc[where - 1] == " ", "columns are aligned"


def test_info_of_a_name_and_of_a_file(models: dict[str, Model], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "street"]) == 0
    told = capsys.readouterr().out
    assert "sides of 16k pixels" in told
    assert "11: sky, building" in told
    shutil.copy(models["voc"].path, home / "mine.onnx")
    (home / "mine.yaml").write_text("name: mine\n")
    assert main(["info", str(home / "mine.onnx")]) == 0
    told = capsys.readouterr().out
    assert "sides of 16k + 1 pixels" in told
    assert models["voc"].sha256 in told


def test_info_of_what_is_not_exported_tells_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "deeplabv2-resnet101-cocostuff"]) == 0
    told = capsys.readouterr().out
    for words in (
        "MIT (kazuto1011)", "39.1 COCO-Stuff 164k val, 39.7 with the CRF", "deeplabv2-resnet101-aspp, output stride 8",
        "at the scales 1, 0.75, 0.5", "not published: that of the first download is recorded",
        "bgr of 0–255, mean 104.008, 116.669, 122.675, std 1, 1, 1", "bi_xy 67",
        "releases/download/v1.0/deeplabv2_resnet101_msc-cocostuff164k-100000.pth", "182: person, bicycle",
        "Not exported yet: python -m engines export deeplabv2-resnet101-cocostuff",
    ):  # fmt: skip
        assert words in told


def test_fetch_of_what_torch_must_make_tells_the_next_command(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = ZOO["deeplabv2-resnet101-voc"]
    assert entry.download
    server.does.body = bytes.fromhex("80028a0a6cfc9c46f920").ljust(300_000)  # torch's beginning, and no more
    moved = replace(entry, download=replace(entry.download, url=server.url, about=300_000))
    monkeypatch.setitem(ZOO, entry.name, moved)
    assert main(["fetch", entry.name]) == 0
    told = capsys.readouterr().out
    assert f"{entry.download.file} (0.3 MB, MIT (kazuto1011))" in told
    assert f"python -m engines export {entry.name}" in told
    assert main(["list"]) == 0
    assert "cached, not exported" in capsys.readouterr().out
    assert main(["export", entry.name]) == 1
    assert "not a readable file of weights" in capsys.readouterr().err, "the server's file is none"
    assert len(server.does.seen) == 1


def test_a_weights_directory_is_looked_into_first(
    models: dict[str, Model], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = home / "site"
    site.mkdir()
    shutil.copy(models["voc"].path, site / "voc.onnx")
    for words in (["list"], ["info", "voc"], ["fetch", "voc"]):
        assert main([*words, "--weights-dir", str(site)]) == 0
        assert str(site) in capsys.readouterr().out
    assert main(["fetch", "voc", "--weights-dir", str(home / "nowhere")]) == 1
    assert "nowhere does not exist (--weights-dir or DEEPLAB_STREAM_WEIGHTS)" in capsys.readouterr().err


def test_info_always_tells_the_corners(models: dict[str, Model], capsys: pytest.CaptureFixture[str]) -> None:
    # Here, from a file, and not exported yet.
    for name, said in (
        ("street", "half pixels"),
        (str(models["voc"].path), "laid on corners"),
        ("deeplabv2-resnet101-voc", "half pixels"),
    ):
        assert main(["info", name]) == 0
        assert re.search(rf"^corners +{said}", capsys.readouterr().out, re.MULTILINE)


def test_what_libraries_tell_of_themselves_is_not_shown() -> None:
    program = (
        "import logging; from engines.cli import main; main(['list'])\n"
        "for name in ('matplotlib.font_manager', 'engines.zoo'): logging.getLogger(name).info('told by %s', name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == "told by engines.zoo\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bench_measures(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    report = home / "bench.json"
    words = ["bench", "street", "--frame", "160x96", "--size", "96", "--threads", "1", "--requests", "2"]
    assert main([*words, "--pictures", "6", "--json", str(report)]) == 0
    told = capsys.readouterr().out
    assert "median" in told
    assert "160×96" in told
    assert "timing: " in terminal.getvalue()
    assert "/6 [" in terminal.getvalue()
    figures = json.loads(report.read_text())
    assert figures["pictures"] == 6
    assert figures["input_size"] == [96, 160]
    assert figures["score_shape"] == [11, 24, 40]
    assert 0 < figures["median_ms"] <= figures["p95_ms"] < 20_000
    # Two in flight: each waits for the other, so the time of one is about that of two.
    assert figures["per_second"] > 1e3 / figures["p95_ms"]
    assert figures["engine"]["backend"] == "openvino"
    assert figures["engine"]["requests"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "vox"], "no model 'vox'"),
        (["fetch", "vox"], "no model 'vox': choose from street, street-int8, voc"),
        (["export", "vox"], "no model 'vox': choose from street, street-int8, voc"),
        (["export", "street", "--output", "x.onnx"], "street needs no export: it is ready to run"),
        (["export", "deeplabv2-resnet101-voc", "--size", "320"], "is exported as it was published"),
        (["export", "--checkpoint", "last.pt"], "give --output FILE.onnx"),
        (["bench", "street", "--engine", "tensorrt"], "TensorRT cannot be loaded"),
        (["bench", "street-int8", "--precision", "fp32"], "use its float model for fp32"),
        (["bench", "street", "--size", "3"], "--size 3 is out of range"),
        (["bench", "street", "--pictures", "0"], "one picture at least"),
        (["bench", "street", "--size", "32", "--pictures", "1", "--json", "/nowhere/x"], "cannot write /nowhere/x"),
    ],
)
def test_errors_are_one_line_and_status_1(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    "words",
    [[], ["paint"], ["info"], ["bench", "street", "--frame", "640"], ["bench", "street", "--eng", "torch"],
     ["bench", "street", "--engine", "cuda"], ["train"], ["list", "more"]],
)  # fmt: skip
def test_wrong_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: python -m engines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [("bench", "--frame"), ("train", "--config"), ("export", "--output"), ("evaluate", "--split")],
)
def test_every_command_explains_itself(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([command, "--help"], ["-v", command, "-h"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
        assert option in capsys.readouterr().out


def test_help_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for command in ("list", "info", "fetch", "bench", "export", "train", "evaluate"):
        assert f"python -m engines {command}" in told


@pytest.mark.parametrize("command", ["train", "export", "export deeplabv3-resnet50-voc"])
def test_without_the_training_libraries_it_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith(("engines.training", "engines.export"))]:
        monkeypatch.delitem(sys.modules, module)
    for library in ("torch", "cv2"):
        monkeypatch.setitem(sys.modules, library, None)
    words = {"train": ["--help"], "export": ["--checkpoint", "last.pt", "--output", "x.onnx"]}.get(command, [])
    assert main([*command.split(), *words]) == 1
    assert "needs the training libraries" in (told := capsys.readouterr().err)
    assert "pip install 'deeplab-stream[train]'" in told


# --- as a process ---------------------------------------------------------------------------------


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engines", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_traceback_only_when_asked_for() -> None:
    plain, verbose = call("info", "vox"), call("info", "vox", "-v")
    assert plain.returncode == verbose.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in verbose.stderr
    assert verbose.stderr.endswith(plain.stderr)


def test_looking_around_is_light() -> None:
    """`list` and `--help` import no engine, no torch."""
    program = (
        "import sys; from engines.cli import main; main(['list']); "
        "loaded = {m.partition('.')[0] for m in sys.modules}; "
        "print(sorted(loaded & {'torch', 'openvino', 'onnx', 'onnxruntime', 'cv2'}))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([sys.executable, "-m", "engines", "list"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_an_interrupt_is_status_130() -> None:
    words = ["bench", "street", "--frame", "640x480", "--size", "480", "--pictures", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engines", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        assert "engine openvino" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "interrupted\n"
