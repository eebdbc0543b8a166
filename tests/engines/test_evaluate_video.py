"""`python -m engines evaluate-video`: its figures on labels whose steadiness is known, and on real streams."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.cli import main
from engines.training.consistency import SETTLED, Consistency, Flicker, FlowConsistency

pytest.importorskip("onnx", reason="the tiny network is written with it")
pytest.importorskip("cv2", reason="temporal consistency runs on OpenCV's flow")

from tests.pipeline.tiny import tiny_model

UInt8 = NDArray[np.uint8]

FRAMES = 24
RNG = np.random.default_rng(0)


def truth(time: int, height: int = 48, width: int = 64) -> UInt8:
    """A class on the left that moves to the right by a pixel a frame, over another."""
    return np.tile((np.arange(width) < 20 + time).astype(np.uint8), (height, 1))


def judged(predictions: list[UInt8]) -> tuple[float, float, float, float]:
    """VC8, VC16, flicker, flicker far from moving outlines."""
    windows, flicker = [Consistency(8), Consistency(16)], Flicker()
    for time, predicted in enumerate(predictions):
        true = truth(time)
        valid = np.ones(true.shape, bool)
        for window in windows:
            window.add(true, predicted, valid)
        flicker.add(true, predicted, valid)
    return windows[0].value, windows[1].value, flicker.value, flicker.settled


def test_the_truth_itself_is_perfectly_steady() -> None:
    assert judged([truth(time) for time in range(FRAMES)]) == (1.0, 1.0, 0.0, 0.0)


def test_a_constant_prediction_does_not_score() -> None:
    constant = np.zeros_like(truth(0))
    vc8, vc16, flicker, settled = judged([constant] * FRAMES)
    assert math.isnan(flicker)
    assert math.isnan(settled)
    assert vc8 == pytest.approx(np.mean([np.mean(np.arange(64) >= 27 + t) / (1 - 7 / 64) for t in range(17)]))
    assert vc16 < 0.6
    flow = FlowConsistency(3)
    for _ in range(4):
        flow.add(RNG.integers(0, 255, (48, 64), np.uint8), constant)
    assert math.isnan(flow.value)
    assert math.isnan(flow.flicker)


def test_labels_that_are_wrong_all_the_time_are_not_consistent() -> None:
    vc8, vc16, flicker, _ = judged([1 - truth(time) for time in range(FRAMES)])
    assert vc8 == vc16 == flicker == 0.0


def test_flicker_is_counted_where_the_truth_stands_still() -> None:
    predictions = [truth(time) for time in range(FRAMES)]
    predictions[12] = predictions[12].copy()
    predictions[12][:4, -8:] = 1  # 32 pixels come and go
    _, _, flicker, settled = judged(predictions)
    pairs, pixels = FRAMES - 1, 48 * 63
    assert flicker == pytest.approx(2 * 32 / (pairs * pixels))
    windows = FRAMES - 2 * SETTLED - 1
    assert settled == pytest.approx(2 * 32 / (windows * 48 * (64 - 2 * SETTLED - 1)))


def test_an_outline_that_is_late_flickers_but_not_far_from_it() -> None:
    _, _, flicker, settled = judged([truth(max(0, time - 1)) for time in range(FRAMES)])
    assert flicker > 0.01
    assert settled == 0.0


def test_pixels_without_truth_are_not_counted() -> None:
    window, flicker = Consistency(2), Flicker()
    true, valid = np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool)
    valid[:2] = True
    for said in (0, 1):
        predicted = np.zeros((4, 4), np.uint8)
        predicted[2:] = said
        window.add(true, predicted, valid)
        flicker.add(true, predicted, valid)
    assert window.value == 1.0
    assert flicker.value == 0.0


def moving(time: int) -> tuple[UInt8, UInt8]:
    """Grey levels that move to the right by two pixels a frame, and labels that go with them."""
    columns = (np.arange(128) - 2 * time) % 128
    scene = np.random.default_rng(7).normal(size=(96, 128))
    scene = sum(np.roll(scene, shift, axis) for axis in (0, 1) for shift in range(-3, 4))
    grey = 128 + 40 * (scene - scene.mean()) / scene.std()
    label = np.kron(np.random.default_rng(8).integers(0, 3, (6, 8)), np.ones((16, 16), int))
    return np.clip(grey[:, columns], 0, 255).astype(np.uint8), label[:, columns].astype(np.uint8)


def test_labels_that_move_with_the_picture_are_consistent_along_the_flow() -> None:
    good, stuck = FlowConsistency(3), FlowConsistency(3)
    for time in range(5):
        grey, labels = moving(time)
        good.add(grey, labels)
        stuck.add(grey, moving(0)[1])
    assert good.value > 0.97
    assert good.flicker < 0.02
    assert stuck.value < 0.9
    assert stuck.flicker > 0.05


def test_what_is_covered_is_left_out() -> None:
    """A square moves over a ground that stands still: what it uncovers changes its class, and is not counted."""
    flow = FlowConsistency(3)
    ground, square = moving(0)[0], moving(31)[0][:48, :48]
    for time in range(4):
        grey, labels = ground.copy(), np.zeros((96, 128), np.uint8)
        place = np.s_[24:72, 10 + 6 * time : 58 + 6 * time]
        grey[place], labels[place] = square, 2
        flow.add(grey, labels)
    uncovered = 6 * 48 / (96 * 128)
    assert flow.flicker < 0.4 * uncovered


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A red thing that moves over blue, and its true labels, in ``clip.mkv`` and ``labels/``."""
    (tmp_path / "labels").mkdir()
    with av.open(str(tmp_path / "clip.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 10)
        for time in range(20):
            label = np.full((96, 128), 2, np.uint8)
            label[32:64, 8 + 4 * time : 40 + 4 * time] = 0
            image = np.array([(220, 30, 30), (0, 0, 0), (30, 30, 220)], np.uint8)[label]
            image[..., 1] += np.random.default_rng(1).integers(0, 60, (96, 128)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            output.mux(stream.encode(frame.reformat(format="yuv444p")))
            Image.fromarray(label).save(tmp_path / "labels" / f"{time:03d}.png")
        output.mux(stream.encode(None))
    tiny_model(tmp_path / "tiny.onnx")
    return tmp_path


def evaluate(folder: Path, *flags: str) -> dict[str, object]:
    out = folder / "out.json"
    given = ["evaluate-video", str(folder / "clip.mkv"), "--model", str(folder / "tiny.onnx"), "--json", str(out)]
    assert main([*given, *flags]) == 0
    figures: dict[str, object] = json.loads(out.read_text())
    return figures


def test_a_labelled_clip_gets_all_figures(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluate(clip, "--labels", str(clip / "labels"))
    assert figures["frames"] == 20
    assert figures["miou"] > 0.8  # type: ignore[operator]
    for name in ("vc8", "vc16", "tc"):
        assert 0.8 < figures[name] <= 1, name  # type: ignore[operator]
    assert 0 <= figures["flicker_settled"] <= figures["flicker"] < 0.05  # type: ignore[operator]
    assert figures["propagation"] is None
    said = capsys.readouterr()
    assert f"{100 * figures['vc8']:.3f}" in said.out  # type: ignore[operator]
    assert "evaluating: 100%" in said.err
    assert "20/20" in said.err
    every = evaluate(clip, "--labels", str(clip / "labels"), "--infer-every", "4", "--temporal")
    assert every["propagation"]["key_share"] == 0.25  # type: ignore[index]
    assert every["miou"] > figures["miou"] - 0.1  # type: ignore[operator]
    assert every["miou"] != figures["miou"]


def test_a_clip_without_labels_gets_what_the_flow_can_tell(clip: Path) -> None:
    figures = evaluate(clip, "--max-frames", "6")
    assert set(figures) == {"frames", "flicker", "tc", "propagation"}
    assert figures["frames"] == 6
    assert figures["tc"] > 0.8  # type: ignore[operator]


def fewer(folder: Path) -> None:
    (folder / "labels" / "007.png").unlink()


def more(folder: Path) -> None:
    Image.new("L", (128, 96)).save(folder / "labels" / "900.png")


def smaller(folder: Path) -> None:
    Image.new("L", (12, 9)).save(folder / "labels" / "003.png")


def none(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (fewer, r"more frames than label pictures \(19\)"),
        (more, "20 frames, but 21 label pictures"),
        (smaller, r"003\.png: 12×9 pixels, but its picture has 128×96"),
        (none, r"no label pictures \(\*\.png\)"),
    ],
)
def test_labels_that_do_not_fit_are_one_clear_line(
    damage: object, said: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(clip)  # type: ignore[operator]
    given = ["evaluate-video", str(clip / "clip.mkv"), "--model", str(clip / "tiny.onnx")]
    assert main([*given, "--labels", str(clip / "labels")]) == 1
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.search(said, error), error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--infer-every", "never"], "infer_every: 'never' is not a whole number or auto"),
        (["--infer-every", "0"], "infer_every 0 is out of range: auto, or 1 to 1000 frames"),
        (["--infer-every", "-3"], "infer_every -3 is out of range"),
        (["--ignore", "300"], "--ignore takes labels from 0 to 255"),
        (["--json", "/no/such/folder/x.json"], "its directory does not exist"),
    ],
)
def test_what_cannot_work_is_refused(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate-video", str(tmp_path / "none.mp4"), "--model", "street", *flags]) == 1
    assert said in capsys.readouterr().err
