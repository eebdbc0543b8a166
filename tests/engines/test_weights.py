"""Files of other programs: the network that they hold computes here what it computes there."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")
pytest.importorskip("google.protobuf", reason="the writer of Caffe models needs protobuf")

from torch import Tensor  # noqa: E402

from engines.base import ModelError  # noqa: E402
from engines.networks import NETWORKS, Conventions, DeepLab, Segmenter, build  # noqa: E402
from engines.weights import load_weights, open_weights  # noqa: E402
from tests.engines.peers import published  # noqa: E402
from tests.engines.peers.caffe import write_caffemodel  # noqa: E402
from tests.engines.peers.parts import Weights, twins  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = published.CLASSES
Peer = Callable[[Weights, Tensor], Any]


@dataclass(frozen=True)
class Case:
    """A layout: the network of another program, and how the same one is built here."""

    layout: str
    peer: Peer
    network: str
    output_stride: int
    changes: dict[str, Any] = field(default_factory=dict)
    corners: bool = False
    """Sizes are 8k + 1."""

    bgr: bool = False
    wrapper: str = ""
    ending: str = ".pth"
    pads: dict[str, int] = field(default_factory=dict)


DENSE_PLUS = {"width": 0.125, "decoder_layers": 1}
MOBILE = {"separable": False, "pooling_norm": True, "low_inner": False, "aspp_channels": 256, "decoder_channels": 256}
SEPARABLE = {
    "separable": True,
    "separable_norm": False,
    "decoder_layers": 1,
    "context_layers": 1,
    "rates": (12, 24, 36),
}
VGG = {"width": 0.125, "aspp_channels": 48}

CASES = {
    "caffe resnet": Case(
        "Caffe", published.caffe_resnet, "deeplabv2-resnet101-aspp", 8, {"width": 0.125}, corners=True, bgr=True,
        ending=".caffemodel", pads={f"fc1_voc12_c{i}": 6 * (i + 1) for i in range(4)},
    ),
    "caffe vgg largefov": Case(
        "Caffe", partial(published.caffe_vgg, rates=(12,)), "deeplabv2-vgg16-largefov", 8, VGG, corners=True, bgr=True,
        ending=".caffemodel",
    ),
    "caffe vgg aspp": Case(
        "Caffe", partial(published.caffe_vgg, rates=(2, 4, 8, 12)), "deeplabv2-vgg16-aspp-s", 8, VGG, corners=True,
        bgr=True, ending=".caffemodel", pads={"fc6_1": 2, "fc6_2": 4, "fc6_3": 8, "fc6_4": 12, "conv5_1": 2},
    ),
    "kazuto1011": Case("kazuto1011", published.kazuto, "deeplabv2-resnet101-aspp", 8, {"width": 0.125}, bgr=True),
    "isht7": Case("isht7", published.isht7, "deeplabv2-resnet101-aspp", 8, {"width": 0.125}, corners=True, bgr=True),
    "torchvision resnet50": Case(
        "torchvision", partial(published.torchvision_resnet, layers=published.RESNET50), "deeplabv3-resnet50", 8,
        {"width": 0.125, "auxiliary": True},
    ),
    "torchvision resnet101": Case(
        "torchvision", partial(published.torchvision_resnet, layers=published.RESNET101), "deeplabv3-resnet101", 8,
        {"width": 0.125, "auxiliary": True}, ending=".safetensors",
    ),
    "torchvision mobilenet v3": Case(
        "torchvision", published.torchvision_mobilenet, "deeplabv3-mobilenetv3-large", 16, {"auxiliary": True}
    ),
    "vainf v3 resnet": Case(
        "VainF", partial(published.vainf_resnet, plus=False), "deeplabv3-resnet50", 16, {"width": 0.125},
        wrapper="model_state",
    ),
    "vainf v3+ resnet": Case(
        "VainF", partial(published.vainf_resnet, plus=True), "deeplabv3plus-resnet50", 16, DENSE_PLUS,
        wrapper="model_state",
    ),
    "vainf v3 mobilenet": Case(
        "VainF", partial(published.vainf_mobilenet, plus=False), "deeplabv3-mobilenetv2", 16,
        {**MOBILE, "context_layers": 1}, wrapper="model_state",
    ),
    "vainf v3+ mobilenet": Case(
        "VainF", partial(published.vainf_mobilenet, plus=True), "deeplabv3plus-mobilenetv2", 16,
        {**MOBILE, "decoder_layers": 1}, wrapper="model_state",
    ),
    "jfzhang95 resnet": Case(
        "jfzhang95", partial(published.jfzhang_resnet, dropout=True), "deeplabv3plus-resnet101", 16, {"width": 0.125},
        corners=True, wrapper="state_dict",
    ),
    "jfzhang95 resnet, old": Case(
        "jfzhang95", partial(published.jfzhang_resnet, dropout=False), "deeplabv3plus-resnet101", 16,
        {"width": 0.125}, corners=True, wrapper="state_dict",
    ),
    "jfzhang95 mobilenet": Case(
        "jfzhang95", published.jfzhang_mobilenet, "deeplabv3plus-mobilenetv2", 16, MOBILE, corners=True,
        wrapper="state_dict",
    ),
    "smp v3": Case(
        "segmentation_models.pytorch", partial(published.smp_v3, old=False), "deeplabv3-resnet50", 8,
        {"width": 0.125}, ending=".safetensors",
    ),
    "smp v3, old": Case(
        "segmentation_models.pytorch", partial(published.smp_v3, old=True), "deeplabv3-resnet50", 8, {"width": 0.125}
    ),
    "smp v3+ resnet": Case(
        "segmentation_models.pytorch", partial(published.smp_v3plus, mobile=False), "deeplabv3plus-resnet101", 16,
        {"width": 0.125, **SEPARABLE},
    ),
    "smp v3+ mobilenet": Case(
        "segmentation_models.pytorch", partial(published.smp_v3plus, mobile=True), "deeplabv3plus-mobilenetv2", 16,
        {**MOBILE, **SEPARABLE, "encoder": "mobilenetv2-1280"},
    ),
}  # fmt: skip


def write(path: Path, case: Case, state: dict[str, Tensor]) -> Path:
    """A file as the other program writes it."""
    path = path / f"weights{case.ending}"
    if case.ending == ".caffemodel":
        resnet = "norm of conv1.weight" in state
        write_caffemodel(path, without_counters(state), case.pads, old=not resnet, scales=resnet)
    elif case.ending == ".safetensors":
        write_safetensors(path, state)
    else:
        tree: Any = dict(state)
        if case.wrapper:
            # As VainF and jfzhang95 keep them, with a score that is a number of numpy's.
            tree = {case.wrapper: tree, "best_score": np.float64(0.5), "optimizer_state": {"lr": 0.1}, "epoch": 3}
        torch.save(tree, path)
    return path


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """Length of the header, header, bytes: github.com/huggingface/safetensors."""
    header, blob = {}, b""
    for name, value in state.items():
        raw = value.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + blob)


def network_for(case: Case, path: Path) -> Segmenter:
    """As the documentation says: the conventions are asked of the file."""
    from dataclasses import replace

    spec = replace(NETWORKS[case.network], **case.changes)
    conventions = open_weights(path).conventions(spec)
    return build(case.network, CLASSES, case.output_stride, **case.changes, conventions=conventions).eval()


def there(case: Case, weights: Weights, image: Tensor) -> Tensor:
    result = case.peer(weights, image.flip(1) if case.bgr else image)
    return result[0] if isinstance(result, tuple) else result


def image_for(case: Case, seed: int) -> Tensor:
    """So long that the widest rate of the head meets more than padding, and low, to be quick."""
    rates = NETWORKS[case.network].rates if "rates" not in case.changes else case.changes["rates"]
    reference = 8 if "v2" in case.network else 16
    odd = 1 if case.corners else 0
    size = (64 + odd, (max(rates) + 2) * reference + odd)
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


SLOW = ("torchvision resnet101", "jfzhang95 resnet, old", "smp v3, old")
"""What another case nearly does, too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_the_network_computes_what_it_computes_there(name: str, tmp_path: Path) -> None:
    case, weights = CASES[name], Weights()
    image = image_for(case, 1)
    with torch.inference_mode():
        expected = there(case, weights, image)
    state = {key: value.clone() for key, value in weights.state.items()}
    path = write(tmp_path, case, state)
    network = network_for(case, path)
    loaded = load_weights(network, path)
    assert (loaded.layout, loaded.part) == (case.layout, "network")
    assert different(network, image, expected) < 1e-4
    if network.spec.auxiliary:
        assert isinstance(network, DeepLab)
        with torch.inference_mode():
            found, wanted = network.both(image)[1], case.peer(weights, image)[1]
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4
    # Two tensors of one shape change places: that must be seen.
    one, other = twins(state)
    state[one], state[other] = state[other], state[one]
    load_weights(network, write(tmp_path, case, state))
    assert different(network, image, expected) > 1e-3


