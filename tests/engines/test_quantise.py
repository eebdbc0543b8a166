"""int8: a file that keeps the labels, and none where they are lost."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from engines import export_command
from engines.base import EngineError, EngineOptions
from engines.model_file import read_model
from engines.onnx_metadata import read_header
from engines.zoo import load_model
from pipeline.sources.sample import sample_path
from tests.engines.support import open_engine_for, picture, score

SIZE = (96, 128)


def as_told(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    return parser.parse_args(list(words))


def labelled_by_itself(root: Path, split: str, dark: bool = False) -> None:
    """Pictures of a street whose labels are those of street wherever it is very sure."""
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True)
    with open_engine_for(load_model("street"), "openvino") as engine, av.open(sample_path()) as clip:
        frames = islice(clip.decode(video=0), 0, None, 40)
        for seed, frame in enumerate(frames):
            image = frame.to_ndarray(format="rgb24", width=512, height=384) * (not dark)
            found = score(engine.session(384, 512), image)
            first, second = np.sort(found, axis=0)[[-1, -2]]
            labels = np.where(first - second > 5, found.argmax(0), 255).astype(np.uint8)
            large = Image.fromarray(labels).resize((512, 384), Image.Resampling.NEAREST)
            Image.fromarray(image).save(root / split / "images" / f"{seed}.png")
            large.save(root / split / "labels" / f"{seed}.png")


@pytest.mark.slow
def test_a_quantised_network_is_measured_written_and_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf", reason="int8 needs NNCF (the extra `quantise`)")
    labelled_by_itself(tmp_path, "val")
    labelled_by_itself(tmp_path, "dark", dark=True)
    (tmp_path / "source").mkdir()
    source, target = tmp_path / "source" / "plain.onnx", tmp_path / "mine.onnx"
    shutil.copy(load_model("street").path, source)
    source.with_suffix(".yml").write_text("licence: as told\n")
    words = ["--model", str(source), "--precision", "int8", "--root", str(tmp_path), "--output", str(target)]
    with pytest.raises(EngineError, match=r"mine\.onnx: not written: int8 has .* may be lost") as caught:
        export_command.run(as_told(*words, "--calibrate", "dark"))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dark", "source", "val"]
    capfd.readouterr()

    assert export_command.run(as_told(*words, "--calibrate", "val")) == 0
    told = capfd.readouterr()
    assert told.out.count("\n") == 1, told.out
    assert "calibrating: 100%" in told.err
    assert "evaluating: 100%" in told.err
    assert target.with_suffix(".yaml").read_text() == "licence: as told\n", "of whichever ending"
    model, plain = read_model(target), read_model(source)
    assert (model.name, model.quantised, model.half) == ("mine", True, False)
    assert (model.labels, model.size, model.licence) == (plain.labels, plain.size, plain.licence)
    assert target.stat().st_size < 0.7 * plain.path.stat().st_size
    with pytest.raises(EngineError, match="mine is quantised already"):
        export_command.run(as_told("--model", str(target), *words[2:], "--calibrate", "val"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "street", "--precision", "int8"], "give --root"),
        (["--model", "street", "--precision", "int8", "--root", ".", "--pictures", "0"], "--pictures 0"),
        (["--model", "street", "--precision", "int8", "--root", "nowhere"], "nowhere: no such directory"),
        (["--model", "street", "--size", "5"], "--size 5 is out of range: 16 to 8192 pixels"),
        (["--model", "street", "--output", "/"], "/: cannot be written: it is a directory"),
        (["--model", "street", "--output", "/no/such/folder/x.onnx"], "its directory does not exist"),
        (["deeplabv3-resnet50-voc", "--output", "/"], "/: cannot be written: it is a directory"),
    ],
)
def test_what_cannot_be_quantised_is_refused_at_once(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=message):
        export_command.run(as_told("--output", str(tmp_path / "x.onnx"), *words))
    assert list(tmp_path.iterdir()) == []


def test_quantising_needs_nncf_and_no_torch(tmp_path: Path) -> None:
    (tmp_path / "nncf.py").write_text("raise ModuleNotFoundError('nncf')\n")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch')\n")
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.new("L" if kind == "labels" else "RGB", (64, 48)).save(tmp_path / "train" / kind / "a.png")
    words = ["-m", "engines", "export", "--model", "street", "--precision", "int8", "--output", "x.onnx"]
    answer = subprocess.run(
        [sys.executable, *words, "--root", str(tmp_path), "--validate", "train"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr == "error: int8 needs NNCF (nncf): pip install 'deeplab-stream[quantise]'\n"


def test_the_embedded_int8_network_was_made_of_the_embedded_street() -> None:
    told = read_header(load_model("street-int8").path).properties
    assert json.loads(told["deeplab_stream.quantised_from"]) == load_model("street").sha256


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_the_embedded_int8_network_is_that_of_street(backend: str) -> None:
    """Every engine runs it, and it says what street says where street is sure."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    image = picture(SIZE)
    with open_engine_for(load_model("street"), "openvino") as plain:
        expected = score(plain.session(*SIZE), image)
    with open_engine_for(load_model("street", "int8"), backend, EngineOptions("int8", threads=1)) as int8:
        assert (int8.model.name, int8.info.precision) == ("street-int8", "int8")
        found = score(int8.session(*SIZE), image)
    first, second = np.sort(expected, axis=0)[[-1, -2]]
    sure = first - second > 1
    assert sure.mean() > 0.3
    assert (found.argmax(0) == expected.argmax(0))[sure].mean() > 0.95


def test_openvino_computes_an_int8_network_as_its_file_says() -> None:
    """ONNX Runtime does on any processor."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, (height, width) = load_model("street-int8"), (192, 256)
    blocks = np.random.default_rng(1).integers(0, 256, (height // 32, width // 32, 3), np.uint8)
    image = np.ascontiguousarray(blocks.repeat(32, 0).repeat(32, 1))
    found = []
    for backend in ("onnxruntime", "openvino"):
        with open_engine_for(model, backend, EngineOptions("int8", threads=1)) as engine:
            found.append(score(engine.session(height, width), image))
    expected, computed = found
    assert np.abs(computed - expected).mean() < 0.1 * np.abs(expected).mean()
    assert (computed.argmax(0) == expected.argmax(0)).mean() > 0.95
