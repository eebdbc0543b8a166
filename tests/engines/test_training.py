"""A training run: that it learns, can be taken up again, and says what it cannot do."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")

from engines.base import EngineError, ModelError  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.networks.trained import read_trained  # noqa: E402
from engines.training import train  # noqa: E402
from engines.training.checkpoint import Checkpoint  # noqa: E402
from engines.training.datasets import open_dataset  # noqa: E402
from engines.training.trainer import CHECKPOINT  # noqa: E402
from tests.engines.camvid_like import arguments, paint  # noqa: E402
from tests.engines.dataset_trees import TREES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def begun(root: Path, tmp_path: Path) -> Path:
    """The output of a run of one epoch."""
    train.run(arguments(root, tmp_path / "run", "--epochs", "1"))
    return tmp_path / "run"


@pytest.mark.slow
def test_four_pictures_can_be_learnt(root: Path, tmp_path: Path) -> None:
    assert train.run(arguments(root, tmp_path / "run", "--epochs", "30")) == 0
    checkpoint = Checkpoint.load(tmp_path / "run" / CHECKPOINT)
    facts = checkpoint.trained.facts
    assert checkpoint.epoch == 30
    assert facts["pictures"] == 4
    assert facts["train_miou"] > 0.7
    assert facts["validation_miou"] > 0.7
    assert min(checkpoint.trained.class_weights) < 1 < max(checkpoint.trained.class_weights)
    network = checkpoint.trained.restore()
    assert not network.training
    assert read_trained(tmp_path / "run" / CHECKPOINT).labels.names[3] == "road"


@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one(root: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train.run(arguments(root, whole, "--epochs", "3"))
    options = train.resolve_options(arguments(root, broken, "--epochs", "3"))
    train.set_seed(options.seed)
    trainer = train.make_trainer(arguments(root, broken), options)
    trainer.run(epochs=1)
    del trainer
    train.run(arguments(root, broken, "--epochs", "3", "--resume"))
    first, second = (Checkpoint.load(path / CHECKPOINT) for path in (whole, broken))
    assert first.step == second.step == 6
    for ours, theirs in ((first.network, second.network), (first.trained.weights, second.trained.weights)):
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("flags", "changed", "told"),
    [
        (["--seed", "7"], "", "seed is 7, not 0 as in"),
        (["--splits", "train,val"], "", r"splits is \('train', 'val'\), not \('train',\) as in"),
        (["--hold-out", "B"], "", "hold_out is 'B', not '' as in"),
        ([], "backbone_rate: 1.0e-2", r"optimiser: backbone_rate is 0\.01, not 0\.02 as in"),
        ([], "network: deeplabv3-mobilenetv2", "model: network is 'deeplabv3-mobilenetv2', not 'tiny' as in"),
    ],
)
def test_a_run_goes_on_with_its_own_options_only(
    root: Path, begun: Path, flags: list[str], changed: str, told: str
) -> None:
    before = (begun / CHECKPOINT).read_bytes()
    given = arguments(root, begun, "--epochs", "2", "--resume", *flags)
    key, _, value = changed.partition(": ")
    if key:
        config = (root / "config.yaml").read_text()
        (root / "config.yaml").write_text(re.sub(rf"\b{key}: [^,}}]+", f"{key}: {value}", config))
    with pytest.raises(EngineError, match=f"--resume: {told} .*last.pt: give the options of that run, or"):
        train.run(given)
    assert (begun / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("part", ["network", "optimiser", "random"])
def test_a_run_does_not_go_on_from_a_foreign_state(root: Path, begun: Path, part: str) -> None:
    tree = torch.load(begun / CHECKPOINT, weights_only=True)
    torch.save(tree | {part: {"layer": torch.zeros(1)}}, begun / CHECKPOINT)
    with pytest.raises(EngineError, match=r"--resume: .* of another network") as caught:
        train.run(arguments(root, begun, "--epochs", "2", "--resume"))
    assert "\n" not in str(caught.value)


def test_an_old_run_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT).touch()
    with pytest.raises(EngineError, match="--resume"):
        train.run(arguments(root, tmp_path / "run", "--epochs", "1"))
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        train.run(arguments(root, tmp_path / "run", "--epochs", "1", "--resume"))


def test_a_cut_while_saving_leaves_the_old_checkpoint(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train.run(arguments(root, run, "--epochs", "1"))
    before = (run / CHECKPOINT).read_bytes()

    def save_half(_tree: object, stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    checkpoint = Checkpoint.load(run / CHECKPOINT)
    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(run / CHECKPOINT)
    assert (run / CHECKPOINT).read_bytes() == before
    assert {file.name for file in run.iterdir()} == {CHECKPOINT, "history.jsonl"}


def test_an_unknown_network_is_named(root: Path, tmp_path: Path) -> None:
    given = arguments(root, tmp_path / "run", "--epochs", "1")
    (root / "config.yaml").write_text("model: {network: deeplabv9}", encoding="utf-8")
    with pytest.raises(EngineError, match="model: no network 'deeplabv9'"):
        train.run(given)
    assert not (tmp_path / "run").exists()


def test_a_drive_can_be_held_out(root: Path, tmp_path: Path) -> None:
    options = train.resolve_options(arguments(root, tmp_path / "run", "--hold-out", "B", "--splits", "train,val"))
    data = train.load_data(root, options, CAMVID.names)
    assert [sample.name for sample in data.samples] == ["A_1", "A_2", "A_3", "A_1"]
    assert len(data.pictures) == 4
    np.testing.assert_array_equal(data.held_out[0][0], paint(0)[0])
    options = train.resolve_options(arguments(root, tmp_path / "run", "--hold-out", "C"))
    with pytest.raises(EngineError, match=r"no picture's name begins with 'C' \(--hold-out\)"):
        train.load_data(root, options, CAMVID.names)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("validation: nono", "has no split 'nono' (there are train, val)"),
        ("splits: [train, val]", "it is trained on val"),
    ],
)
def test_a_run_that_measures_nothing_says_so(
    config: str, reason: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = arguments(root, tmp_path / "run")
    (root / "config.yaml").write_text(f"{config}\nignore: 11", encoding="utf-8")
    assert len(train.load_data(root, train.resolve_options(given), CAMVID.names).held_out) == 0
    assert reason in caplog.text


def test_more_blocks_than_there_are_cannot_be_frozen(root: Path, tmp_path: Path) -> None:
    given = arguments(root, tmp_path / "run")
    (root / "config.yaml").write_text("model: {network: tiny, freeze: 18}", encoding="utf-8")
    with pytest.raises(EngineError, match="model: freeze 18: tiny has 17 blocks"):
        train.run(given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["voc-aug", "person-part", "cityscapes"])
def test_published_data_sets_are_trained_on(kind: str, root: Path, tmp_path: Path) -> None:
    tree = TREES[kind][1](tmp_path / "published")
    options = train.resolve_options(arguments(root, tmp_path / "run", "--dataset", kind, "--splits", tree.split))
    labels = open_dataset(tree.root, kind).labels
    assert labels is not None
    data = train.load_data(tree.root, replace(options, ignore=255), labels.names)
    for (_, found), truth in zip(data.pictures, tree.truth, strict=True):
        np.testing.assert_array_equal(found, truth)
    assert len(data.held_out) == (3 if kind == "voc-aug" else 0), "what is trained on is not measured"
    with pytest.raises(EngineError, match="but the model has 11"):
        train.load_data(tree.root, options, CAMVID.names)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "0"], "--epochs must be above 0"),
        (["--hours", "-1"], "--hours must be above 0"),
        (["--hours", "inf"], "command line: hours inf is out of range"),
        (["--seed", str(2**70)], "command line: seed .* is out of range"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--splits", ","], "names an empty split"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(flags: list[str], said: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = ["--config", "camvid", "--root", str(tmp_path), "--output", str(tmp_path / "out"), *flags]
    with pytest.raises(EngineError, match=said):
        train.resolve_options(parser.parse_args(words))