def different(network: Segmenter, image: Tensor, expected: Tensor) -> float:
    """Largest difference of the scores, in parts of the largest score."""
    with torch.inference_mode():
        found = network(image)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- what does not fit ----------------------------------------------------------------------------


@pytest.fixture
def largefov(tmp_path: Path) -> tuple[Case, dict[str, Tensor]]:
    case, weights = CASES["kazuto1011"], Weights()
    with torch.inference_mode():
        there(case, weights, image_for(case, 1)[:1, :, :33, :33])
    return case, weights.state


def test_everything_that_does_not_fit_is_named_and_nothing_is_changed(
    largefov: tuple[Case, dict[str, Tensor]], tmp_path: Path
) -> None:
    case, state = largefov
    network = network_for(case, write(tmp_path, case, state))
    load_weights(network, write(tmp_path, case, state))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    damaged = {name: value + 1 for name, value in state.items()}
    del damaged["base.layer3.block2.reduce.conv.weight"], damaged["base.layer1.conv1.bn.running_var"]
    damaged["base.layer9.conv.weight"] = torch.zeros(3)
    damaged["base.aspp.c1.weight"] = torch.zeros(2, 256, 3, 3)
    with pytest.raises(ModelError) as caught:
        load_weights(network, write(tmp_path, case, damaged))
    message = str(caught.value)
    assert "\n" not in message
    assert "weights.pth (kazuto1011) does not fit the network: 2 missing: " in message
    assert "base.layer1.conv1.bn.running_var" in message
    assert "base.layer3.block2.reduce.conv.weight" in message
    assert "1 of another shape: base.aspp.c1.weight (2×256×3×3, not 21×256×3×3)" in message
    assert message.endswith("1 too much: base.layer9.conv.weight")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_network_is_refused(largefov: tuple[Case, dict[str, Tensor]], tmp_path: Path) -> None:
    case, state = largefov
    path = write(tmp_path, case, state)
    conventions = Conventions(align_corners=False)
    with pytest.raises(ModelError, match=r"6 too much: base\.aspp\.c1\.weight, "):
        load_weights(build("deeplabv2-resnet101-largefov", CLASSES, width=0.125, conventions=conventions), path)
    with pytest.raises(ModelError, match=r"encoder\.blocks\.0\.expand|unknown to this layout"):
        load_weights(build("deeplabv3-mobilenetv2", CLASSES), path)


