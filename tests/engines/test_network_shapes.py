"""The tables of docs/networks.md, the published numbers of parameters, and what atrous convolution costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")

from engines.networks import NETWORKS, Conventions, DeepLab, Segmenter, build  # noqa: E402
from engines.networks.encoder import OUTPUT_STRIDES  # noqa: E402
from tests.engines.networks_like import parameters, receptive_field, settle  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

DOCUMENT = Path(__file__).parents[2] / "docs" / "networks.md"
SIDE = 513


def shapes(network: Segmenter, height: int, width: int) -> list[torch.Size]:
    """Of low and high features and of scores; a network on "meta" multiplies nothing for it."""
    found: list[torch.Size] = []
    hook = network.encoder.register_forward_hook(lambda _module, _given, made: found.extend(x.shape for x in made[:2]))
    found.append(network(torch.empty(1, 3, height, width, device="meta")).shape)
    hook.remove()
    return found


def row(name: str) -> str:
    """The line of a network in the document."""
    with torch.device("meta"):
        network = build(name, 21).eval()
    # Narrow networks see as far as wide ones.
    encoder, head = receptive_field(build(name, 21, width=0.125).eval())
    sides = " | ".join(f"{shape[1]}×{shape[2]}²" for shape in shapes(network, SIDE, SIDE))
    return f"| {name} | {parameters(network):,} | {network.output_stride} | {sides} | {encoder} | {head} |"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_document_is_true(name: str) -> None:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")]
    assert lines == [row(name)]


@dataclass(frozen=True)
class Published:
    name: str
    parameters: int
    auxiliary: bool = False


PUBLISHED = [
    # Chen et al., arXiv 1606.00915: LargeFOV has 20.5 M.
    Published("deeplabv2-vgg16-largefov", 20_505_429),
    # torchvision's metadata of its weights, auxiliary head included.
    Published("deeplabv3-resnet50", 42_004_074, auxiliary=True),
    Published("deeplabv3-resnet101", 60_996_202, auxiliary=True),
    Published("deeplabv3-mobilenetv3-large", 11_029_328, auxiliary=True),
]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: p.name)
def test_parameters_are_those_published(published: Published) -> None:
    with torch.device("meta"):
        network = build(published.name, 21, 8, auxiliary=published.auxiliary)
    assert parameters(network) == published.parameters


EACH_ENCODER = [
    "deeplabv2-vgg16-aspp-l",
    "deeplabv2-resnet101-aspp",
    "deeplabv3-resnet50",
    "deeplabv3-mobilenetv3-large",
    "deeplabv3plus-mobilenetv2",
    "deeplabv3plus-efficientnet-lite0",
]


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("name", EACH_ENCODER)
def test_every_network_takes_every_output_stride(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        network = build(name, 21, output_stride).eval()
        assert network.output_stride == output_stride
        assert parameters(network) == parameters(build(name, 21))
    _, high, scores = shapes(network, 129, 193)
    assert high[2:] == (128 // output_stride + 1, 192 // output_stride + 1)
    stride = network.score_stride
    assert stride == (4 if NETWORKS[name].decoder else output_stride)
    assert scores == (1, 21, 128 // stride + 1, 192 // stride + 1)


ENCODERS = [
    ("deeplabv3-mobilenetv2", {}),
    ("deeplabv3-resnet50", {}),
    ("deeplabv2-resnet101-aspp", {}),
    ("deeplabv3-resnet50", {"conventions": Conventions(grid=(1, 2, 4))}),
]


@pytest.mark.parametrize(("name", "changes"), ENCODERS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_atrous_costs_no_parameter_and_equals_the_dense_evaluation(
    name: str, changes: dict[str, object], output_stride: int
) -> None:
    """Stride 1 and a rate for each stride: between the old outputs, new ones (arXiv 1606.00915, figures 2 and 3)."""
    strided = settle(build(name, 3, 32, width=0.125, **changes)).encoder.double()
    dense = build(name, 3, output_stride, width=0.125, **changes).encoder.double().eval()
    assert parameters(strided) == parameters(dense)
    dense.load_state_dict(strided.state_dict())
    image = torch.randn(1, 3, 97, 129, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = strided(image).high, dense(image).high
    step = 32 // output_stride
    assert found.shape[2] > 2 * expected.shape[2] - 2
    assert expected.std() > 1e-2
    torch.testing.assert_close(found[:, :, ::step, ::step], expected, rtol=1e-5, atol=1e-5)


def test_rates_that_begin_at_once_are_another_network() -> None:
    """The plan of several published networks: not exact where the stride is in the 3×3 convolution."""
    exact = settle(build("deeplabv3-resnet50", 3, 8, width=0.125))
    other = build("deeplabv3-resnet50", 3, 8, width=0.125, conventions=Conventions(plan="at once")).eval()
    other.load_state_dict(exact.state_dict())
    rates = [[block.middle.conv.dilation[0] for block in network.encoder.blocks][6:9] for network in (exact, other)]
    assert rates == [[1, 1, 2], [1, 2, 2]]
    image = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        assert not torch.allclose(exact(image), other(image), atol=1e-3)


def test_multi_scale_input_is_the_largest_of_the_scores() -> None:
    """By hand, as Caffe does it: corners kept, sizes 97 → 73 and 49."""
    plain = settle(build("deeplabv2-resnet101-aspp", 4, width=0.125))
    fused = build("deeplabv2-resnet101-aspp", 4, width=0.125, scales=(1.0, 0.75, 0.5)).eval()
    fused.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 97, 65)
    with torch.inference_mode():
        expected = plain(image)
        for height, width in ((73, 49), (49, 33)):
            smaller = torch.nn.functional.interpolate(image, (height, width), mode="bilinear", align_corners=True)
            scores = torch.nn.functional.interpolate(
                plain(smaller), expected.shape[2:], mode="bilinear", align_corners=True
            )
            expected = torch.maximum(expected, scores)
        torch.testing.assert_close(fused(image), expected)
        assert not torch.allclose(plain(image), expected, atol=1e-2)
        assert [x.shape[2] for x in fused.pyramid(image)] == [13, 10, 7]


@pytest.mark.parametrize("name", ["deeplabv3plus-mobilenetv2", "deeplabv3-resnet50", "deeplabv2-vgg16-largefov"])
def test_any_network_takes_several_scales(name: str) -> None:
    network = settle(build(name, 4, width=0.125, scales=(1.0, 0.5)))
    with torch.inference_mode():
        image = torch.randn(1, 3, 65, 97)
        assert (network(image) >= network.single(image)).all()


def test_corners_move_the_scores() -> None:
    """align_corners both ways, in the decoder and told to whoever upsamples."""
    image = torch.randn(1, 3, 65, 65)
    networks = [
        settle(build("deeplabv3plus-resnet50", 4, width=0.125, conventions=Conventions(align_corners=corners)))
        for corners in (False, True)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    with torch.inference_mode():
        half, corner = (network(image) for network in networks)
    assert half.shape == corner.shape
    assert not torch.allclose(half, corner, atol=1e-3)
    assert [network.align_corners for network in networks] == [False, True]


@pytest.mark.parametrize(("name", "pooled"), [("deeplabv2-resnet101-aspp", 17), ("deeplabv3-resnet101", 16)])
def test_the_pool_of_caffe_rounds_up(name: str, pooled: int) -> None:
    with torch.device("meta"):
        encoder = build(name, 2, 8).eval().encoder
        assert (
            encoder.get_submodule("pool")(encoder.get_submodule("stem")(torch.empty(1, 3, 64, 64))).shape[2] == pooled
        )


@pytest.mark.parametrize(("side", "scores"), [(321, 41), (513, 65)])
def test_sizes_of_the_paper(side: int, scores: int) -> None:
    with torch.device("meta"):
        for name in ("deeplabv2-vgg16-aspp-l", "deeplabv2-resnet101-aspp"):
            assert build(name, 2).eval()(torch.empty(1, 3, side, side)).shape == (1, 2, scores, scores)


def test_caffe_has_its_stride_in_the_first_convolution() -> None:
    with torch.device("meta"):
        caffe, other = (build(name, 2, 8).encoder for name in ("deeplabv2-resnet101-aspp", "deeplabv3-resnet101"))
    strides = [(block.reduce.conv.stride[0], block.middle.conv.stride[0]) for block in caffe.blocks]
    assert [index for index, (first, _) in enumerate(strides) if first == 2] == [3]
    assert all(second == 1 for _, second in strides)
    assert other.blocks[3].middle.conv.stride[0] == 2
    rates = [block.middle.conv.dilation[0] for block in caffe.blocks]
    assert rates == [1] * 7 + [2] * 23 + [4] * 3


def test_the_auxiliary_head_is_for_training_alone() -> None:
    network = settle(build("deeplabv3-mobilenetv3-large", 4, width=0.25, auxiliary=True))
    assert isinstance(network, DeepLab)
    image = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        scores, auxiliary = network.both(image)
        torch.testing.assert_close(network(image), scores)
    assert (scores.shape[2], auxiliary.shape[2]) == (5, 9)
    with pytest.raises(ValueError, match="auxiliary=True"):
        build("deeplabv3-mobilenetv2", 4, width=0.25).both(image)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no features for an auxiliary head"):
        build("deeplabv3-mobilenetv2", 4, auxiliary=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (0.5, 1.0)}, "scales must be positive and begin with 1"),
        ({"version": 4}, "no DeepLab version 4"),
        ({"conventions": Conventions(grid=(1, 2, 4))}, "encoder mobilenetv2 has no grid"),
    ],
)
def test_impossible_networks_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build("deeplabv3-mobilenetv2", 2, **changes)


def test_an_unknown_plan_is_named() -> None:
    with pytest.raises(ValueError, match="no rate plan 'soon'; there are exact, at once, late"):
        Conventions(plan="soon")  # type: ignore[arg-type]


def test_padded_blocks_train_as_they_run() -> None:
    """The fast gradient of depthwise convolutions is for those that pad by themselves."""
    conventions = Conventions(block_padding=True, stem_padding=False)
    network = build("deeplabv3-mobilenetv2", 2, 8, width=0.25, conventions=conventions)
    image = torch.randn(1, 3, 64, 64)
    assert network.train().encoder(image).high.shape == network.eval().encoder(image).high.shape
