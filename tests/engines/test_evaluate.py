"""`python -m engines evaluate`: its figures against a computation by hand, and what it says of bad data."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.backends import open_engine
from engines.base import EngineError, EngineOptions
from engines.cli import main
from engines.training.datasets import find_samples, read_sample
from engines.training.evaluate import add_arguments, run, spread_over
from engines.training.evaluation import evaluate
from engines.training.files import write_json
from engines.training.metrics import Confusion, edge_distance
from engines.training.refining import CRF_MODES, Refinement, chosen_refinement
from engines.training.scoring import score
from engines.zoo import load_model
from pipeline.crf import CRFParameters, DenseCRF
from pipeline.stages.guided import GuidedRefiner
from tests.engines.colours import LABELS, ColourEngine, ColourSession
from tests.engines.support import write_graph


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three made-up pictures whose labels are not always what they show."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    for index, suffix in enumerate(("png", "png", "jpg")):
        shown = np.kron(random.integers(0, 3, (3, 4)), np.ones((8, 8), int))
        image = np.array(LABELS.palette, np.uint8)[shown]
        true = np.where(random.random(shown.shape) < 0.3, random.integers(0, 6, shown.shape), shown)
        true[true == 3] = 255
        true[true == 5] = 4  # the first value beyond the classes means none, too
        Image.fromarray(image).save(tmp_path / "test" / "images" / f"{index}.{suffix}", quality=95, subsampling=0)
        Image.fromarray(true.astype(np.uint8)).save(tmp_path / "test" / "labels" / f"{index}.png")
    return tmp_path


def by_hand(root: Path) -> tuple[list[float | None], float]:
    """IoU of each class and pixel accuracy, a pixel at a time."""
    hits, unions, right, total = [0] * 4, [0] * 4, 0, 0
    for index, suffix in enumerate(("png", "png", "jpg")):
        with Image.open(root / "test" / "images" / f"{index}.{suffix}") as picture:
            image = np.array(picture).astype(int)
        with Image.open(root / "test" / "labels" / f"{index}.png") as picture:
            truth = np.array(picture)
        for row in range(24):
            for column in range(32):
                true = truth[row, column]
                if true in (4, 255):
                    continue
                said = int(np.argmax(image[row, column]))
                total += 1
                right += said == true
                for label in range(4):
                    hits[label] += said == true == label
                    unions[label] += label in (said, true)
    return [hit / union if union else None for hit, union in zip(hits, unions, strict=True)], right / total


def test_figures_are_those_counted_by_hand(root: Path) -> None:
    samples = find_samples(root, "test")
    iou, accuracy = by_hand(root)
    figures = evaluate(ColourEngine(), samples).to_json()
    assert list(figures)[:5] == ["miou", "pixel_accuracy", "iou", "trimap", "milliseconds"]
    assert list(figures["iou"]) == list(LABELS.names)
    assert iou[3] is None
    assert figures["iou"]["grey"] is None
    assert [figures["iou"][name] for name in LABELS.names[:3]] == pytest.approx(iou[:3])
    assert figures["miou"] == pytest.approx(np.mean([value for value in iou if value is not None]))
    assert figures["pixel_accuracy"] == pytest.approx(accuracy)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_class_that_is_only_said_counts_as_zero() -> None:
    confusion = Confusion(3)
    confusion.add(np.array([0, 0, 255, 9]), np.array([0, 1, 1, 1]))
    assert confusion.iou().tolist()[:2] == [0.5, 0.0]
    assert math.isnan(confusion.iou()[2])
    assert confusion.mean_iou() == 0.25
    assert confusion.pixel_accuracy() == 0.5


def test_bands_around_an_edge_are_those_known_by_hand(tmp_path: Path) -> None:
    """The picture's edge lies two pixels to the right of the true one, in the middle of 40 columns."""
    for kind in ("images", "labels"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    column = np.arange(40)
    shown, true = (np.tile(column >= edge, (24, 1)).astype(np.uint8) for edge in (22, 20))
    true[:, 39] = 255  # no class, and its edge is one, too
    Image.fromarray(np.array(LABELS.palette, np.uint8)[shown]).save(tmp_path / "test" / "images" / "0.png")
    Image.fromarray(true).save(tmp_path / "test" / "labels" / "0.png")
    figures = evaluate(ColourEngine(), find_samples(tmp_path, "test")).to_json()
    assert list(figures["trimap"]) == [str(width) for width in range(1, 41)]
    for width in range(1, 10):
        missed = min(width, 2)  # columns 20 and 21; on the other side of the band, beside the last column, all is right
        red, green = width / (width + missed), (2 * width - missed) / (2 * width)
        assert figures["trimap"][str(width)] == pytest.approx((red + green) / 2), width
    assert figures["trimap"]["20"] == figures["trimap"]["40"] == figures["miou"]


def test_the_distance_to_an_edge_is_a_chess_kings() -> None:
    labels = np.random.default_rng(4).choice(3, (13, 17), p=[0.9, 0.05, 0.05]).astype(np.uint8)
    found = edge_distance(labels, 4)
    rows, columns = np.mgrid[:13, :17]
    for row in range(13):
        for column in range(17):
            away = np.maximum(abs(rows - row), abs(columns - column))[labels != labels[row, column]].min()
            assert found[row, column] == (away if away <= 4 else 255)


@pytest.mark.parametrize("kind", ["guided", "crf"])
@pytest.mark.parametrize("mode", CRF_MODES)
def test_labels_are_sharpened_by_the_streams_own_functions(root: Path, kind: str, mode: str) -> None:
    samples, engine = find_samples(root, "test"), ColourEngine()
    parameters = CRFParameters(3, 3, 4, 30, 10, iterations=3)
    figures = evaluate(engine, samples, refinement=Refinement(kind, mode, parameters)).to_json()
    confusion = Confusion(4)
    for sample in samples:
        image, truth = read_sample(sample, 4, [4])
        scores, geometry = score(engine, image, engine.model.size)
        if kind == "guided":
            labels = GuidedRefiner(24, 32).labels(image, scores, geometry)
        else:
            labels = DenseCRF(24, 32, 4, parameters, mode=mode).labels(image, scores, geometry=geometry)
        confusion.add(truth, labels)
    assert figures["miou"] == confusion.mean_iou()
    assert figures["refine"]["kind"] == kind
    assert 0 < figures["labelling_milliseconds"] <= figures["milliseconds"]


def test_a_preset_says_how_labels_are_sharpened(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("video: {quality: 3}\nrefine: {kind: crf, mode: live, crf: {bi_w: 5, iterations: 4}}\n")
    assert chosen_refinement(str(preset), None, None, None) == Refinement(
        "crf", "live", CRFParameters(bi_w=5, iterations=4)
    )
    assert chosen_refinement(str(preset), "none", "exact", 7) == Refinement(
        "none", "exact", CRFParameters(bi_w=5, iterations=7)
    )
    assert chosen_refinement("quality", None, None, None).kind == "guided"
    assert chosen_refinement(None, None, None, None) == Refinement()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refine: {kind: magic}", "refine: refine 'magic' is unknown: choose from none, guided, crf"),
        ("refine: {crf: {w1: 3}}", "refine.crf.w1: unknown key; known: pos_w"),
        ("refine: {crf: {bi_rgb: 0}}", "refine.crf: bi_rgb is a standard deviation"),
        ("refine: 3", "refine: expected a mapping, got 3"),
        ("a: [", "is not YAML, line 1"),
    ],
)
def test_a_preset_that_cannot_be_used_names_the_key(text: str, said: str, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(text)
    with pytest.raises(EngineError, match=said) as caught:
        chosen_refinement(str(preset), None, None, None)
    assert "mine.yaml" in str(caught.value)


def test_nothing_counted_is_nothing_said() -> None:
    evaluation = evaluate(ColourEngine(), [])
    figures = evaluation.to_json()
    assert figures["iou"] == dict.fromkeys(LABELS.names)
    assert {figures[key] for key in ("miou", "pixel_accuracy", "milliseconds")} == {None}
    assert set(figures["trimap"].values()) == {None}
    assert "absent" in evaluation.table()


def test_size_is_the_short_side_that_the_network_sees(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = ColourEngine(), []
    monkeypatch.setattr(
        engine, "session", lambda height, width: sizes.append((height, width)) or ColourSession(height, width)
    )
    evaluate(engine, find_samples(root, "test"), size=48)
    assert set(sizes) == {(48, 64)}


def test_the_command_writes_what_it_counts(home: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_graph(home / "net.onnx")
    (home / "net.yaml").write_text("labels: [red, green, blue, grey]\nsize: 24\noutput_stride: 2\n", encoding="utf-8")
    given = [
        "evaluate",
        "--model",
        str(model),
        "--root",
        str(root),
        "--split",
        "test",
        "--json",
        str(home / "out.json"),
    ]
    assert main([*given, "--engine", "openvino", "--threads", "1"]) == 0
    figures = json.loads((home / "out.json").read_text(encoding="utf-8"))
    assert list(figures)[:5] == ["miou", "pixel_accuracy", "iou", "trimap", "milliseconds"]
    assert set(figures["iou"]) == set(LABELS.names)
    assert f"{100 * figures['miou']:.2f}" in capsys.readouterr().out
    assert list((home / "cache").rglob("compiled/*.blob")), "what was compiled is kept, as a run of the stream keeps it"


def break_missing(root: Path) -> None:
    (root / "test" / "labels" / "1.png").unlink()


def break_size(root: Path) -> None:
    Image.new("L", (5, 5)).save(root / "test" / "labels" / "1.png")


def break_range(root: Path) -> None:
    Image.new("L", (32, 24), 77).save(root / "test" / "labels" / "1.png")


def break_split(root: Path) -> None:
    (root / "test").rename(root / "else")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing, r"its labels .*1\.png are missing"),
        (break_size, r"1\.png: 5×5 pixels, but its picture has 32×24"),
        (break_range, r"1\.png: label 77 of 4 classes"),
        (break_split, r"images: no such directory"),
    ],
)  # fmt: skip
def test_bad_data_is_one_clear_line(root: Path, damage: object, message: str) -> None:
    damage(root)  # type: ignore[operator]
    with pytest.raises(EngineError, match=message) as caught:
        evaluate(ColourEngine(), find_samples(root, "test"))
    assert "\n" not in str(caught.value)


