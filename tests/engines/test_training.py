"""Training: options, data, augmentation, losses, and that a run learns and can be taken up again."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")

from engines.base import EngineError, ModelError  # noqa: E402
from engines.networks import NETWORKS, NetworkSpec, build  # noqa: E402
from engines.networks.trained import read_trained  # noqa: E402
from engines.training import train  # noqa: E402
from engines.training.augment import augment, draw_view  # noqa: E402
from engines.training.average import MovingAverage  # noqa: E402
from engines.training.batches import draw_order, drive_weights  # noqa: E402
from engines.training.checkpoint import Checkpoint  # noqa: E402
from engines.training.dataset import IGNORE, Sample, find_samples, read_sample  # noqa: E402
from engines.training.initial import calibrate, load_encoder, named_layers  # noqa: E402
from engines.training.losses import class_weights, lovasz_softmax  # noqa: E402
from engines.training.options import AugmentOptions, OptionError, load_options, parse_options  # noqa: E402
from engines.training.schedule import Progress, poly_rate  # noqa: E402
from engines.training.trainer import CHECKPOINT  # noqa: E402

PLAIN = AugmentOptions(crop=64, scale=(1.0, 1.0), flip=0.0)

CONFIG = """
labels: camvid
ignore: 11
validate_every: 100
precision: fp32
model: {network: tiny}
augment: {crop: 64, scale: [1.0, 1.0], brightness: 0.1}
optimiser: {batch: 2, backbone_rate: 2.0e-2, head_rate: 2.0e-2, warmup: 2, average: 0.8}
loss: {lovasz: 0.5}
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny maps gain nothing by threads, and lose much where other tests run beside."""
    torch.set_num_threads(1)


def paint(index: int, height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A picture of sky over road with a car, whose place depends on ``index``."""
    image = np.zeros((height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.uint8)
    horizon = 20 + 5 * index
    image[:horizon], labels[:horizon] = (120, 160, 240), 0
    image[horizon:], labels[horizon:] = (90, 90, 90), 3
    image[40:56, 10 * index : 10 * index + 24], labels[40:56, 10 * index : 10 * index + 24] = (200, 30, 30), 8
    labels[-2:] = 11
    return image, labels


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four labelled pictures of two drives for training, one for validation, and a tiny network."""
    monkeypatch.setitem(
        NETWORKS, "tiny", NetworkSpec("mobilenetv2", decoder=True, width=0.25, aspp_channels=16, decoder_channels=16)
    )
    for split, indices in (("train", range(4)), ("val", [1])):
        for kind in ("images", "labels"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for index in indices:
            image, labels = paint(index)
            name = f"{'A' if index else 'B'}_{index}.png"
            Image.fromarray(image).save(tmp_path / "data" / split / "images" / name)
            Image.fromarray(labels).save(tmp_path / "data" / split / "labels" / name)
    return tmp_path / "data"


def arguments(root: Path, output: Path, *more: str) -> argparse.Namespace:
    config = root / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = [
        "--config",
        str(config),
        "--root",
        str(root),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--threads",
        "1",
        *more,
    ]
    return parser.parse_args(given)


def test_four_pictures_can_be_learnt(root: Path, tmp_path: Path) -> None:
    assert train.run(arguments(root, tmp_path / "run", "--epochs", "30")) == 0
    checkpoint = Checkpoint.load(tmp_path / "run" / CHECKPOINT)
    facts = checkpoint.trained.facts
    assert checkpoint.epoch == 30
    assert facts["pictures"] == 4
    assert facts["train_miou"] > 0.7
    assert facts["validation_miou"] > 0.7
    network = checkpoint.trained.restore()
    assert not network.training
    assert read_trained(tmp_path / "run" / CHECKPOINT).labels.names[3] == "road"


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


# Options


def test_the_shipped_config_is_valid() -> None:
    options = load_options("camvid")
    assert options.labels == "camvid"
    assert options.augment.crop % options.model.output_stride == 0
    assert parse_options(dataclasses.asdict(options), "again") == options


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epoch": 3}, "it: unknown key 'epoch'"),
        ({"model": {"colour": 1}}, "it: model: unknown key 'colour'"),
        ({"augment": {"scale": [1]}}, "it: augment: scale: expected 2 values, not 1"),
        ({"augment": {"scale": "wide"}}, "it: augment: scale: expected a list"),
        ({"optimiser": {"batch": 8.5}}, "it: optimiser: batch: expected int, not 8.5"),
        ({"epochs": True}, "it: epochs: expected int, not True"),
        ([], "it: expected keys and values"),
        ({"precision": "int4"}, "it: precision must be bf16 or fp32"),
        ({"augment": {"scale": [2, 1]}}, "it: augment: scale must be"),
        ({"augment": {"crop": 350}}, "it: augment: crop must be a multiple"),
        ({"optimiser": {"batch": 0}}, "it: epochs, validate_every and optimiser: batch"),
    ],
)
def test_wrong_options_are_named(tree: object, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(tree, "it")
    assert str(caught.value).startswith(message)


def test_unknown_configs_name_the_known_ones() -> None:
    with pytest.raises(OptionError, match="there are: camvid"):
        load_options("cityscapes")


# Data


def test_samples_are_paired_and_mapped(root: Path) -> None:
    samples = find_samples(root, "train")
    assert [sample.name for sample in samples] == ["A_1", "A_2", "A_3", "B_0"]
    assert samples[0].drive == "A"
    image, labels = read_sample(samples[0], 11, [11])
    expected_image, expected_labels = paint(1)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(labels, np.where(expected_labels == 11, IGNORE, expected_labels))


def test_bad_data_is_named(root: Path) -> None:
    with pytest.raises(EngineError, match="test/images: no such directory"):
        find_samples(root, "test")
    sample = find_samples(root, "train")[0]
    with pytest.raises(EngineError, match="label 8 of 8 classes"):
        read_sample(sample, 8, [11])
    Image.new("L", (10, 10)).save(sample.labels)
    with pytest.raises(EngineError, match="10×10 pixels, but its picture has 80×64"):
        read_sample(sample, 11)
    sample.image.write_bytes(b"no picture")
    with pytest.raises(EngineError, match="not a readable picture"):
        read_sample(sample, 11)
    sample.labels.unlink()
    with pytest.raises(EngineError, match="are missing"):
        find_samples(root, "train")


def test_a_drive_can_be_held_out(root: Path, tmp_path: Path) -> None:
    options = train.resolve_options(arguments(root, tmp_path / "run", "--hold-out", "B", "--splits", "train,val"))
    data = train.load_data(root, options, 11)
    assert [sample.name for sample in data.samples] == ["A_1", "A_2", "A_3", "A_1"]
    assert len(data.pictures) == 4
    np.testing.assert_array_equal(data.held_out[0][0], paint(0)[0])
    options = train.resolve_options(arguments(root, tmp_path / "run", "--hold-out", "C"))
    with pytest.raises(EngineError, match="--hold-out C leaves an empty side"):
        train.load_data(root, options, 11)


def test_drives_are_balanced() -> None:
    samples = [Sample(Path(name), Path(name)) for name in ["A_1.png"] * 9 + ["B_1.png"]]
    assert drive_weights(samples, 1.0) == pytest.approx(np.full(10, 0.1))
    weights = drive_weights(samples, 0.5)
    assert weights[-1] == pytest.approx(0.25)
    for seed in range(5):
        order = draw_order(weights, 24, np.random.default_rng(seed))
        assert len(order) == 24
        counts = np.bincount(order, minlength=10)
        assert np.all(np.abs(counts - weights * 24) < 1)


# Augmentation


def test_a_plain_view_is_the_picture() -> None:
    image, labels = paint(2, 64, 64)
    crop, target = augment(image, labels, PLAIN, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(target, labels)


def test_labels_follow_the_picture() -> None:
    """A picture whose colour tells its label still does after turning, zooming and cropping."""
    image, labels = paint(1)
    options = AugmentOptions(crop=96, scale=(0.7, 2.0), rotate=20.0)
    colours = {0: (120, 160, 240), 3: (90, 90, 90), 8: (200, 30, 30), IGNORE: (127, 127, 127)}
    labels[labels == 11] = 3
    random = np.random.default_rng(0)
    for _ in range(8):
        crop, target = augment(image, labels, options, 1, random)
        agree = sum(
            (target == label) & np.all(np.abs(crop.astype(int) - colour) <= 1, -1) for label, colour in colours.items()
        )
        assert agree.mean() > 0.9


def test_coarse_labels_lie_between_their_pixels() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    _, fine = augment(np.zeros((64, 64, 3), np.uint8), ramp, PLAIN, 1, np.random.default_rng(0))
    _, coarse = augment(np.zeros((64, 64, 3), np.uint8), ramp, PLAIN, 4, np.random.default_rng(0))
    assert fine.shape == (64, 64)
    assert coarse.shape == (16, 16)
    assert np.all(np.abs(coarse[0] - (4.0 * np.arange(16) + 1.5)) <= 0.5)


def test_small_pictures_are_surrounded_by_nothing() -> None:
    image, labels = paint(0, 64, 64)
    options = dataclasses.replace(PLAIN, crop=128)
    _, target = augment(image, labels, options, 1, np.random.default_rng(3))
    assert (target == IGNORE).sum() == 128 * 128 - 64 * 64
    view = draw_view(64, 64, options, np.random.default_rng(3))
    assert view[0, 0] == pytest.approx(1.0)


def test_light_changes_the_picture_within_bytes() -> None:
    image, labels = paint(0, 64, 64)
    options = dataclasses.replace(
        PLAIN, brightness=0.5, contrast=0.5, gamma=0.5, saturation=0.5, hue=0.1, channels=0.2, blur=1.0, noise=1.0
    )
    views = [augment(image, labels, options, 1, np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert views[0].dtype == np.uint8
    assert not np.array_equal(views[0], views[2])


# Losses, schedule, average


def test_lovasz_is_the_jaccard_loss_of_a_sure_answer() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [2, 2, 255, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [2, 0, 0, 1]]])
    scores = 100.0 * torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).float()
    # Class 0: 1 of 3; class 1: 3 of 4; class 2: 1 of 2; class 3 does not occur.
    expected = 1 - np.mean([1 / 3, 3 / 4, 1 / 2])
    assert float(lovasz_softmax(scores, truth)) == pytest.approx(expected, abs=1e-5)
    nothing = torch.full_like(truth, 255)
    assert float(lovasz_softmax(scores, nothing)) == 0


def test_rare_classes_weigh_more() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [255] * 50, np.uint8)
    weights = class_weights([labels], 2, 1.1)
    assert float(weights[1] / weights[0]) == pytest.approx(math.log(1.1 + 0.9) / math.log(1.1 + 0.1))
    assert float(0.9 * weights[0] + 0.1 * weights[1]) == pytest.approx(1.0)
    assert torch.equal(class_weights([labels], 2, 0.0), torch.ones(2))


def test_the_rate_rises_and_falls() -> None:
    assert poly_rate(0.0, 0, 10, 0.9) == pytest.approx(0.1)
    assert poly_rate(0.5, 100, 10, 0.9) == pytest.approx(0.5**0.9)
    assert poly_rate(1.0, 100, 10, 0.9) == 0


def test_progress_goes_by_steps_or_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Progress(10, step=5).fraction() == 0.5
    monkeypatch.setattr("time.monotonic", lambda: 30.0)
    assert Progress(10, seconds=100, step=9, spent=20, started=0).fraction() == 0.5
    assert Progress(10, seconds=10, started=0).fraction() == 1.0


def test_the_average_follows() -> None:
    network = torch.nn.BatchNorm2d(3)
    average = MovingAverage(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.num_batches_tracked.fill_(7)
    average.update(network, 1000)
    assert torch.equal(average.network.weight, torch.full((3,), 2.0))
    assert int(average.network.num_batches_tracked) == 7


# Starting weights


def folded(path: Path) -> Path:
    """A file of random starting weights."""
    encoder = build("deeplabv3-mobilenetv2", 2).encoder
    tensors = {}
    for name, layer in named_layers(encoder):
        tensors[f"{name}.weight"] = layer.conv.weight.detach().numpy()
        tensors[f"{name}.bias"] = np.linspace(-0.1, 0.1, layer.conv.out_channels, dtype=np.float32)
    np.savez(path, **tensors)
    return path


def test_calibration_changes_statistics_and_no_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("deeplabv3-mobilenetv2", 2).double().eval()
    load_encoder(network, folded(tmp_path / "w.npz"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    layer = network.encoder.stem
    with torch.inference_mode():
        before = network.encoder(images).high
        plain = torch.nn.functional.conv2d(images, layer.conv.weight, torch.linspace(-0.1, 0.1, 32).double(), 2, 1)
        torch.testing.assert_close(layer(images), plain.clamp(0, 6), rtol=1e-6, atol=1e-6)
    calibrate(network, images)
    with torch.inference_mode():
        torch.testing.assert_close(network.encoder(images).high, before, rtol=1e-6, atol=1e-9)
        assert layer.norm.running_mean.abs().max() > 1e-4
        # Batch statistics are now the running ones, so training mode computes the same.
        torch.testing.assert_close(layer.train()(images), plain.clamp(0, 6), rtol=1e-6, atol=1e-6)


def test_wrong_starting_weights_are_named(tmp_path: Path) -> None:
    network = build("deeplabv3-mobilenetv2", 2)
    with pytest.raises(ModelError, match="no such file"):
        load_encoder(network, tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ModelError, match="not an NPZ file"):
        load_encoder(network, tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ModelError, match="no weights of a fitting shape for Conv"):
        load_encoder(network, tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "0"], "--epochs must be above 0"),
        (["--hours", "-1"], "--hours must be above 0"),
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