def test_weights_want_the_conventions_that_they_were_trained_with(
    largefov: tuple[Case, dict[str, Tensor]], tmp_path: Path
) -> None:
    case, state = largefov
    path = write(tmp_path, case, state)
    with pytest.raises(ModelError, match=r"trained with align_corners False instead of True: build the network with"):
        load_weights(build("deeplabv2-resnet101-aspp", CLASSES, width=0.125), path)


def test_rates_of_another_network_are_noticed(tmp_path: Path) -> None:
    """ASPP-S and ASPP-L have the same weights: Caffe's file tells its paddings."""
    case, weights = CASES["caffe vgg aspp"], Weights()
    with torch.inference_mode():
        there(case, weights, image_for(case, 1)[:1, :, :33, :33])
    path = write(tmp_path, case, weights.state)
    with pytest.raises(ModelError, match=r"fc6_1 is padded by 2, not 6, fc6_2 is padded by 4, not 12"):
        load_weights(build("deeplabv2-vgg16-aspp-l", CLASSES, **VGG), path)
    load_weights(build("deeplabv2-vgg16-aspp-l", CLASSES, **VGG), path, part="encoder")


def test_the_encoder_alone_takes_other_classes(largefov: tuple[Case, dict[str, Tensor]], tmp_path: Path) -> None:
    case, state = largefov
    path = write(tmp_path, case, state)
    network = build("deeplabv2-resnet101-aspp", 4, width=0.125).eval()
    head = network.classifier().weight.clone()
    loaded = load_weights(network, path, part="encoder")
    assert loaded.part == "encoder"
    assert {name for name in loaded.ignored if ".aspp." in name} == {
        f"base.aspp.c{i}.{part}" for i in range(4) for part in ("weight", "bias")
    }
    assert torch.equal(network.classifier().weight, head)
    whole = build("deeplabv2-resnet101-aspp", CLASSES, width=0.125, conventions=Conventions()).eval()
    load_weights(whole, path)
    image = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        torch.testing.assert_close(network.encoder(image).high, whole.encoder(image).high)


def test_a_training_of_version_2_begins_with_imagenets_vgg(tmp_path: Path) -> None:
    """In Caffe's first generation of layers, with ImageNet's own fc6 to fc8, which fit nothing here."""
    weights = Weights()
    with torch.inference_mode():
        published.caffe_vgg(weights, torch.zeros(1, 3, 65, 65), rates=(12,))
    state = {name: each for name, each in weights.state.items() if name.startswith("conv")}
    assert len(state) == 26
    ours = {f"fc{number}.{part}": torch.rand(10, 7) for number in (6, 7, 8) for part in ("weight", "bias")}
    write_caffemodel(tmp_path / "imagenet.caffemodel", state | ours, {}, old=True)
    network = build("deeplabv2-vgg16-largefov", CLASSES, **VGG)
    loaded = load_weights(network, tmp_path / "imagenet.caffemodel", part="encoder")
    assert {name.rpartition(".")[0] for name in loaded.ignored} == {"fc6", "fc7", "fc8"}
    assert torch.equal(network.encoder.get_submodule("stem").weight.flip(1), state["conv1_1.weight"])
