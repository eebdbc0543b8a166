"""The parts of training: options, losses, schedule, average, starting weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")

from engines.networks import build  # noqa: E402
from engines.settings import SettingsError  # noqa: E402
from engines.training.average import MovingAverage  # noqa: E402
from engines.training.initial import calibrate  # noqa: E402
from engines.training.losses import class_weights, lovasz_softmax  # noqa: E402
from engines.training.options import RANGES, TrainingOptions, load_options, parse_options  # noqa: E402
from engines.training.schedule import Progress, poly_rate  # noqa: E402


def test_the_shipped_config_is_valid() -> None:
    options = load_options("camvid")
    assert options.labels == "camvid"
    assert options.augment.crop % options.model.output_stride == 0
    assert parse_options(dataclasses.asdict(options), "again") == options


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epoch": 3}, "it: epoch: unknown key; did you mean 'epochs'?"),
        ({"model": {"colour": 1}}, "it: model.colour: unknown key; known: network"),
        ({"augment": {"scale": [1]}}, "it: augment.scale: expected 2 values, got 1"),
        ({"augment": {"scale": "wide"}}, "it: augment.scale: expected a list"),
        ({"optimiser": {"batch": 8.5}}, "it: optimiser.batch: expected a whole number, got 8.5"),
        ({"epochs": True}, "it: epochs: expected a whole number, got True"),
        ([], "it: expected a mapping, got []"),
        ({"precision": "int4"}, "it: precision must be bf16 or fp32"),
        ({"augment": {"scale": [2, 1]}}, "it: augment: scale must be"),
        ({"augment": {"crop": 350}}, "it: augment: crop must be a multiple"),
        ({"augment": {"scale": [0.0001, 1]}}, "it: augment: scale must be two numbers from 0.01"),
        ({"model": {"output_stride": 12}}, "it: model: output_stride must be 8, 16 or 32"),
        ({"loss": {"log_weight": 0.5}}, "it: loss: log_weight must be 0 or above 1"),
        ({"optimiser": {"batch": 0}}, "it: optimiser: batch 0 is out of range: 1 to"),
        ({"optimiser": {"backbone_rate": -1}}, "it: optimiser: backbone_rate -1 is out of range: 0 to 10"),
        ({"optimiser": {"average": 2}}, "it: optimiser: average 2 is out of range"),
        ({"augment": {"rotate": float("nan")}}, "it: augment: rotate nan is out of range: 0 to 180"),
        ({"augment": {"flip": 3}}, "it: augment: flip 3 is out of range: 0 to 1"),
        ({"model": {"size": -5}}, "it: model: size -5 is out of range"),
        ({"ignore": 999}, "it: ignore 999 is out of range: 0 to 255"),
        ({"seed": -1}, "it: seed -1 is out of range"),
        ({"hours": float("inf")}, "it: hours inf is out of range"),
    ],
)
def test_wrong_options_are_named(tree: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_options(tree, "it")
    assert str(caught.value).startswith(message)


def test_every_number_of_the_options_has_a_range() -> None:
    tree = dataclasses.asdict(TrainingOptions())
    flat = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    flat |= {
        f"{key}: {name}": value for key, part in tree.items() if isinstance(part, dict) for name, value in part.items()
    }
    numbers = {key for key, value in flat.items() if type(value) in (int, float)}
    assert numbers - set(RANGES) == {"model: output_stride", "loss: log_weight"}
    assert set(RANGES) <= numbers


def test_unknown_configs_name_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="'cityscapes' is neither a file nor a preset; presets: camvid"):
        load_options("cityscapes")


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


def test_calibration_changes_statistics_and_no_value() -> None:
    torch.manual_seed(0)
    network = build("deeplabv3-mobilenetv2", 2).double().eval()
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        # As folded weights are loaded: the identity, but for a shift.
        torch.nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)
        with torch.no_grad():
            norm.bias.copy_(torch.linspace(-0.1, 0.1, len(norm.bias)))
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