def test_figures_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        write_json(tmp_path / "none" / "out.json", {})
    assert not list(tmp_path.iterdir())


def test_the_bundled_model_is_as_good_as_its_card_says(data: Path) -> None:
    """On pictures that it was trained on: this finds a ruined file, not a network that generalises badly."""
    samples = spread_over(find_samples(data / "camvid", "val"), 10)
    with closing(open_engine(load_model("street"), "openvino", EngineOptions("fp32"))) as engine:
        found = evaluate(engine, samples, size=engine.model.size)
    assert found.confusion.mean_iou() > 0.84
    assert found.confusion.pixel_accuracy() > 0.965


@pytest.mark.slow
def test_the_live_crf_is_as_right_as_the_exact_one(data: Path) -> None:
    """Within 0.1 points of mIoU on labelled frames, in the whole picture and near edges."""
    samples = spread_over(find_samples(data / "camvid", "val"), 20)
    with closing(open_engine(load_model("street"), "auto", EngineOptions("fp32"))) as engine:
        live, exact = (
            evaluate(engine, samples, refinement=Refinement("crf", mode, CRFParameters(iterations=5)))
            for mode in ("live", "exact")
        )
    assert live.confusion.mean_iou() == pytest.approx(exact.confusion.mean_iou(), abs=1e-3)
    assert live.trimap.band(4).mean_iou() == pytest.approx(exact.trimap.band(4).mean_iou(), abs=1e-3)
    assert not np.array_equal(live.confusion.counts, exact.confusion.counts)


def test_evaluating_needs_no_torch() -> None:
    unwanted = ("torch", "cv2", "onnx", "matplotlib", "scipy")
    code = f"import sys, engines.training.evaluate; print([n for n in {unwanted} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "-5"], "--size -5 is out of range"),
        (["--limit", "0"], "--limit 0: at least one picture"),
        (["--crf-iterations", "-1"], "--crf-iterations: iterations is a whole number"),
        (["--config", "nonsense"], "'nonsense' is neither a file nor a preset; presets: "),
        (["--ignore", "300"], "--ignore takes labels from 0 to 255"),
        (["--json", "/no/such/folder/x.json"], "its directory does not exist"),
        (["--html", "/"], "/: cannot be written: it is a directory"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(flags: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["--model", "street", "--root", "/nowhere", "--split", "val", *flags])
    with pytest.raises(EngineError, match=said):
        run(arguments)
