"""Networks: shapes, sizes, and that atrous rates are what strides were."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")

from engines.networks import DeepLab, NetworkSpec, assemble, build  # noqa: E402
from engines.networks.efficientnet import EfficientNetLite  # noqa: E402
from engines.networks.encoder import trade_strides  # noqa: E402
from engines.networks.layers import MAX_DEALT_RATE, DepthwiseConv  # noqa: E402
from engines.networks.mobilenet import MobileNetV2, scaled  # noqa: E402
from engines.networks.normalise import ByteNetwork, normalise  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny maps gain nothing by threads, and lose much where other tests run beside."""
    torch.set_num_threads(1)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_encoder_has_the_size_of_the_paper() -> None:
    # 3.47 M of MobileNetV2 (table 4) less the last 1×1 convolution with its norm and the classifier.
    assert parameters(MobileNetV2()) == 3_504_872 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)


@pytest.mark.parametrize(("width", "depth", "published"), [(1.0, 1.0, 4_652_008), (1.1, 1.2, 6_092_072)])
def test_efficientnet_lite_has_the_published_size(width: float, depth: float, published: int) -> None:
    encoder = EfficientNetLite(width=width, depth=depth)
    last = encoder.high_channels * 1280 + 2 * 1280
    assert parameters(encoder) == published - last - (1280 * 1000 + 1000)


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(32, 1.0, 32), (32, 0.5, 16), (24, 0.35, 8), (16, 0.75, 16)]
)
def test_channels_are_multiples_of_eight(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


def test_strides_beyond_the_output_stride_become_rates() -> None:
    assert trade_strides([2, 2, 2, 2, 1, 2, 1], 8) == [(2, 1), (2, 1), (2, 1), (1, 1), (1, 2), (1, 2), (1, 4)]
    assert trade_strides([2, 1, 2, 2], 16, start=2) == [(2, 1), (1, 1), (2, 1), (2, 1)]
    with pytest.raises(ValueError, match="output stride 12"):
        trade_strides([2], 12)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "name", ["deeplabv3-mobilenetv2", "deeplabv3plus-mobilenetv2", "deeplabv3plus-efficientnet-lite2"]
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 50)])
def test_scores_cover_the_picture(name: str, output_stride: int, height: int, width: int) -> None:
    network = build(name, 7, output_stride, aspp_channels=32, decoder_channels=32).eval()
    with torch.inference_mode():
        low, high, _ = network.encoder(torch.zeros(2, 3, height, width))
        scores = network(torch.zeros(2, 3, height, width))
    stride = 4 if "plus" in name else output_stride
    assert network.score_stride == stride
    assert low.shape == (2, network.encoder.low_channels, -(-height // 4), -(-width // 4))
    assert high.shape == (2, network.encoder.high_channels, -(-height // output_stride), -(-width // output_stride))
    assert scores.shape == (2, 7, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("rate", [1, 2, 4, MAX_DEALT_RATE + 2])
def test_dealing_out_changes_no_value_and_no_gradient(rate: int) -> None:
    torch.manual_seed(rate)
    layer = DepthwiseConv(6, 6, 3, padding=rate, dilation=rate, groups=6, bias=False)
    features = torch.randn(2, 6, 13, 10, requires_grad=True)
    target = torch.randn(2, 6, 13, 10)
    results = []
    for training in (True, False):
        layer.train(training)
        features.grad = layer.weight.grad = None
        out = layer(features)
        (out * target).sum().backward()
        assert features.grad is not None
        assert layer.weight.grad is not None
        results.append((out.detach(), features.grad.clone(), layer.weight.grad.clone()))
    for dealt, plain in zip(*results, strict=True):
        torch.testing.assert_close(dealt, plain, rtol=1e-5, atol=1e-5)


def test_rates_double_at_output_stride_eight() -> None:
    def rates(network: DeepLab) -> list[int]:
        return [branch.depthwise.conv.dilation[0] for branch in network.aspp.atrous]

    assert rates(build("deeplabv3plus-mobilenetv2", 2, 16)) == [6, 12, 18]
    assert rates(build("deeplabv3plus-mobilenetv2", 2, 8)) == [12, 24, 36]


def test_a_network_is_told_by_its_spec() -> None:
    spec = NetworkSpec("mobilenetv2", decoder=False, width=0.5, separable=False, aspp_channels=16)
    network = assemble(spec, 3).eval()
    assert network.encoder.high_channels == 160
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [("deeplabv9", {}, "no network 'deeplabv9'"), ("deeplabv3-mobilenetv2", {"depth": 3}, "no option depth"),
     ("deeplabv3-mobilenetv2", {"encoder": "vgg99"}, "no encoder 'vgg99'")],
)  # fmt: skip
def test_unknown_names_are_errors(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, 2, **changes)


def test_bytes_are_normalised_inside() -> None:
    network = build("deeplabv3-mobilenetv2", 2, aspp_channels=16).eval()
    image = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    given = normalise(image, network.encoder)
    assert given.shape == (1, 3, 32, 48)
    assert given[0, 1, 2, 3] == pytest.approx((float(image[0, 2, 3, 1]) - 127.5) / 127.5)
    torch.testing.assert_close(ByteNetwork(network)(image), network(given))
