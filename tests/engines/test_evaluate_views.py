"""Evaluation over several scales and mirrored pictures, on any data set, and one that is killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.base import EngineError
from engines.cli import main
from engines.labels import CITYSCAPES, PERSON_PART, LabelSet
from engines.training.datasets import find_samples, read_sample
from engines.training.evaluation import Counts, WorkFile, evaluate
from engines.training.metrics import Confusion
from engines.training.refining import Refinement
from engines.training.scoring import Views, enlarge, score, score_views
from pipeline.crf import CRFParameters
from pipeline.frame import Geometry
from pipeline.stages.upsample import upsample_argmax
from tests.engines.colours import LABELS, ColourEngine
from tests.engines.dataset_trees import TREES
from tests.engines.support import write_graph


@pytest.fixture
def image() -> np.ndarray:
    """A picture of the size that the network takes: 24×32."""
    return np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)


def probabilities(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores.astype(np.float64) - scores.max(0))
    return odds / odds.sum(0)


def test_mirrored_pictures_are_averaged_with_the_picture(image: np.ndarray) -> None:
    engine = ColourEngine(slant=0.99)
    plain, _ = score(engine, image, 24)
    mirrored, _ = score(engine, np.ascontiguousarray(image[:, ::-1]), 24)
    expected = (probabilities(plain) + probabilities(mirrored)[..., ::-1]) / 2
    found, geometry = score_views(engine, image, 24, Views(flip=True))
    np.testing.assert_allclose(np.exp(found), np.maximum(expected, 1e-30), rtol=1e-4, atol=1e-7)
    assert (geometry.frame_height, geometry.frame_width) == (24, 32)
    np.testing.assert_array_equal(upsample_argmax(found, geometry)[0], found.argmax(0))
    assert (found.argmax(0) != plain.argmax(0)).any()


def test_scales_are_averaged_at_the_pictures_size(image: np.ndarray) -> None:
    """As a peer enlarges them: torch, area to area."""
    torch = pytest.importorskip("torch")
    engine, total = ColourEngine(), 0.0
    for size in (24, 48, 36):
        scores, _ = score(engine, image, size)
        large = torch.nn.functional.interpolate(torch.from_numpy(scores)[None], (24, 32), mode="bilinear")[0].numpy()
        total = total + probabilities(large) / 3
    found, _ = score_views(engine, image, 24, Views((1.0, 2.0, 1.5)))
    np.testing.assert_allclose(np.exp(found), np.maximum(total, 1e-30), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_are_enlarged_as_the_stream_labels_them(align_corners: bool) -> None:
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(3).normal(size=(5, 9, 13)).astype(np.float32)
    geometry = Geometry(65, 97, 65, 97, 65, 97, align_corners)
    found = enlarge(scores, geometry)
    np.testing.assert_array_equal(upsample_argmax(scores, geometry)[0], found.argmax(0))
    peer = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], (65, 97), mode="bilinear", align_corners=align_corners
    )[0]
    np.testing.assert_allclose(found, peer.numpy(), atol=1e-5)


def test_a_single_view_is_what_the_stream_sees(image: np.ndarray) -> None:
    plain, where = score(ColourEngine(), image, 24)
    found, geometry = score_views(ColourEngine(), image, 24, Views())
    np.testing.assert_array_equal(found, plain)
    assert geometry == where


def test_pictures_may_be_seen_at_their_own_size() -> None:
    for shape in ((40, 30), (18, 64)):
        image = np.random.default_rng(4).integers(0, 256, (*shape, 3), np.uint8)
        scores, geometry = score(ColourEngine(), image, "own")
        assert (geometry.picture_height, geometry.picture_width) == shape
        np.testing.assert_array_equal(scores, score(ColourEngine(), image, min(shape))[0])
        doubled = score_views(ColourEngine(), image, "own", Views((2.0,)))[0]
        np.testing.assert_array_equal(doubled, score_views(ColourEngine(), image, min(shape), Views((2.0,)))[0])


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (0.0,), (-1.0,), (9.0,), (float("nan"),)])
def test_scales_that_cannot_be_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales are different numbers above 0"):
        Views(scales)


def test_a_network_of_one_size_has_no_scales() -> None:
    model = replace(ColourEngine().model, fixed_size=(24, 32))
    with pytest.raises(EngineError, match="--scales: colours takes pictures of one size alone"):
        Views((0.5, 1.0)).sizes(model, 24)
    assert Views(flip=True).sizes(model, 24) == [24]


@pytest.mark.parametrize("kind", ["none", "guided", "crf"])
def test_averaged_scores_are_refined_as_others_are(kind: str, tmp_path: Path) -> None:
    tree = TREES["person-part"][1](tmp_path)
    samples = find_samples(tree.root, tree.split)
    found = evaluate(
        ColourEngine(PERSON_PART, slant=0.5),
        samples,
        refinement=Refinement(kind, crf=CRFParameters(iterations=2)),
        views=Views((1.0, 2.0), flip=True),
    )
    assert found.confusion.counts.sum() == sum((truth != 255).sum() for truth in tree.truth)
    figures = found.to_json()
    assert figures["views"] == {"scales": [1.0, 2.0], "flip": True}
    assert figures["refine"]["kind"] == kind


# Any data set


@pytest.mark.parametrize(("kind", "labels"), [("cityscapes", CITYSCAPES), ("person-part", PERSON_PART)])
def test_published_data_sets_are_evaluated(kind: str, labels: LabelSet, tmp_path: Path) -> None:
    tree = TREES[kind][1](tmp_path)
    samples = find_samples(tree.root, tree.split, classes=labels.names)
    engine, confusion = ColourEngine(labels), Confusion(len(labels))
    found = evaluate(engine, samples)
    for sample, truth in zip(samples, tree.truth, strict=True):
        picture = read_sample(sample, len(labels))[0]
        confusion.add(truth, upsample_argmax(*score(engine, picture, 24))[0])
    np.testing.assert_array_equal(found.confusion.counts, confusion.counts)
    iou = found.confusion.iou()
    figures = found.to_json()
    if labels.background is None:
        assert figures["miou_without_background"] is None
        assert "without background" not in found.table()
    else:
        assert figures["miou_without_background"] == pytest.approx(np.nanmean(iou[1:]))
        assert f"mIoU without background  {100 * np.nanmean(iou[1:]):6.2f}" in found.table()
    assert [each.accuracy for each in found.pictures] == pytest.approx(
        [(truth == upsample_argmax(*score(engine, read_sample(one, len(labels))[0], 24))[0])[truth != 255].mean()
         for one, truth in zip(samples, tree.truth, strict=True)]
    )  # fmt: skip


# Going on


def write_coloured(root: Path, count: int) -> None:
    """Pictures whose labels are nearly what they show."""
    random = np.random.default_rng(7)
    for kind in ("images", "labels"):
        (root / "val" / kind).mkdir(parents=True)
    for index in range(count):
        shown = np.kron(random.integers(0, 4, (6, 8)), np.ones((8, 8), int))
        true = np.where(random.random(shown.shape) < 0.2, 255, shown).astype(np.uint8)
        Image.fromarray(np.array(LABELS.palette, np.uint8)[shown]).save(root / "val" / "images" / f"{index:03}.png")
        Image.fromarray(true).save(root / "val" / "labels" / f"{index:03}.png")


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    write_coloured(tmp_path, 150)
    write_graph(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("labels: [red, green, blue, grey]\nsize: 48\noutput_stride: 2\n")
    flags = ["--model", "net.onnx", "--root", ".", "--split", "val", "--engine", "openvino", "--threads", "1"]
    return ["evaluate", *(str(tmp_path / word) if word in ("net.onnx", ".") else word for word in flags)]


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(given: list[str], tmp_path: Path) -> None:
    assert main([*given, "--scales", "1,2", "--flip", "--json", str(tmp_path / "whole.json")]) == 0
    work = tmp_path / "val.work"
    more = ["--scales", "1,2", "--flip", "--resume", str(work), "--json", str(tmp_path / "resumed.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "engines", *given, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not work.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert not (tmp_path / "resumed.json").exists()
    with np.load(work) as held:
        assert 1 <= len(held["pictures"]) < 150
    # Whoever began anew would stumble over it.
    (tmp_path / "val" / "images" / "000.png").write_bytes(b"no picture")
    assert main([*given, *more]) == 0
    whole, resumed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "resumed"))
    assert resumed["pictures"] == 150
    for key in ("miou", "pixel_accuracy", "iou", "trimap"):
        assert resumed[key] == whole[key]
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_what_was_counted_is_kept_where_a_picture_fails(given: list[str], tmp_path: Path) -> None:
    victim = tmp_path / "val" / "images" / "100.png"
    whole, work = victim.read_bytes(), tmp_path / "val.work"
    victim.write_bytes(b"no picture")
    assert main([*given, "--resume", str(work)]) == 1
    with np.load(work) as held:
        assert len(held["pictures"]) == 100
    victim.write_bytes(whole)
    assert main([*given, "--resume", str(work)]) == 0
    with np.load(work) as held:
        assert len(held["pictures"]) == 150


def test_the_state_of_another_evaluation_is_refused(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "val.work"
    given += ["--resume", str(work)]
    assert main([*given, "--limit", "3"]) == 0
    for flags, what in ((["--size", "96"], "size"), (["--flip"], "flip"), (["--refine", "guided"], "refine")):
        assert main([*given, "--limit", "3", *flags]) == 1
        assert f"{work} belongs to an evaluation with another {what}: remove it, or name" in capsys.readouterr().err
    assert main([*given, "--limit", "4"]) == 1
    assert "another set of pictures" in capsys.readouterr().err
    for labels in (tmp_path / "val" / "labels").iterdir():
        labels.touch()
    assert main([*given, "--limit", "3"]) == 1
    assert "another set of pictures" in capsys.readouterr().err
    with np.load(work) as held:
        state = dict(held)
    state["evaluation"] = np.array(str(state["evaluation"]))
    for key, wrong in (
        ("confusion", np.zeros((2, 2), np.int64)),
        ("pictures", np.zeros((3, 3))),
        ("trimap", np.array("x")),
    ):
        np.savez(tmp_path / "odd.npz", **(state | {key: wrong}))
        work.write_bytes((tmp_path / "odd.npz").read_bytes())
        with pytest.raises(EngineError, match="not the state of an evaluation: remove it"):
            WorkFile(work, json.loads(str(state["evaluation"]))).load(Counts(len(state["confusion"])))
    work.write_bytes(b"half a fi")
    assert main(given) == 1
    assert f"{work}: not the state of an evaluation: remove it" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "1,1", "a", "1;2", "9"])
def test_scales_that_are_none_are_wrong_usage(text: str, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*given, f"--scales={text}"])
    assert "are no scales: write different numbers above 0 and up to 8" in capsys.readouterr().err


def test_a_size_that_is_none_is_wrong_usage(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*given, "--size", "large"])
    assert "'large' is no size: write a number of pixels, or own" in capsys.readouterr().err
    assert main([*given, "--size", "own", "--limit", "3"]) == 0


def test_sizes_out_of_range_are_refused_before_any_work(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--scales", "0.1,1"]) == 1
    assert "--scales: 5 to 48 pixels are out of range: 16 to" in capsys.readouterr().err
    assert main([*given, "--resume", "/no/such/folder/x"]) == 1
    assert "its directory does not exist" in capsys.readouterr().err
